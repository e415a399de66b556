"""The layout that the search finds: beside exhaustive search on small nodes, and the same everywhere on large ones."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from placement_models import FIVE, LLAMA_8B, MINILM, PAPER, QWEN_32B, QWEN_72B, need, space

from gra_hpc.models.facts import ModelFacts, stated_facts
from gra_hpc.placement.hosts import Host, Space, divide_kv, ideal, place, prices, reach, share_time, value
from gra_hpc.placement.performance import constants_for
from gra_hpc.placement.search import MOST_WORK, Layout, Search, best_layout
from gra_hpc.placement.workload import ModelLoad, RoleLoad


def model(billions: float) -> ModelFacts:
    return stated_facts(parameters=billions * 1e9, layers=32, heads=32, kv_heads=8, intermediate=14336)


def every_set_of_engines(at: Space) -> Iterator[list]:
    """All ways to give each model one engine or more on aligned devices, none on a device twice, if memory suffices."""

    def extend(i: int, engines: list) -> Iterator[list]:
        if i == len(at.needs):
            yield engines
            return
        need = at.needs[i]
        spots = [(need, t, s) for t in at.splits(need) for s in range(0, at.devices - t + 1, t)]
        for size in range(1, len(spots) + 1):
            for chosen in itertools.combinations(spots, size):
                on = [d for _, t, s in chosen for d in range(s, s + t)]
                if len(set(on)) == len(on) and divide_kv(at, at.devices, [*engines, *chosen]):
                    yield from extend(i + 1, [*engines, *chosen])

    yield from extend(0, [])


def exhaustive(at: Space) -> tuple[float, tuple[Host, ...]]:
    """The best set of engines of all. Time is not divided where weak duality says that it cannot help."""
    best: tuple[float, tuple[Host, ...]] = (0.0, ())
    known = None
    for engines in every_set_of_engines(at):
        hosts = place(at, engines)
        if known is None or reach(at, hosts, known) > best[0]:
            trial = share_time(at, hosts)
            if trial[0] > best[0]:
                best, known = trial, prices(at, trial[1])
    return best


@pytest.mark.parametrize(
    ("devices", "memory_gb", "billions"),
    [
        (1, 80, (8, 8, 8)),
        (1, 80, (8, 14)),
        (2, 32, (8, 14)),
        (2, 32, (3, 3, 8, 8)),
        (2, 40, (8, 8, 8)),
        (2, 40, (8, 14, 3)),
        (2, 40, (3, 3, 8, 8)),
        (2, 80, (8, 8, 8)),
        (2, 80, (8, 14, 3)),
        (3, 40, (8, 14, 3)),
        (3, 80, (8, 8)),
        (4, 24, (8, 8)),
        (4, 24, (8, 8, 8)),
        (4, 24, (8, 14, 3)),
        (4, 24, (8, 8, 8, 8)),
        (4, 32, (8, 8, 8, 8, 8)),
        (4, 40, (8, 30)),
        (4, 40, (14, 14, 14)),
        (4, 40, (14, 8, 30)),
        (4, 80, (30, 3)),
        (4, 80, (72,)),
        pytest.param(4, 40, (8, 8, 8, 8, 8), marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
)
def test_equals_exhaustive_search_over_all_sets_of_engines(
    devices: int, memory_gb: float, billions: tuple[float, ...]
) -> None:
    at = space({chr(ord("a") + k): model(b) for k, b in enumerate(billions)}, devices, memory_gb)
    layout = best_layout(at)
    best, hosts = exhaustive(at)
    assert layout is not None
    assert layout.samples_per_s == pytest.approx(best, rel=2e-3), [(h.need.name, h.devices) for h in hosts]
    assert layout.samples_per_s <= layout.ideal * 1.0001


@pytest.mark.parametrize(
    ("devices", "memory_gb", "billions"), [(2, 24, (8, 8, 8)), (2, 32, (8, 14, 3)), (4, 24, (8, 30))]
)
def test_finds_nothing_exactly_where_nothing_fits(devices: int, memory_gb: float, billions: tuple[float, ...]) -> None:
    at = space({chr(ord("a") + k): model(b) for k, b in enumerate(billions)}, devices, memory_gb)
    assert best_layout(at) is None
    assert next(every_set_of_engines(at), None) is None


def test_equals_exhaustive_search_with_unequal_loads() -> None:
    """One model does nearly all the work, as with fixed roles."""
    base = space({"a": model(8), "b": model(8), "c": model(3)}, 2, 80)
    roles = base.needs[0].load.roles
    more = {k: RoleLoad(6 * r.calls, 6 * r.prompt_tokens, 6 * r.completion_tokens) for k, r in roles.items()}
    heavy = ModelLoad(more)
    needs = (dataclasses.replace(base.needs[0], load=heavy), *base.needs[1:])
    at = Space(needs, base.devices, base.memory, base.constants)
    layout = best_layout(at)
    assert layout is not None
    assert layout.samples_per_s == pytest.approx(exhaustive(at)[0], rel=2e-3)


def simple(at: Space) -> Iterator[list]:
    """One engine of each model on a device of its own, and every model on all devices."""
    yield [(n, 1, d) for d, n in enumerate(at.needs)]
    for t in (1, 2, 4, 8):
        engines = [(n, t, d) for n in at.needs for d in range(0, at.devices, t)]
        if place(at, engines):
            yield engines


@pytest.fixture(scope="module")
def eight_gpus() -> Space:
    return space(FIVE, 8, 80)


@pytest.fixture(scope="module")
def chosen(eight_gpus: Space) -> Layout:
    layout = best_layout(eight_gpus)
    assert layout is not None
    return layout


def with_window(at: Space, window: int) -> Space:
    return Space(at.needs, at.devices, at.memory, dataclasses.replace(at.constants, window=window))


@pytest.mark.parametrize("window", [64, 256, *(pytest.param(w, marks=pytest.mark.slow) for w in (1024, 4096))])
def test_five_8b_models_on_eight_gpus_are_far_above_one_per_gpu_at_every_window(eight_gpus: Space, window: int) -> None:
    """Simulated node: figures are the performance model's."""
    at = with_window(eight_gpus, window)
    layout = best_layout(at)
    assert layout is not None
    one_each = value(at, [(n, 1, d) for d, n in enumerate(at.needs)])[0]
    assert layout.samples_per_s >= 1.15 * one_each  # few calls fill no more engines
    if window >= 256:
        assert layout.samples_per_s >= 1.25 * one_each
        assert layout.samples_per_s >= 0.9 * layout.ideal  # no layout whatever does more than the ideal
    assert sum(h.calls for h in layout.hosts) <= at.constants.calls_in_flight * 1.001


def test_a_window_decides_which_layout_is_best(eight_gpus: Space) -> None:
    """Engines that are right for full batches starve in a small window."""
    narrow, wide = with_window(eight_gpus, 32), with_window(eight_gpus, 4096)
    layouts = [best_layout(at) for at in (narrow, wide)]
    few, many = ([(h.need, h.tensor_parallel, h.first) for h in y.hosts] for y in layouts if y)
    assert value(narrow, few)[0] > 1.1 * value(narrow, many)[0]
    assert value(wide, many)[0] > 1.1 * value(wide, few)[0]


@pytest.mark.parametrize("sharing_loss", [0.0, 0.3, *(pytest.param(x, marks=pytest.mark.slow) for x in (0.1, 0.2))])
def test_the_gain_over_one_model_per_gpu_does_not_hang_on_the_cost_of_sharing(sharing_loss: float) -> None:
    constants = dataclasses.replace(constants_for("a100", 80), sharing_loss=sharing_loss)
    at = space(FIVE, 8, 80, constants)
    layout = best_layout(at)
    assert layout is not None
    assert layout.samples_per_s >= 1.25 * value(at, [(n, 1, d) for d, n in enumerate(at.needs)])[0]


def test_ideal_bounds_every_layout(eight_gpus: Space) -> None:
    _, most = ideal(eight_gpus)
    for engines in simple(eight_gpus):
        assert value(eight_gpus, engines)[0] <= most * (1 + 1e-9)


def test_prices_bound_all_neighbours() -> None:
    """Weak duality, on which pruning rests: no division of time beats the bound at any prices."""
    at = space({"a": model(8), "b": model(14), "c": model(3)}, 2, 80)
    trials = [share_time(at, place(at, e)) for e in itertools.islice(every_set_of_engines(at), 60)]
    known = [prices(at, hosts) for _, hosts in trials[::6]]
    for (rate, hosts), at_prices in itertools.product(trials, known):
        assert reach(at, hosts, at_prices) >= rate * (1 - 1e-6)
    for (rate, hosts), own in zip(trials[::6], known, strict=True):
        assert reach(at, hosts, own) == pytest.approx(rate, rel=1e-4)


def test_no_simple_layout_is_better(eight_gpus: Space, chosen: Layout) -> None:
    for engines in simple(eight_gpus):
        assert value(eight_gpus, engines)[0] <= chosen.samples_per_s * (1 + 1e-9)


@pytest.mark.parametrize(
    ("facts", "devices", "memory_gb"),
    [
        ({**PAPER, "qwen32": QWEN_32B}, 8, 80),
        ({"qwen72": QWEN_72B, **{k: v for k, v in PAPER.items() if k != "tulu"}}, 8, 80),
        ({**PAPER, "minilm": MINILM}, 8, 80),
        (FIVE, 6, 40),
        ({f"m{k}": LLAMA_8B for k in range(10)}, 8, 80),  # more than it is made for
    ],
)
def test_a_search_looks_at_a_bounded_number_of_layouts(
    facts: dict[str, ModelFacts], devices: int, memory_gb: float
) -> None:
    """Its time is counted in layouts, on every machine: how fast one looks at them is the benchmark's matter."""
    search = Search(space({n: f for n, f in facts.items() if f is not MINILM}, devices, memory_gb))
    assert search.run(1.0)
    assert 0 < search.work <= 1.2 * MOST_WORK  # the last step is taken to its end
    layout = best_layout(space(facts, devices, memory_gb))
    assert layout is not None
    assert layout.samples_per_s > 0.6 * layout.ideal


def test_the_search_values_layouts_as_the_yardstick_does(eight_gpus: Space) -> None:
    """It works out quickly what `place` and `share_time` say."""
    for window in (64, 256, 4096):
        at = with_window(eight_gpus, window)
        search = Search(at)
        search.now = next(search.starts())
        for _ in range(30):
            search.now = search.kicked()
            rate = value(at, [(at.needs[m], t, s) for m, t, s in search.now])[0]
            kept = rate * (1 - at.constants.engine_cost * len(search.now))
            assert search.score(search.now) == pytest.approx(kept, rel=1e-4)
            assert search.score(search.now, kept * 1.001) == 0 < search.score(search.now, kept * 0.999)


def test_refilled_devices_leave_the_other_engines_and_fit(eight_gpus: Space) -> None:
    search = Search(eight_gpus)
    search.run(0.02)
    found = 0
    for _ in range(20):
        kept, blocks = search.ruined()
        free = {d for w, s in blocks for d in range(s, s + w)}
        assert free.isdisjoint(d for _, t, s in kept for d in range(s, s + t))
        for posts in search.refills(kept, blocks):
            found += 1
            assert set(kept) <= set(posts) and {m for m, _, _ in posts} == set(range(5))
            assert value(eight_gpus, [(eight_gpus.needs[m], t, s) for m, t, s in posts])[0] > 0
    assert found > 10


def test_climbing_never_descends(eight_gpus: Space) -> None:
    search = Search(eight_gpus)
    for posts in search.starts():
        assert search.score(search.climb(posts)) >= search.score(posts)


def test_room_is_found_where_large_models_first_leaves_none() -> None:
    """Models of 8, 7, 6, 5 and 4 on two devices of 15: on the emptiest each time, the last finds 13 taken on both."""
    sizes = (8, 7, 6, 5, 4)
    usual = space({"x": model(1)}, 2, 80)
    beside = usual.fit(usual.needs[0], 1).size - usual.needs[0].facts.weight_bytes
    facts = {f"m{k}": dataclasses.replace(model(1), weight_bytes=int(4e9 * s - beside)) for k, s in enumerate(sizes)}
    needs = tuple(need(name, f, tensor_parallel=1) for name, f in facts.items())
    layout = best_layout(Space(needs, 2, 15.1 * 4e9, usual.constants))
    assert layout is not None
    held = [sum(sizes[int(h.need.name[1:])] for h in layout.hosts if h.first == d) for d in range(2)]
    assert held == [15, 15]


def test_every_process_finds_the_same_layout() -> None:
    code = (
        "from placement_models import PAPER, MINILM, space\n"
        "from gra_hpc.placement.search import best_layout\n"
        "layout = best_layout(space({**PAPER, 'minilm': MINILM}, 6, 80))\n"
        "print([(h.need.name, h.devices, h.kv_bytes) for h in layout.hosts], layout.samples_per_s)\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent)])},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1


def test_the_layout_is_sound(eight_gpus: Space, chosen: Layout) -> None:
    """Memory and time add up on every device."""
    for d in range(8):
        here = [h for h in chosen.hosts if d in h.devices]
        assert sum(h.need.fixed_bytes(h.tensor_parallel, eight_gpus.constants) + h.kv_bytes for h in here) <= (
            eight_gpus.memory * (1 + 1e-9)
        )
        assert sum(h.time for h in here) <= eight_gpus.usable(len(here)) + 1e-6
    for n in eight_gpus.needs:
        done = sum(h.samples_per_s * h.time for h in chosen.hosts if h.need.name == n.name)
        assert done >= chosen.samples_per_s * (1 - 1e-6)

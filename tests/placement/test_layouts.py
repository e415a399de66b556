"""The chosen layout against exhaustive search: over every set of engines on small nodes, over blocks on eight GPUs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import pytest
from placement_models import FIVE, LLAMA_8B, MINILM, PAPER, QWEN_32B, QWEN_72B, space

from gra_hpc.models.facts import ModelFacts, stated_facts
from gra_hpc.placement.blocks import divisions, few, solve_blocks, try_blocks
from gra_hpc.placement.deadline import Deadline
from gra_hpc.placement.hosts import Host, Space, divide_kv, place, prices, reach, share_time
from gra_hpc.placement.layouts import Layout, best_layout
from gra_hpc.placement.neighbours import improve, starts, value
from gra_hpc.placement.patterns import Filter, Pattern, even
from gra_hpc.placement.performance import constants_for
from gra_hpc.placement.workload import ModelLoad, RoleLoad

SECONDS = 1.2
"""CPU time that placement gives a search."""


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
    layout = best_layout(at, Deadline(2))
    best, hosts = exhaustive(at)
    assert layout is not None
    assert layout.samples_per_s == pytest.approx(best, rel=2e-3), [(h.need.name, h.devices) for h in hosts]
    assert layout.bound <= layout.ideal * 1.0001


@pytest.mark.parametrize(
    ("devices", "memory_gb", "billions"), [(2, 24, (8, 8, 8)), (2, 32, (8, 14, 3)), (4, 24, (8, 30))]
)
def test_finds_nothing_exactly_where_nothing_fits(devices: int, memory_gb: float, billions: tuple[float, ...]) -> None:
    at = space({chr(ord("a") + k): model(b) for k, b in enumerate(billions)}, devices, memory_gb)
    assert best_layout(at, Deadline(30)) is None
    assert next(every_set_of_engines(at), None) is None


def test_equals_exhaustive_search_with_unequal_loads() -> None:
    """One model does nearly all the work, as with fixed roles."""
    base = space({"a": model(8), "b": model(8), "c": model(3)}, 2, 80)
    roles = base.needs[0].load.roles
    more = {k: RoleLoad(6 * r.calls, 6 * r.prompt_tokens, 6 * r.completion_tokens) for k, r in roles.items()}
    heavy = ModelLoad(more)
    needs = (dataclasses.replace(base.needs[0], load=heavy), *base.needs[1:])
    at = Space(needs, base.devices, base.memory, base.constants)
    layout = best_layout(at, Deadline(30))
    assert layout is not None
    assert layout.samples_per_s == pytest.approx(exhaustive(at)[0], rel=2e-3)


def falling(total: int, parts: int, most: int) -> Iterator[tuple[int, ...]]:
    """Numbers that add up to a total, none larger than the one before."""
    if parts == 0:
        if total == 0:
            yield ()
        return
    for first in range(min(total, most), -1, -1):
        for rest in falling(total - first, parts - 1, first):
            yield (first, *rest)


def every_set_of_blocks(at: Space, floor: float) -> Iterator[list]:
    """All ways to fill the node with even blocks of like models that may do more than a floor.

    Left out is what differs by the models' names only (of models alone on a device, the first has most), and what the
    prices of the ideal rule out: blocks whose losses add up to more than the ideal exceeds the floor.
    """
    keep = Filter(at, floor)
    blocks = []
    for width in (1, 2, 4, 8):
        for p in even(at, width, keep):
            if p.width > 1 or len(p.slots) > 1:
                fits = [at.fit(s.need, s.tensor_parallel) for s in p.slots]
                blocks.append((p, keep.loss(fits) * width))

    def fill(first: int, free: int, left: float) -> Iterator[list[Pattern]]:
        if free == 0:
            yield []
        for i in range(first, len(blocks)):
            p, loss = blocks[i]
            if p.width <= free and loss <= left:
                for rest in fill(i, free - p.width, left - loss):
                    yield [p, *rest]

    for alone in range(at.devices, -1, -1):
        for shared in fill(0, at.devices - alone, keep.allowance):
            for counts in falling(alone, len(at.needs), alone):
                engines = [(n, 1, 0) for n, k in zip(at.needs, counts, strict=True) for _ in range(k)]
                engines = [(n, t, d) for d, (n, t, _) in enumerate(engines)]
                first = alone
                for p in shared:
                    engines += [(s.need, s.tensor_parallel, first + o) for s in p.slots for o in s.offsets]
                    first += p.width
                if {n.name for n, _, _ in engines} == {n.name for n in at.needs}:
                    yield engines


@pytest.fixture(scope="module")
def eight_gpus() -> Space:
    return space(FIVE, 8, 80)


@pytest.fixture(scope="module")
def chosen(eight_gpus: Space) -> Layout:
    layout = best_layout(eight_gpus, Deadline(SECONDS))
    assert layout is not None
    return layout


def with_window(at: Space, window: int) -> Space:
    return Space(at.needs, at.devices, at.memory, dataclasses.replace(at.constants, window=window))


@pytest.mark.parametrize("window", [64, 256, *(pytest.param(w, marks=pytest.mark.slow) for w in (1024, 4096))])
def test_five_8b_models_on_eight_gpus_are_far_above_one_per_gpu_at_every_window(eight_gpus: Space, window: int) -> None:
    """Simulated node: figures are the performance model's."""
    at = with_window(eight_gpus, window)
    layout = best_layout(at, Deadline(SECONDS))
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
    layouts = [best_layout(at, Deadline(SECONDS)) for at in (narrow, wide)]
    few, many = ([(h.need, h.tensor_parallel, h.first) for h in y.hosts] for y in layouts if y)
    assert value(narrow, few)[0] > 1.1 * value(narrow, many)[0]
    assert value(wide, many)[0] > 1.1 * value(wide, few)[0]


@pytest.mark.slow
def test_five_8b_models_on_eight_gpus_equal_exhaustive_search_over_blocks(eight_gpus: Space) -> None:
    """With the time for a proof; what is found in the usual time is within 1% of it."""
    usual = best_layout(eight_gpus, Deadline(SECONDS))
    best = best_layout(eight_gpus, Deadline(120))
    assert best is not None and best.proven
    assert usual is not None and usual.samples_per_s >= 0.99 * best.samples_per_s
    assert usual.bound >= best.samples_per_s * 0.999
    known, trials = prices(eight_gpus, best.hosts), 0
    for engines in every_set_of_blocks(eight_gpus, best.samples_per_s):
        trials += 1
        hosts = place(eight_gpus, engines)
        if reach(eight_gpus, hosts, known) > best.samples_per_s:
            assert share_time(eight_gpus, hosts)[0] <= best.samples_per_s * 1.002
    assert trials > 1000


@pytest.mark.parametrize("sharing_loss", [0.0, 0.3, *(pytest.param(x, marks=pytest.mark.slow) for x in (0.1, 0.2))])
def test_the_gain_over_one_model_per_gpu_does_not_hang_on_the_cost_of_sharing(sharing_loss: float) -> None:
    constants = dataclasses.replace(constants_for("a100", 80), sharing_loss=sharing_loss)
    at = space(FIVE, 8, 80, constants)
    layout = best_layout(at, Deadline(1.5))
    assert layout is not None
    assert layout.samples_per_s >= 1.25 * value(at, [(n, 1, d) for d, n in enumerate(at.needs)])[0]


@pytest.mark.parametrize(("devices", "memory_gb"), [(2, 40), (4, 40), (4, 24)])
def test_trying_all_blocks_gives_what_the_program_gives(devices: int, memory_gb: float) -> None:
    at = space({"a": model(8), "b": model(3), "c": model(14)}, devices, memory_gb)
    columns = [p for width in (1, 2, 4) if width <= devices for p in even(at, width, Filter(at, 0.0))]
    for division in divisions(at, columns):
        use = list(range(len(division.columns)))
        assert few(division, use, 10**6) and not few(division, use, 1)
        _, tried, shown = try_blocks(at, division, use, 0.0, Deadline(60))
        _, solved, bound = solve_blocks(at, division, use, 0.0, 60.0)
        assert tried == pytest.approx(solved, rel=2e-3)
        assert shown == tried <= bound * 1.001 <= division.bound * 1.002


def test_ideal_bounds_every_layout(eight_gpus: Space) -> None:
    ideal = Filter(eight_gpus, 0.0).ideal
    for engines in starts(eight_gpus):
        assert value(eight_gpus, engines)[0] <= ideal * (1 + 1e-9)


def test_prices_bound_all_neighbours() -> None:
    """Weak duality, on which pruning rests: no division of time beats the bound at any prices."""
    at = space({"a": model(8), "b": model(14), "c": model(3)}, 2, 80)
    trials = [share_time(at, place(at, e)) for e in itertools.islice(every_set_of_engines(at), 60)]
    known = [prices(at, hosts) for _, hosts in trials[::6]]
    for (rate, hosts), at_prices in itertools.product(trials, known):
        assert reach(at, hosts, at_prices) >= rate * (1 - 1e-6)
    for (rate, hosts), own in zip(trials[::6], known, strict=True):
        assert reach(at, hosts, own) == pytest.approx(rate, rel=1e-4)


def test_climbing_never_descends(eight_gpus: Space) -> None:
    for engines in starts(eight_gpus):
        before = value(eight_gpus, engines)[0]
        after = improve(eight_gpus, engines, Deadline(1))[0]
        assert after >= before * (1 - 20 * eight_gpus.constants.engine_cost)


@pytest.mark.parametrize(
    ("facts", "devices", "memory_gb"),
    [
        (FIVE, 8, 80),
        (PAPER, 8, 80),
        ({**PAPER, "minilm": MINILM}, 8, 80),
        ({**PAPER, "qwen32": QWEN_32B}, 8, 80),
        ({"qwen72": QWEN_72B, **{k: v for k, v in PAPER.items() if k != "tulu"}}, 8, 80),
        (FIVE, 4, 40),
        (FIVE, 6, 40),
        ({f"m{k}": LLAMA_8B for k in range(10)}, 8, 80),  # more than it is made for
    ],
)
def test_stays_within_its_time(facts: dict[str, ModelFacts], devices: int, memory_gb: float) -> None:
    """CPU time: on an idle machine the same as seconds."""
    deadline = Deadline(SECONDS)
    layout = best_layout(space(facts, devices, memory_gb), deadline)
    assert layout is not None
    assert deadline.spent < 2.0
    assert layout.samples_per_s > 0.6 * layout.ideal


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

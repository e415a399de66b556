"""The simulators: exhaustive search on small nodes, a cluster whose time balances, real shards in simulated time."""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gra_hpc.placement.hosts import Host, Space, place, prices, share_time
from gra_hpc.placement.placement import NodeSpec, Solution
from tools.simulated import simulate_cluster as cluster
from tools.simulated import simulate_node as node
from tools.simulated import simulated_workers as workers
from tools.simulated import simulation

CONFIG = simulation.committee(256)
STEADY = workers.WorkerModel(rate=20.0, fixed=50.0, each=5.0, spread=(1.0,), interruption=10.0)
CALM = cluster.Cluster(nodes=10, start_s=100.0, start_spread=0.0, stragglers=0.0, preempted_per_hour=0.0)


@pytest.fixture(scope="module")
def eight() -> Solution:
    return simulation.solved(CONFIG, NodeSpec("gpu", 8, 80, device_type="a100"), simulation.measured_rates(CONFIG))


def floor_of(solution: Solution) -> tuple[Host, ...]:
    return tuple(h for h in solution.rota.turns[0].engines if isinstance(h, Host))


def space_of(solution: Solution) -> Space:
    m = solution.model
    return Space(tuple(m.needs), m.devices, m.memory, m.constants)


def test_a_node_is_cut_in_all_ways() -> None:
    assert sorted(node.divisions(4, 4)) == [(1, 1, 1, 1), (2, 1, 1), (2, 2), (4,)]
    assert len(list(node.divisions(8, 8))) == 10


def test_like_models_are_arranged_once() -> None:
    one = {(1, 1): 1.0, (1, 2): 0.5}
    three = list(node.seatings(((1, 1),) * 3, 2, one, 0.0))
    assert sorted(sorted(Counter(m for (m,) in sets).values()) for sets in three) == [[1, 2]]
    pairs = list(node.seatings(((1, 2), (1, 2), (1, 1)), 3, one, 0.0))
    assert all(len(set(block)) == len(block) for sets in pairs for block in sets)
    assert all({m for block in sets for m in block} == {0, 1, 2} for sets in pairs)
    seats = [sorted((sum(m in b for b in s[:2]), m in s[2]) for m in range(3)) for s in pairs]
    assert len(seats) == len({str(s) for s in seats}) == 3
    # What leaves a model with too little is left out.
    assert list(node.seatings(((1, 1),) * 3, 2, one, 1.5)) == []


@pytest.mark.parametrize("window", [32, 256, 4096])
def test_no_set_of_blocks_does_more_than_its_bound(eight: Solution, window: int) -> None:
    at = space_of(eight)
    at = replace(at, constants=replace(at.constants, window=window), devices=3, _fits={})
    known = place(at, [(n, 1, k % 3) for k, n in enumerate(at.needs[:3])])
    small = replace(at, needs=at.needs[:3], _fits={})
    call = prices(small, known).call
    for bound, blocks in node.profiles(small, call):
        for sets in node.seatings(blocks, 3, dict.fromkeys(blocks, 1.0), 0.0):
            engines, first = [], 0
            for (width, _), models in zip(blocks, sets, strict=True):
                engines += [(small.needs[m], width, first) for m in models]
                first += width
            assert share_time(small, place(small, engines))[0] <= bound * (1 + 1e-9)


def test_the_chosen_placement_is_as_good_as_exhaustive_search_and_far_above_one_model_per_gpu(eight: Solution) -> None:
    best, compared = node.exhaustive(space_of(eight), floor_of(eight), 10)
    assert compared > 300
    assert len({f.blocks for f in best}) == len({f.name for f in best}) == 10
    assert [f.samples_per_s for f in best] == sorted((f.samples_per_s for f in best), reverse=True)
    assert eight.rota.samples_per_s >= 0.99 * best[0].samples_per_s
    assert eight.rota.samples_per_s >= 1.25 * node.layouts(eight)[node.ALONE].samples_per_s


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_chosen_placement_is_as_good_in_simulated_time_as_the_best_by_exhaustive_search() -> None:
    """Outside the model that chose it: the flow, the window and the routing are the real ones."""
    words = ["--samples", "1500", "--window", "256", "--best", "10"]
    chosen, *others = node.compare(node.parser().parse_args(words))["layouts"]
    alone = next(r for r in others if r["layout"] == node.ALONE)
    assert chosen["steady"] >= 0.95 * max(r["steady"] for r in others)
    assert chosen["steady"] >= 1.25 * alone["steady"]
    # A slice so short is decided by its longest answers: like layouts, with their models exchanged, are 20% apart.
    assert chosen["slice"] >= 0.85 * statistics.median(r["slice"] for r in others)
    assert chosen["slice"] > alone["slice"]


def test_exhaustive_search_finds_a_better_layout_where_there_is_one(eight: Solution) -> None:
    others = node.layouts(eight)
    poor = others["one model per GPU, replicas on the others"].turns[0].engines
    hosts = tuple(h for h in poor if isinstance(h, Host))
    small = replace(space_of(eight), devices=5)
    best, _ = node.exhaustive(small, hosts[:5], 2)
    assert best[0].samples_per_s > 1.0
    assert {h.need.name for h in best[0].hosts} == set(CONFIG.models)


def test_a_simulated_slice_is_as_fast_as_its_layout_allows(eight: Solution) -> None:
    piece = simulation.Slice.of(CONFIG, 150)
    chosen = simulation.through(piece, eight.rota)
    assert chosen.samples == 150
    assert chosen.samples / chosen.seconds < eight.rota.ideal
    assert chosen == simulation.through(piece, eight.rota)  # nothing in it is left to chance
    slow = simulation.through(piece, eight.rota, speed=0.5)
    assert slow.seconds == pytest.approx(2 * chosen.seconds, rel=0.1)


def test_steady_rate_leaves_out_the_tail() -> None:
    ended = [(i + 1.0, 50 * (i + 1)) for i in range(80)]
    ended += [(200.0 + 10 * i, 4000 + 50 * i) for i in range(1, 21)]
    assert simulation.steady_rate(ended, 20) == pytest.approx(1.0)
    assert simulation.steady_rate(ended[:2], 20) == 0.0


def test_a_cluster_s_time_balances() -> None:
    busy = replace(CALM, stragglers=0.2, preempted_per_hour=20.0, start_spread=0.3)
    for size in (100, 1000, 5000):
        r = cluster.simulate(50_000, size, busy, STEADY, ideal_rate=22.0)
        assert sum(asdict(r.ledger).values()) == pytest.approx(r.nodes * r.makespan)
        assert r.shards == 50_000 // size
        assert 0 < r.efficiency <= r.charged_efficiency < 1
        assert r.interrupted > 0


def test_a_calm_cluster_takes_what_its_workers_take() -> None:
    """Engines start once a worker, and its window drains once, however many shards it takes."""
    for size in (1000, 250):
        r = cluster.simulate(20_000, size, CALM, STEADY, ideal_rate=20.0)
        mine = 2000 // size
        assert r.makespan == pytest.approx(100 + 50 + mine * (5 + size / 20), rel=0.1)  # nodes differ by 2%
        assert (r.ledger.interruptions, r.interrupted, r.started) == (0.0, 0, 10)
        assert r.ledger.starts == pytest.approx(10 * 100)
        assert r.ledger.tails == pytest.approx(10 * (50 + 5 * mine))


def test_slow_nodes_take_fewer_shards() -> None:
    slow = replace(CALM, stragglers=0.5, straggler_speed=0.25)
    for size in (50, 2000):
        r = cluster.simulate(20_000, size, slow, STEADY, ideal_rate=20.0)
        assert (r.makespan < 1.25 * r.ledger.used / r.nodes) == (size == 50)


def test_a_worker_at_its_time_limit_gives_its_shard_back_and_comes_again() -> None:
    short = replace(CALM, nodes=1, limit_s=600.0)
    r = cluster.simulate(20_000, 20_000, short, STEADY, ideal_rate=20.0)
    assert (r.interrupted, r.started) == (2, 3)
    assert r.makespan > 1050 + 3 * 100 + 2 * short.requeue_s


def test_best_size_and_width() -> None:
    results = cluster.sweep(1_000_000, CALM, STEADY, 20.0, (100, 1000, 20_000), (10, 1000))
    assert cluster.best_size(results, 10).size == 20_000
    assert cluster.best_size(results, 1000).size == 1000  # larger shards would leave most nodes without one
    assert cluster.best_width(results).nodes == 10


def test_fitting_gives_back_what_was_measured() -> None:
    def measured(size: int, count: int, seconds: tuple[float, ...], *stops: tuple[float, int]) -> workers.Measured:
        ends = ("stopped",) * (len(seconds) - 1) + ("published",)
        return workers.Measured(workers.Experiment(size, count, stops), seconds, ends, 9 * size, 1.0, 0)

    found = [measured(n, k, (40 + 3 * k + n * k / 16,)) for n, k in ((250, 1), (1000, 1), (1000, 4), (250, 8))]
    found.append(measured(1000, 1, (33.0, 80.0), (30.0, signal.SIGTERM)))
    found.append(measured(1000, 1, (105.5,), (300.0, signal.SIGTERM)))  # through before
    model = workers.WorkerModel.fitted(found)
    assert (model.rate, model.fixed, model.each) == (pytest.approx(16), pytest.approx(40), pytest.approx(3))
    assert model.interruption == pytest.approx(7.5)
    assert model.spread == (pytest.approx(1.0),) * 4


def test_a_real_worker_in_simulated_time_is_interrupted_and_goes_on() -> None:
    policy = asyncio.get_event_loop_policy()
    asked = workers.Experiment(30, 2, ((15.0, signal.SIGTERM), (8.0, signal.SIGUSR2)))
    m = workers.real_worker((asked, 64, 1.0))
    assert m.ends == ("stopped", "drained", "published")
    assert 15.0 <= m.seconds[0] <= 15.0 + 3.1  # DRAIN_ON_TERM_S
    assert m.replayed > 0
    assert m.calls > 60 * 4
    assert asyncio.get_event_loop_policy() is policy


def test_a_site_s_calibration_sets_the_pace(tmp_path: Path) -> None:
    file = tmp_path / "site.json"
    file.write_text(json.dumps({"performance": {"speed": {"a": 0.5, "b": 2.0, "c": 0.8}, "start_s": 90}}))
    pace, start = simulation.pace_of(file)
    assert (pace, start) == (pytest.approx(0.8 ** (1 / 3)), 90)
    assert simulation.pace_of(None) == (1.0, None)


def test_what_was_measured_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "measured.json"
    asked = workers.Experiment(9, 2, ((1.5, 15),), 3)
    found = [workers.Measured(asked, (1.0, 2.0), ("stopped", "published"), 7, 0.1, 4)]
    file.write_text(json.dumps([asdict(m) for m in found]))
    assert workers.read_measured(file) == found
    assert workers.read_measured(tmp_path / "none") == []


def test_experiments_are_about_so_many_candidates() -> None:
    todo = workers.experiments(62_000)
    assert 58_000 < sum(e.candidates for e in todo) <= 62_000
    assert {(e.shards, e.size) for e in todo if not e.interruptions} == {*workers.KINDS}
    assert min(e.candidates for e in todo) >= 3 * 1024, "several windows: below that no rate shows"
    assert sum(bool(e.interruptions) for e in todo) == 3

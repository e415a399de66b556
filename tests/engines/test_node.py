"""The node over simulated servers: real processes, sockets and signals; deaths, hangs, poison, limits, sweeping."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.config.settings import EngineConfig, ModelConfig
from gra_hpc.engines import guard, replica
from gra_hpc.engines.node import Node
from gra_hpc.engines.simulated import SimulatedEngine
from gra_hpc.engines.vllm_server import EngineSpec, Launch, has_own_network
from gra_hpc.errors import EngineError
from gra_hpc.flows.calls import Answer, Request
from gra_hpc.placement.placement import EnginePlace, Placement
from tests.engines.node_host import Host, engine_pid, places, request, run
from tests.waiting import until, until_it_is
from tools.simulated.server import Faults, launcher


def test_answers_as_the_engine_in_process_does(host: Host) -> None:
    async def work() -> None:
        schema = {"type": "object", "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 10}}}
        requests = [request(f"question {i}", seed=i) for i in range(20)]
        requests.append(Request("m", "", requests[0].messages, requests[0].sampling, schema))
        async with host.node() as node:
            answers = await asyncio.gather(*(node.ask(r) for r in requests))
            stats = node.stats()
        expected = await asyncio.gather(*(SimulatedEngine().ask(r) for r in requests))
        assert [(a.text, a.finish, a.prompt_tokens, a.completion_tokens) for a in answers] == [
            (a.text, a.finish, a.prompt_tokens, a.completion_tokens) for a in expected
        ]
        assert all(a.seconds > 0 for a in answers)
        mine = stats["engines"]["m-0"]
        assert (mine["calls"], mine["starts"], mine["restarts"], mine["errors"]) == (21, 1, 0, 0)
        assert mine["completion_tokens"] == sum(a.completion_tokens for a in answers)
        assert mine["start_seconds"] > 0
        assert mine["busy_seconds"] > 0
        assert mine["arguments"] == ["--served-model-name", "m"]
        json.dumps(stats)

    run(work())
    host.assert_clean()


def test_nothing_starts_before_it_is_asked(host: Host) -> None:
    async def work() -> None:
        async with host.node() as node:
            await asyncio.sleep(0.2)
            assert host.processes() == []
            assert node.stats()["engines"] == {}

    run(work())
    assert not host.logs.exists()


def test_unknown_model_is_named(host: Host) -> None:
    async def work() -> None:
        async with host.node() as node:
            with pytest.raises(EngineError, match=r"model other: no engine in the placement -> it has m"):
                await node.ask(request(model="other"))

    run(work())


def test_private_directory_and_socket_are_ours_alone(host: Host) -> None:
    async def work() -> None:
        async with host.node() as node:
            await node.start()
            (private,) = (p for p in host.base.iterdir() if p.name.startswith(f"gra-{os.getuid()}-"))
            assert private.stat().st_mode & 0o777 == 0o700
            assert [p.is_socket() for p in private.glob("*.s")] == [True]

    run(work())
    host.assert_clean()


def test_engine_that_does_not_start_is_one_clear_line(host: Host) -> None:
    async def work() -> None:
        async with host.node(Faults(refuse="cannot find the weights")) as node:
            waiting = [asyncio.create_task(node.ask(request(f"q{i}"))) for i in range(3)]
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert len(set(map(str, results))) == 1
            with pytest.raises(
                EngineError,
                match=r"engine m-0 does not start: exit code 1; last in its log: ERROR: cannot find the weights"
                r" -> see its log: .*/logs/engine-m-0-.*\.log",
            ) as e:
                await node.ask(request())
            assert Path(str(e.value).split("log: ")[-1]).read_text().startswith("$ ")

    run(work())
    host.assert_clean()


def test_engines_on_gpus_that_do_not_start_in_a_network_of_their_own_do_without(host: Host) -> None:
    """One that has started keeps it over its deaths."""
    started: list[tuple[str, bool]] = []

    def command(spec: EngineSpec) -> Launch:
        own = has_own_network(spec)
        launch = replace(launcher()(spec), own_network=own)
        if spec.socket.name.count("-"):  # a start, not the check before any
            started.append((spec.place.model, own))
        return replace(launch, argv=["false"]) if own and spec.place.model == "m" else launch

    async def work() -> None:
        models = {m: ModelConfig(path=m, max_model_len=512) for m in ("m", "n")}
        two = Placement((EnginePlace("m", 0, ()), EnginePlace("n", 0, ())), "gpu")
        async with Node(models, two, EngineConfig(start_timeout_s=60), host.base, host.logs, command) as node:
            assert (await node.ask(request(model="m"))).text and (await node.ask(request(model="n"))).text
            os.kill(engine_pid(node, 1), signal.SIGKILL)
            await until_it_is(lambda: node.stats()["engines"]["n-0"]["starts"] == 2)
            assert (await node.ask(request("again", model="n"))).text

    run(work())
    assert sorted(started) == [("m", False), ("m", True), ("n", True), ("n", True)]
    host.assert_clean()


def test_start_takes_too_long(host: Host) -> None:
    async def work() -> None:
        node = host.node(Faults(start_s=30))
        node.config.start_timeout_s = 1
        async with node:
            with pytest.raises(EngineError, match=r"not healthy 1 s after its start \(engine\.start_timeout_s\)"):
                await node.start()

    run(work())
    host.assert_clean()


def test_other_models_go_on_when_one_has_failed(host: Host) -> None:
    async def work() -> None:
        by_model = {"bad": Faults(refuse="no"), "good": Faults()}
        async with host.node(placement=places("bad", "good"), by_model=by_model) as node:
            with pytest.raises(EngineError):
                await node.ask(request(model="bad"))
            assert (await node.ask(request(model="good"))).finish == "stop"

    run(work())


@pytest.mark.parametrize(
    ("devices", "tensor_parallel", "expected"),
    [
        ([(), (), ()], 1, 1),
        ([(0,), (0,), (0,)], 1, 1),
        ([(0,), (1,), (2,)], 1, 3),
        ([(0,), (0, 1), (1,)], 1, 2),
        ([(0, 1), (2, 3), (4, 5)], 2, 1),
    ],
    ids=["nowhere", "one device", "apart", "chain", "tensor parallel"],
)
def test_engines_that_would_disturb_each_other_start_one_after_another(
    host: Host, devices: list[tuple[int, ...]], tensor_parallel: int, expected: int
) -> None:
    engines = tuple(EnginePlace(m, 0, d, tensor_parallel) for m, d in zip("abc", devices, strict=True))

    async def work() -> None:
        async with host.node(Faults(start_s=0.6), placement=Placement(engines, "cpu")) as node:
            most = 0

            async def watch() -> None:
                nonlocal most
                while True:
                    up = [r for r in node._replicas if r.process and r.process.pid and not r.ready]
                    most = max(most, len(up))
                    await asyncio.sleep(0.01)

            watching = asyncio.create_task(watch())
            await node.start()
            watching.cancel()
            assert most == expected

    run(work())


def test_calls_in_flight_are_bounded_and_spread(host: Host) -> None:
    async def work() -> None:
        faults = Faults(latency_s=0.05)
        async with host.node(faults, placement=places("m", replicas=2), max_running=3) as node:
            await node.start()
            most: list[int] = [0, 0]

            async def watch() -> None:
                while True:
                    for i, r in enumerate(node._replicas):
                        most[i] = max(most[i], len(r.inflight))
                    await asyncio.sleep(0.005)

            watching = asyncio.create_task(watch())
            await asyncio.gather(*(node.ask(request(f"q{i}")) for i in range(40)))
            watching.cancel()
            assert most == [3, 3]
            calls = [e["calls"] for e in node.stats()["engines"].values()]
            assert sum(calls) == 40
            assert min(calls) >= 15

    run(work())


def test_equal_beginnings_go_to_the_same_replica(host: Host) -> None:
    async def work() -> None:
        async with host.node(placement=places("m", replicas=2)) as node:
            await node.start()
            for sample in range(6):
                shared = f"sample {sample} " * 200
                for seat in range(3):
                    await node.ask(request(f"{shared} seat {seat}"))
                if sample == 0:
                    first = [len(node._dispatchers["m"]._seen[r]) for r in node._dispatchers["m"]._seen]
                    assert len(first) == 1  # all three went to one

    run(work())


def test_cancelled_calls_give_their_place_back(host: Host) -> None:
    async def work() -> None:
        async with host.node(Faults(latency_s=0.2), max_running=1) as node:
            await node.start()
            tasks = [asyncio.create_task(node.ask(request(f"q{i}"))) for i in range(10)]
            await asyncio.sleep(0.1)
            for task in tasks[::2]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(r, Answer) for r in results] == [False, True] * 5
            assert node._dispatchers["m"].in_flight == node._dispatchers["m"].waiting == 0

    run(work())


def test_close_ends_waiting_calls_and_is_final(host: Host) -> None:
    async def work() -> None:
        node = host.node(Faults(latency_s=30), max_running=1)
        async with node:
            await node.start()
            tasks = [asyncio.create_task(node.ask(request(f"q{i}"))) for i in range(3)]
            await asyncio.sleep(0.1)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(r, EngineError) for r in results), results
        with pytest.raises(EngineError, match="closed"):
            await node.ask(request())
        await node.close()

    run(work())
    host.assert_clean()


def test_exception_and_cancellation_leave_nothing(host: Host) -> None:
    async def failing() -> None:
        async with host.node() as node:
            await node.start()
            raise ValueError("the flow's own")

    async def cancelled(when: float) -> None:
        async def inner() -> None:
            async with host.node(Faults(start_s=0.3, litter=True)) as node:
                await node.start()
                await asyncio.sleep(60)

        task = asyncio.create_task(inner())
        await asyncio.sleep(when)
        task.cancel()
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_it_is(lambda: not host.processes())

    with pytest.raises(ValueError, match="own"):
        run(failing())
    host.assert_clean()
    for when in (0.02, 0.3, 2.5):
        run(cancelled(when))


def test_litter_of_an_engine_is_removed(host: Host) -> None:
    async def work() -> list[int]:
        async with host.node(Faults(litter=True)) as node:
            await node.start()
            await until_it_is(lambda: noted(host))
            return [int(line.split()[1]) for line in host.log().splitlines() if line.startswith("littered")]

    (stray,) = run(work())
    assert not guard.start_time(stray)
    assert not Path(f"/dev/shm/gra_simulated_{stray}").exists()
    host.assert_clean()


SHARD = """
import asyncio, sys
from pathlib import Path
from gra_hpc.config.settings import EngineConfig, ModelConfig
from gra_hpc.engines import process
from gra_hpc.engines.node import Node
from gra_hpc.placement.placement import EnginePlace, Placement
from tools.simulated.server import Faults, launcher

process.TERM_GRACE_S = 1.0

async def main(base):
    models = {m: ModelConfig(path=m) for m in "ab"}
    placement = Placement((EnginePlace("a", 0, ()), EnginePlace("b", 0, ())), "cpu")
    async with Node(models, placement, EngineConfig(), base, base / "logs", launcher(Faults(litter=True))) as node:
        await node.start()
        print("ready", *(r.process.pid for r in node._replicas), flush=True)
        await asyncio.sleep(600)

asyncio.run(main(Path(sys.argv[1])))
"""


def noted(host: Host) -> int:
    """Guards that have written down what their engines left."""
    states = (json.loads(p.read_bytes()) for p in host.base.glob("gra-*/*.state"))
    return sum(bool(s["shm"] and s["strays"]) for s in states)


@pytest.mark.parametrize("with_guards", [False, True])
def test_kill_of_the_shard_leaves_nothing(host: Host, with_guards: bool) -> None:
    """With its guards alive they clean up; killed together with them, the next node on this machine does."""
    shard = subprocess.Popen([sys.executable, "-c", SHARD, str(host.base)], stdout=subprocess.PIPE, text=True)
    try:
        assert shard.stdout is not None
        guards = list(map(int, shard.stdout.readline().split()[1:]))
        assert len(guards) == 2
        while host.log().count("littered") < 2:
            time.sleep(0.02)
        until(lambda: noted(host) == 2)
        strays = [int(line.split()[1]) for line in host.log().splitlines() if line.startswith("littered")]
        if with_guards:
            for pid in guards:
                os.kill(pid, signal.SIGSTOP)
        shard.kill()
        shard.wait()
        if with_guards:
            for pid in guards:
                os.kill(pid, signal.SIGKILL)

            async def next_one() -> None:
                async with host.node() as node:
                    await node.start()

            run(next_one())
        until(lambda: not host.processes() and not any(map(guard.start_time, strays)))
        assert not [s for s in strays if Path(f"/dev/shm/gra_simulated_{s}").exists()]
    finally:
        shard.kill()


def test_sigterm_from_outside_is_no_reason_to_start_at_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm sends SIGTERM to all processes of a job that it ends: engines started then would be killed half started."""
    pause, slept = 0.0625, []
    monkeypatch.setattr(replica, "TERMINATED_PAUSE_S", pause)
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        await sleep(seconds)
        slept.append(seconds)

    async def work() -> None:
        async with host.node() as node:
            await node.start()
            (engine,) = node._replicas
            assert engine.process is not None
            monkeypatch.setattr(replica.asyncio, "sleep", noted)
            os.kill(engine.process.pid, signal.SIGTERM)
            os.kill(engine_pid(node), signal.SIGTERM)
            while not engine.stats.causes:
                await sleep(0.01)
            assert "SIGTERM from outside" in engine.stats.causes[0]
            assert (await node.ask(request())).finish == "stop"
            assert slept.count(pause) == 1 and engine.stats.starts == 2

    run(work())


def test_full_log_directory_is_one_clear_line(host: Host) -> None:
    host.logs.write_text("a file where a directory should be")

    async def work() -> None:
        async with host.node() as node:
            with pytest.raises(EngineError, match="logs: File exists"):
                await node.ask(request())

    run(work())


def test_checks_come_before_any_start(host: Host) -> None:
    def refuse(spec: Any) -> Any:
        if spec.place.model == "b":
            raise EngineError("model b: no such directory")
        return launcher()(spec)

    async def work() -> None:
        node = host.node(placement=places("a", "b"))
        node._command = refuse
        async with node:
            for _ in range(2):
                with pytest.raises(EngineError, match="model b: no such directory"):
                    await node.ask(request(model="a"))
            assert host.processes() == []

    run(work())
    host.assert_clean()

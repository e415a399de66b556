"""Suspects: the call at fault is found in few rounds, and nothing else is lost with it."""

from __future__ import annotations

import asyncio
from math import ceil, log2
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gra_hpc.config.settings import EngineConfig
from gra_hpc.engines.dispatcher import Dispatcher
from gra_hpc.engines.replica import Call, Replica
from gra_hpc.engines.suspects import Probation
from gra_hpc.placement.placement import EnginePlace
from tests.engines.node_host import request


def replica(**config: Any) -> Replica:
    """One whose engine is ready; nobody answers."""
    made = Replica(EnginePlace("m", 0, ()), EngineConfig(**config), None, asyncio.Lock(), lambda r: None)  # type: ignore[arg-type]
    made.ready = True
    return made


def judge(n: int, guilty: set[int], limit: int = 256) -> tuple[int, set[int], set[int], set[int]]:
    """Rounds until nobody is suspected, with who was answered, who died alone, who was set free unasked."""

    async def work() -> tuple[int, set[int], set[int], set[int]]:
        probation, here, loop = Probation(), replica(max_running=limit), asyncio.get_running_loop()
        calls = [Call(request(str(i)), (), deaths=2) for i in range(n)]
        number = {call: i for i, call in enumerate(calls)}
        probation.suspects.extend((call, loop.create_future()) for call in calls)
        rounds, answered, alone, free = 0, set[int](), set[int](), set[int]()
        while asked := probation.begin([here]):
            rounds += 1
            assert len(asked) <= limit
            assert probation.begin([here]) == []  # not before this trial is over
            group = {number[call] for call, _ in asked}
            died = bool(group & guilty)
            for call, _ in asked:
                call.deaths += died
                free |= {number[c] for c, _ in probation.ended(call)}
                if died and len(group) > 1:
                    probation.suspects.append((call, loop.create_future()))
            if not died:
                answered |= group
            elif len(group) == 1:
                alone |= group
        assert probation.replica is None
        return rounds, answered, alone, free

    return asyncio.run(work())


@given(st.integers(1, 256), st.data())
def test_the_one_at_fault_is_alone_after_a_few_rounds(n: int, data: st.DataObject) -> None:
    guilty = data.draw(st.integers(0, n - 1))
    rounds, answered, alone, free = judge(n, {guilty})
    assert alone == {guilty}
    assert answered | free == set(range(n)) - {guilty}
    assert rounds <= ceil(log2(n)) + 1


@given(st.integers(1, 256), st.integers(1, 256))
def test_calls_that_died_of_something_else_are_all_answered(n: int, limit: int) -> None:
    rounds, answered, alone, _ = judge(n, set(), limit)
    assert (answered, alone) == (set(range(n)), set())
    assert rounds <= ceil(log2(n)) + 1 + n / limit


@given(st.integers(2, 64), st.data())
def test_of_several_at_fault_one_is_found_and_no_other_is_lost(n: int, data: st.DataObject) -> None:
    guilty = data.draw(st.sets(st.integers(0, n - 1), min_size=2))
    _, answered, alone, free = judge(n, guilty)
    assert len(alone) == 1 and alone <= guilty
    assert answered | alone | free == set(range(n))
    assert not answered & guilty


def test_suspects_that_are_cancelled_hold_nobody_up() -> None:
    async def work() -> None:
        dispatcher, here = Dispatcher("m", lambda: None), replica()
        dispatcher.replicas.append(here)
        suspects = [
            asyncio.create_task(dispatcher.ask(Call(request(), ({"content": "x"},), deaths=2))) for _ in range(4)
        ]
        here.ready = False
        await asyncio.sleep(0)
        assert dispatcher.waiting == 4
        for task in suspects:
            task.cancel()
        await asyncio.gather(*suspects, return_exceptions=True)
        here.ready = True
        dispatcher.pump()
        assert (dispatcher.waiting, dispatcher.in_flight) == (0, 0)
        assert dispatcher._pick(Call(request(), ())) is here

    asyncio.run(work())

"""Tools: work that a candidate rests on, remembered as answers are."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import logging
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.config.settings import RunConfig
from gra_hpc.errors import EngineError, GraError
from gra_hpc.flows.calls import Draining
from gra_hpc.flows.payload import Made
from gra_hpc.flows.registry import find
from gra_hpc.flows.tools import FEW, LONGEST, Tool, Toolbox, ToolBroke, Unkept, get_ready, is_use
from gra_hpc.flows.units import Context, Unit
from gra_hpc.records import Record
from gra_hpc.run.journal import Journal
from gra_hpc.run.window import make_sample


class Counted:
    """Work that is counted."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int]] = []
        self.at_work = self.most = 0

    def __call__(self, text: str, times: int = 1) -> dict[str, Any]:
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        time.sleep(0.01)
        self.done.append((text, times))
        self.at_work -= 1
        return {"text": text * times, "pair": (1, 2)}


def test_a_result_is_kept_and_served_to_the_next_attempt(tmp_path: Path) -> None:
    work = Counted()
    used: list[str] = []
    tool = Tool("repeat", "1", work)

    async def both(journal: Journal) -> list[Any]:
        box = Toolbox(journal, used.append)
        use, other = box.for_sample("s1"), box.for_sample("s2")
        return [await use(tool, text="a"), await use(tool, text="a", times=2), await other(tool, text="a")]

    first = Journal([], tmp_path / "1.log")
    found = asyncio.run(both(first))
    keys = [call.key for call in first.used()]
    first.close()
    assert found == [{"text": t, "pair": [1, 2]} for t in ("a", "aa", "a")]
    assert len(set(keys)) == 3
    assert all(is_use(key) for key in keys)
    assert {key.partition("/")[0] for key in keys} == {"s1", "s2"}
    assert not is_use("s1/annotate/annotator-1/0")
    second = Journal([tmp_path / "1.log"], tmp_path / "2.log")
    assert asyncio.run(both(second)) == found
    assert [call.key for call in second.used()] == keys
    second.close()
    assert len(work.done) == 3
    assert used == ["repeat"] * 6


def test_another_version_works_anew(tmp_path: Path) -> None:
    work = Counted()
    journal = Journal([], tmp_path / "1.log")

    async def used(version: str) -> None:
        await Toolbox(journal).for_sample("s1")(Tool("repeat", version, work), text="a")

    for version in ("1", "2", "1"):
        asyncio.run(used(version))
    journal.close()
    assert len(work.done) == 2


def broken(**_: Any) -> None:
    raise ZeroDivisionError("division\nby zero")


def unreachable(**_: Any) -> None:
    raise EngineError("no embedding model", "gra doctor")


async def nobody(*_: Any, **__: Any) -> Any:
    raise AssertionError("nobody is asked")


def absent(**_: Any) -> None:
    import no_such_module  # type: ignore[import-not-found]  # noqa: F401


def without_disk(**_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("work", "arguments", "said"),
    [
        (absent, {}, "tool t, sample s1: ModuleNotFoundError: No module named 'no_such_module' -> mend what it needs"),
        (without_disk, {}, "tool t, sample s1: OSError: [Errno 28] No space left on device -> mend what it needs"),
        (unreachable, {}, "no embedding model -> gra doctor"),
        (lambda x: x, {"x": {1, 2}}, "tool t, sample s1: arguments: not JSON"),
        (lambda x: x, {"x": float("inf")}, "tool t, sample s1: arguments: not JSON"),
    ],
)
def test_what_every_sample_would_meet_says_which_tool_and_for_whom(
    work: Callable[..., Any], arguments: dict[str, Any], said: str, tmp_path: Path
) -> None:
    journal = Journal([], tmp_path / "1.log")
    with pytest.raises(GraError) as e:
        asyncio.run(Toolbox(journal).for_sample("s1")(Tool("t", "1", work), **arguments))
    assert list(journal.used()) == []
    journal.close()
    assert str(e.value).startswith(said)


def late(**_: Any) -> None:
    raise TimeoutError("10 s are over")


def speaks_halves(**_: Any) -> None:
    raise ValueError("\ud83d" + "x" * 5000)


def stops(**_: Any) -> None:
    next(iter(()))


def ends(**_: Any) -> None:
    raise SystemExit(0)


def cancels(**_: Any) -> None:
    raise concurrent.futures.CancelledError


def speechless(**_: Any) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    raise Mute


def with_all_its_words() -> None:
    subprocess.run(["true", "w" * (1 << 18)], check=True)


def without_program() -> None:
    subprocess.run(["no-such-program"], check=True)


def out_of_memory(**_: Any) -> None:
    raise MemoryError


BREAKS = [
    (stops, "StopIteration", ""),
    (ends, "SystemExit", "0"),
    (cancels, "CancelledError", ""),
    (speechless, "Mute", ""),
    (with_all_its_words, "OSError", "Argument list too long"),
    (without_program, "FileNotFoundError", "no-such-program"),
    (out_of_memory, "MemoryError", ""),
    (broken, "ZeroDivisionError", "division\nby zero"),
    (late, "TimeoutError", "10 s are over"),
    (speaks_halves, "ValueError", "\\ud83d" + "x" * 1994),
    (lambda: {1, 2}, "result that is not JSON", "Object of type set is not JSON serializable"),
    (lambda: {"a": [float("nan")]}, "result that is not JSON", "Out of range float values"),
    (lambda: "\ud800", "result that is not JSON", ""),
    (lambda: '"' * (LONGEST // 2), "result that is too long", f"{LONGEST + 2} bytes"),
]


@pytest.mark.parametrize(("work", "cause", "said"), BREAKS)
def test_a_tool_that_breaks_fails_its_sample(
    work: Callable[..., Any], cause: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the flow has not thought of that; the next attempt meets the same."""
    caplog.set_level(logging.CRITICAL)  # half a character in a captured line ends the tests' own processes
    journal = Journal([], tmp_path / "1.log")
    tool = Tool("t", "1", work)

    async def careless(context: Context, _: Unit) -> None:
        await context.use(tool)

    flow = replace(find("synthesize"), run=careless)
    for _ in range(2):
        made: Made[Any] = Made("s1", 1, "r", 0, "own")
        use = Toolbox(journal).for_sample(made.id)
        asyncio.run(make_sample(flow, RunConfig(), Unit(made, Record("r", "a", "b")), nobody, use))
        assert (made.status, made.stage, made.reason) == ("failed", "t", cause) and said in made.raw
        made.raw.encode()
    assert list(journal.used()) == []
    journal.close()


@pytest.mark.parametrize("works_at", [None, 0, FEW])
def test_a_tool_that_worked_at_none_of_a_shards_samples_is_broken_for_all(works_at: int | None) -> None:
    """It is judged at the end, in whatever order the samples came, and however often each of them used it."""
    box = Toolbox(Unkept())

    async def used(sample: int) -> None:
        tool = Tool("t", "1", lambda x: 1 // x)  # a flow may describe it anew for each sample
        await box.for_sample(f"s{sample}")(tool, x=int(sample == works_at))

    for sample in (0, *range(FEW - 1)):
        with contextlib.suppress(ToolBroke):
            asyncio.run(used(sample))
    box.judge()
    for sample in range(FEW - 1, FEW + 30):
        with contextlib.suppress(ToolBroke):
            asyncio.run(used(sample))
    if works_at is not None:
        box.judge()
        return
    said = f"tool t, sample s0: ZeroDivisionError: .*; it broke at all {FEW + 30} samples that came to it -> mend"
    with pytest.raises(GraError, match=said):
        box.judge()


@pytest.mark.parametrize("ready", [stops, ends, broken])
def test_a_tool_that_cannot_get_ready_is_named(ready: Callable[..., Any]) -> None:
    with pytest.raises(
        GraError, match=r"tool t, before its first sample: (StopIteration|SystemExit|ZeroDivisionError):"
    ):
        get_ready([Tool("t", "1", broken, ready)])


def test_the_longest_result_fits_a_line_of_the_journal(tmp_path: Path) -> None:
    quotes = '"' * (LONGEST // 2 - 1)  # each is two bytes of JSON, and four of the line
    journal = Journal([], tmp_path / "1.log")
    assert asyncio.run(Toolbox(journal).for_sample("s1")(Tool("t", "1", lambda: quotes))) == quotes
    journal.close()


@pytest.mark.parametrize("name", ["a/b", "", "a b"])
def test_a_name_that_no_key_can_have_is_refused(name: str) -> None:
    with pytest.raises(GraError, match="expected a name"):
        Tool(name, "1", lambda: 1)


@pytest.mark.parametrize("at_once", [1, 3])
def test_so_many_are_at_work_at_a_time(at_once: int, tmp_path: Path) -> None:
    work = Counted()
    tool = Tool("repeat", "1", work, at_once=at_once)
    journal = Journal([], tmp_path / "1.log")

    async def many() -> None:
        box = Toolbox(journal)
        await asyncio.gather(*(box.for_sample(f"s{i}")(tool, text="a") for i in range(9)))

    asyncio.run(many())
    journal.close()
    assert len(work.done) == 9
    assert work.most <= at_once


def test_no_work_begins_while_an_attempt_drains_but_what_is_there_is_served(tmp_path: Path) -> None:
    work = Counted()
    draining: list[bool] = []
    tool = Tool("repeat", "1", work)
    journal = Journal([], tmp_path / "1.log")

    async def used() -> None:
        use = Toolbox(journal, draining=lambda: bool(draining)).for_sample("s1")
        await use(tool, text="a")
        draining.append(True)
        assert (await use(tool, text="a"))["text"] == "a"
        with pytest.raises(Draining):
            await use(tool, text="b")

    asyncio.run(used())
    journal.close()
    assert work.done == [("a", 1)]

"""`use`: work of this program's own that a candidate rests on, remembered as answers are.

A tool's results are kept in the journal and in the calls' table, under the key `sample id/tool/tool-NUMBER/0`: a
candidate that is made again rests on the same ones, whatever the next machine would have found.

What a tool cannot do for a sample is for its result to say, and for the flow to judge. A tool that breaks at a sample
fails that sample, as an answer does that cannot be used, and is not remembered: who makes the sample again meets it
again. What every sample would meet is no sample's fault, and ends the attempt as an engine does that cannot start: at
once what is not installed, and a machine that is out of something (`_MACHINES`). Of all else one sample cannot tell
whose fault it is, nor can the first few: those that are long begin first. So it is judged once all samples of a shard
have ended, whatever their order was: a tool that broke at some of them and worked at none is broken for all (`judge`).
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from gra_hpc.errors import GraError
from gra_hpc.flows.ask import Calls, Unanswered
from gra_hpc.flows.calls import Draining
from gra_hpc.records import Call, digest

log = logging.getLogger(__name__)

SEAT = "tool"
LONGEST = 4 << 20
"""Bytes of a result as JSON. A line of the journal holds 16 MiB, and the result in it with every quote escaped."""
FEW = 3
"""Samples of a shard at which a tool may break though it works at none: a tool that only few samples use may meet such
alone, and then no later attempt would come further."""
_MACHINES = {getattr(errno, name) for name in ("EDQUOT", "EIO", "EMFILE", "ENFILE", "ENOSPC", "EROFS", "ESTALE")}
"""Errors of the operating system that no sample's words bring about: a full or lost disk, too many open files."""
_RAW = 2000
"""Characters of an exception's words that a failed sample keeps."""


class ToolBroke(Unanswered):
    """A tool that broke at a sample: the sample has failed at the stage of the tool's name, with the exception's kind
    as the cause, and its words."""


@dataclass(frozen=True, eq=False)
class Tool:
    """One kind of work."""

    name: str
    """In its calls' keys, as a question's step: letters, digits, `_` and `-`."""
    version: str
    """Results of another one are not taken for its own."""
    work: Callable[..., Any]
    """From arguments to a result, all as JSON has them; beside the event loop, in a thread. The same arguments give the
    same result, as far as machines do."""
    ready: Callable[[], object] = lambda: None
    """What `work` would begin with and is long: done beforehand, while others are asked. Not done where an earlier
    attempt has begun: all results may be there."""
    at_once: int = 1
    """So many are at work at a time, in one attempt."""

    def __post_init__(self) -> None:
        """Raises GraError: a name that no call's key can have."""
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise GraError(f"tool {self.name!r}: expected a name of letters, digits, _ and -", _MEND)


class Use(Protocol):
    """What a flow is given for one sample."""

    async def __call__(self, tool: Tool, /, **arguments: Any) -> Any:
        """What a tool comes to.

        Raises:
            ToolBroke: its work raised an exception; a result that is not JSON, or over `LONGEST`.
            GraError: what every sample would meet; arguments that are not JSON.
        """
        ...


@dataclass(frozen=True)
class Toolbox:
    """Has tools work, and remembers every result."""

    calls: Calls
    used: Callable[[str], None] = lambda _: None
    """Told of every use, whether the tool had to work or not: the tool's name."""
    draining: Callable[[], bool] = lambda: False
    """Whether no more work begins."""
    _places: dict[Tool, asyncio.Semaphore] = field(default_factory=dict)
    _at_work: set[str] = field(default_factory=set)
    """Names of those that have come to something, here or in an attempt before."""
    _broke: dict[str, dict[str, str]] = field(default_factory=dict)
    """By name: what was said of each sample at which it broke, by its name."""

    def for_sample(self, sample: str) -> Use:
        """`use` for the sample of that id."""

        async def use(tool: Tool, /, **arguments: Any) -> Any:
            who = f"tool {tool.name}, sample {sample}"
            try:
                _as_json(arguments)
            except ValueError as e:
                raise GraError(f"{who}: arguments: not JSON ({e})", _MEND) from None
            what = digest("tool", tool.name, tool.version, sorted(arguments.items()))
            key = f"{sample}/{tool.name}/{SEAT}-{int(what[:8], 16)}/0"
            call = self.calls.get(key, what)
            if call is None:
                async with self._places.setdefault(tool, asyncio.Semaphore(tool.at_once)):
                    if self.draining():
                        raise Draining
                    call = await self._worked(key, what, tool, arguments, who)
            self._at_work.add(tool.name)
            self.used(tool.name)
            return orjson.loads(call.text)

        return use

    def judge(self) -> None:
        """Once all samples of a shard have ended: whether each tool can be used at all.

        Raises:
            GraError: one broke at `FEW` samples or more, and worked at none.
        """
        for name, said in sorted(self._broke.items()):
            if name not in self._at_work and len(said) >= FEW:
                raise GraError(f"{min(said.items())[1]}; it broke at all {len(said)} samples that came to it", _MEND)

    async def _worked(self, key: str, what: str, tool: Tool, arguments: dict[str, Any], who: str) -> Call:
        began = time.monotonic()
        found, raised = await asyncio.to_thread(_ended, tool.work, arguments)
        if raised is not None and _is_for_all(raised):
            raise _named(who, raised)
        if raised is not None:
            raise self._broken(tool, who, type(raised).__name__, _words(raised), raised) from raised
        try:
            result = _as_json(found)
        except ValueError as e:
            raise self._broken(tool, who, "result that is not JSON", str(e)) from None
        if len(result) > LONGEST:
            said = f"{len(result)} bytes, expected at most {LONGEST}"
            raise self._broken(tool, who, "result that is too long", said)
        seconds = round(time.monotonic() - began, 3)
        call = Call(key, what, "", tool.name, result.decode(), "stop", 0, 0, 0, time.time(), seconds)
        self.calls.append(call)
        return call

    def _broken(self, tool: Tool, who: str, cause: str, said: str, e: BaseException | None = None) -> ToolBroke:
        """What ends the sample at which a tool broke."""
        known = self._broke.setdefault(tool.name, {})
        if not known:
            log.warning("%s failed: %s: %s; later ones are only counted", who, cause, said[:_RAW], exc_info=e)
        known.setdefault(who, f"{who}: {cause}: {said[:200]}")
        return ToolBroke(tool.name, cause, said.encode("utf-8", "backslashreplace").decode()[:_RAW])


def get_ready(tools: Iterable[Tool]) -> None:
    """Have each do beforehand what its work would begin with.

    Raises:
        GraError: one of them cannot.
    """
    for tool in tools:
        _, raised = _ended(tool.ready, {})
        if raised is not None:
            raise _named(f"tool {tool.name}, before its first sample", raised)


def _ended(work: Callable[..., Any], arguments: Mapping[str, Any]) -> tuple[Any, BaseException | None]:
    """What a call came to, or what it raised, as a value: some exceptions mean something else to who awaits a thread.
    A StopIteration never arrives, and is waited for for ever; a CancelledError or a SystemExit ends the worker."""
    try:
        return work(**arguments), None
    except BaseException as e:
        return None, e


def _is_for_all(e: BaseException) -> bool:
    """Whether what a tool raised would be met by every sample."""
    return isinstance(e, GraError | ImportError) or (isinstance(e, OSError) and e.errno in _MACHINES)


def _named(who: str, e: BaseException) -> GraError:
    """What ends the attempt. A GraError says itself what to do: a process of ours that was ended, say."""
    if isinstance(e, GraError):
        return e
    found = GraError(f"{who}: {type(e).__name__}: {_words(e)}", _MEND)
    found.__cause__ = e
    return found


def _words(e: BaseException) -> str:
    """What an exception says; empty if it cannot."""
    try:
        return str(e)
    except Exception:
        return ""


_MEND = "mend what it needs and gra resume, or the tool itself and plan a new run  (docs/flows.md: what a tool may do)"


def _as_json(value: Any) -> bytes:
    """A value as JSON.

    Raises:
        ValueError: JSON cannot say it.
    """
    try:
        json.dumps(value, allow_nan=False)  # orjson makes null of NaN and infinity
        return orjson.dumps(value)
    except (TypeError, ValueError, RecursionError) as e:
        raise ValueError(str(e)) from None


class Unkept:
    """Calls that nobody remembers: of prompts that are only shown."""

    def get(self, key: str, digest: str) -> Call | None:  # noqa: ARG002
        """None."""
        return None

    def append(self, call: Call) -> None:
        """Forget it."""


def is_use(key: str) -> bool:
    """Whether a call of that key is a tool's, which no model was asked."""
    return key.split("/")[2].startswith(f"{SEAT}-")

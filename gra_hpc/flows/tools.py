"""`use`: work of this program's own that a candidate rests on, remembered as answers are.

A tool's results are kept in the journal and in the calls' table, under the key `sample id/tool/tool-NUMBER/0`: a
candidate that is made again rests on the same ones, whatever the next machine would have found.

What a tool cannot do for a sample is for its result to say, and for the flow to judge. A tool that breaks at a sample
fails that sample, as an answer does that cannot be used, and is not remembered: who makes the sample again meets it
again. What every sample would meet is no sample's fault, and ends the attempt as an engine does that cannot start: what
is not installed, not there or not allowed, a machine without memory, and a tool that breaks at each of its first
samples (`PATIENCE`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable
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
PATIENCE = 20
"""A tool that has broken so often in an attempt, and never worked, is broken for all."""
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
    _at_work: set[Tool] = field(default_factory=set)
    """Those that have come to something, here or in an attempt before."""
    _broke: dict[Tool, int] = field(default_factory=dict)
    """How often each has broken."""

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
            self._at_work.add(tool)
            self.used(tool.name)
            return orjson.loads(call.text)

        return use

    async def _worked(self, key: str, what: str, tool: Tool, arguments: dict[str, Any], who: str) -> Call:
        began = time.monotonic()
        try:
            found = await asyncio.to_thread(tool.work, **arguments)
        except GraError:
            raise  # says what to do; a process of ours that was ended, say
        except (ImportError, OSError, MemoryError) as e:
            if not isinstance(e, TimeoutError):  # the one of them that work on a sample can meet
                raise GraError(f"{who}: {type(e).__name__}: {e}", _MEND) from e
            raise self._broken(tool, who, "TimeoutError", str(e)) from e
        except Exception as e:
            raise self._broken(tool, who, type(e).__name__, str(e)) from e
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

    def _broken(self, tool: Tool, who: str, cause: str, said: str) -> ToolBroke | GraError:
        """What ends the sample at which a tool broke; or the attempt, where it has never done otherwise."""
        times = self._broke[tool] = self._broke.get(tool, 0) + 1
        if tool not in self._at_work and times >= PATIENCE:
            return GraError(f"{who}: {cause}: {said}; it has broken at {times} samples, and worked at none", _MEND)
        if times == 1:
            log.warning("%s failed: %s: %s; later ones are only counted", who, cause, said, exc_info=True)
        return ToolBroke(tool.name, cause, said.encode("utf-8", "backslashreplace").decode()[:_RAW])


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

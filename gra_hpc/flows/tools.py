"""`use`: work of this program's own that a candidate rests on, remembered as answers are.

A tool's results are kept in the journal and in the calls' table, under the key `sample id/tool/tool-NUMBER/0`: a
candidate that is made again rests on the same ones, whatever the next machine would have found.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from gra_hpc.flows.ask import Calls
from gra_hpc.flows.calls import Draining
from gra_hpc.records import Call, digest

SEAT = "tool"


@dataclass(frozen=True, eq=False)
class Tool:
    """One kind of work."""

    name: str
    """In its calls' keys, as a question's step."""
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


class Use(Protocol):
    """What a flow is given for one sample."""

    async def __call__(self, tool: Tool, /, **arguments: Any) -> Any:
        """What a tool comes to."""
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

    def for_sample(self, sample: str) -> Use:
        """`use` for the sample of that id."""

        async def use(tool: Tool, /, **arguments: Any) -> Any:
            what = digest("tool", tool.name, tool.version, sorted(arguments.items()))
            key = f"{sample}/{tool.name}/{SEAT}-{int(what[:8], 16)}/0"
            call = self.calls.get(key, what)
            if call is None:
                async with self._places.setdefault(tool, asyncio.Semaphore(tool.at_once)):
                    if self.draining():
                        raise Draining
                    call = await self._worked(key, what, tool, arguments)
            self.used(tool.name)
            return orjson.loads(call.text)

        return use

    async def _worked(self, key: str, what: str, tool: Tool, arguments: dict[str, Any]) -> Call:
        began = time.monotonic()
        result = orjson.dumps(await asyncio.to_thread(tool.work, **arguments)).decode()
        seconds = round(time.monotonic() - began, 3)
        call = Call(key, what, "", tool.name, result, "stop", 0, 0, 0, time.time(), seconds)
        self.calls.append(call)
        return call


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

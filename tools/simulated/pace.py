"""The pace of an engine by the performance model: continuous batching, chunked prefill, a KV cache with prefixes.

SIMULATED: nothing is computed. Every running call gets a token a step, prompts are taken in within a step's budget, and
a step takes as long as `placement.performance` says for what is in it. A call waits where the KV cache has no room for
its prompt; where running calls outgrow the cache, the youngest begins anew. `paced_server.py` puts sockets before it.

Times are a device's seconds: `speed` of them pass in a second of the loop's clock.
"""

from __future__ import annotations

import asyncio
import heapq
import mmap
import os
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from gra_hpc.placement.hosts import Host
from gra_hpc.placement.performance import Constants, Need, rate_curve
from gra_hpc.placement.workload import ModelLoad, RoleLoad

BLOCK_TOKENS = 16
"""Tokens of a block of the KV cache, of which whole ones are kept for the next call with the same beginning."""
BLOCK_CHARACTERS = 4 * BLOCK_TOKENS
STEP_TOKENS = 2048
"""Tokens of a step at most, prompts' and answers' (vLLM's server: `max_num_batched_tokens`)."""


@dataclass(frozen=True)
class Figures:
    """What the performance model says of one engine: seconds, tokens."""

    weight_s: float
    """Reading all weights once."""
    decode_s: float
    """Reading the weights that one token uses."""
    cache_s: float
    """Reading the KV cache of one token of context."""
    token_s: float
    """Multiplying for one token, a prompt's or an answer's."""
    link_s: float
    """All-reduces of a step: latency."""
    link_token_s: float
    """All-reduces of a step, for each token in it."""
    step_s: float
    sequence_s: float
    """A step takes so much longer for each call in it."""
    kv_tokens: int
    """Tokens that the KV cache holds."""
    kv_use: float = 0.9
    """Part of it that is filled with prompts, so that answers have room to grow."""
    max_running: int = 256

    @classmethod
    def of(cls, need: Need, tensor_parallel: int, kv_bytes: float, constants: Constants) -> Figures:
        """From the model's facts and its devices, by the curve that placement uses.

        Args:
            kv_bytes: KV cache, in bytes per device.
        """
        one = replace(need, load=ModelLoad({"one": RoleLoad(1.0, 0.0, 1.0)}))  # a call of one token, after nothing
        curve = rate_curve(one, tensor_parallel, constants)
        speed = curve.speed
        return cls(
            weight_s=curve.weight_s / speed,
            decode_s=curve.decode_s / speed,
            cache_s=curve.cache_s / one.context_tokens / speed,
            token_s=curve.compute_s / speed,
            link_s=curve.link_s / speed,
            link_token_s=curve.link_call_s / speed,
            step_s=curve.step_s / speed,
            sequence_s=curve.sequence_s / speed,
            kv_tokens=int(kv_bytes / need.facts.kv_bytes_per_device(tensor_parallel)),
            kv_use=constants.kv_use,
            max_running=constants.max_running,
        )

    @classmethod
    def of_host(cls, host: Host, constants: Constants) -> Figures:
        """Of an engine of a placement."""
        return cls.of(host.need, host.tensor_parallel, host.kv_bytes, constants)

    def step(self, running: float, context: float, prefill: float = 0.0) -> float:
        """Seconds of one step, with the devices for itself.

        Args:
            running: calls that get a token.
            context: tokens of theirs in the KV cache, all together.
            prefill: prompt tokens taken in beside them.
        """
        reading = min(self.weight_s, self.decode_s * (running + prefill)) + self.cache_s * context
        computing = self.token_s * (running + prefill)
        rest = self.link_s + self.step_s + self.link_token_s * (running + prefill) + self.sequence_s * running
        return max(reading, computing) + rest

    def full(self, prompt: float, answer: float) -> float:
        """Seconds of a call where the batch is always full: its share of the steps that it needs.

        Args:
            prompt: tokens not in the prefix cache.
            answer: tokens.
        """
        held = prompt + answer / 2
        batch = max(1.0, min(self.max_running, self.kv_use * self.kv_tokens / held))
        return answer * self.step(batch, batch * held, batch * prompt / answer) / batch


class Sharing(Protocol):
    """Who shares an engine's devices."""

    def at_work(self, busy: bool) -> None: ...

    def share(self) -> float: ...


class Neighbours:
    """Which engines of a node are at work, in a file that all of them see: those on one device share its time.

    Args:
        path: the file, made by `create`.
        devices: of this engine.
        slot: its number among the node's engines.
        loss: part of a device's time lost for each engine at work on it after the first.
    """

    SLOTS = 64

    def __init__(self, path: Path, devices: Sequence[int], slot: int, loss: float) -> None:
        self.devices, self.slot, self.loss = devices, slot, loss
        fd = os.open(path, os.O_RDWR)
        try:
            self._seen = mmap.mmap(fd, 0)
        finally:
            os.close(fd)

    @classmethod
    def create(cls, path: Path, devices: int) -> None:
        """An empty file for so many devices."""
        path.write_bytes(bytes(devices * cls.SLOTS))

    def at_work(self, busy: bool) -> None:
        """This engine begins or ends its work."""
        for d in self.devices:
            self._seen[d * self.SLOTS + self.slot] = busy

    def share(self) -> float:
        """Part of its devices' time that this engine gets: that of the most crowded one."""
        rows = (self._seen[d * self.SLOTS : (d + 1) * self.SLOTS] for d in self.devices)
        most = max((row.count(1) for row in rows), default=1) or 1
        return max(0.1, 1 - self.loss * (most - 1)) / most


class Prefixes:
    """Beginnings of prompts that the KV cache still holds, in blocks; the ones not used for longest go first."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._kept: OrderedDict[int, None] = OrderedDict()

    def known(self, keys: Sequence[int]) -> int:
        """How many of a prompt's first blocks are there; all of them are kept from now on."""
        kept, found = self._kept, len(keys)
        for n, key in enumerate(keys):
            if key not in kept:
                found = n
                break
        for key in keys:
            kept[key] = None
            kept.move_to_end(key)
        while len(kept) > self.blocks:
            kept.popitem(last=False)
        return found

    def clear(self) -> None:
        self._kept.clear()


def blocks_of(model: str, text: str) -> list[int]:
    """A key for each whole block of a prompt, which says all that comes before it too."""
    keys, so_far = [], hash(model)
    for end in range(BLOCK_CHARACTERS, len(text) + 1, BLOCK_CHARACTERS):
        so_far = hash((so_far, text[end - BLOCK_CHARACTERS : end]))
        keys.append(so_far)
    return keys


@dataclass(eq=False, slots=True)
class _Job:
    """A call in the engine."""

    prompt: int
    """Tokens to take in, cached ones included."""
    answer: int
    """Tokens to write."""
    keys: Sequence[int]
    order: int
    future: asyncio.Future[int]
    left: int = 0
    """Of the prompt, not taken in yet."""
    held: int = 0
    """Tokens in the KV cache that no other call holds."""
    due: int = 0
    """The step that writes its last token."""
    cached: int = 0


@dataclass
class Counted:
    """What an engine did, in device seconds and tokens."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    steps: int = 0
    busy_s: float = 0.0
    running_s: float = 0.0
    """Sum over the running calls: over `busy_s`, the average batch."""
    preempted: int = 0
    late_s: float = 0.0
    """By how much steps ended too late, all together: this machine's fault, no device's."""
    full_s: float = 0.0
    """What its calls take on a device of their own whose batch is always full (`Figures.full`)."""
    last: float = 0.0
    """When its last call ended, on the loop's clock, in device seconds."""
    by_second: dict[int, float] = field(default_factory=dict)
    """Of `full_s`, by the second in which a call ended, on the host's steady clock scaled to device seconds."""


class PacedEngine:
    """One engine. Made within a running loop.

    Args:
        figures: its pace.
        speed: device seconds in a second of the loop's clock.
        neighbours: who shares its devices; none: nobody.
        alone: the model's pace on a device of its own, by which its work is counted; none: `figures`.
    """

    def __init__(
        self,
        figures: Figures,
        speed: float = 1.0,
        neighbours: Sharing | None = None,
        alone: Figures | None = None,
    ) -> None:
        self.figures, self.speed, self.neighbours, self.alone = figures, speed, neighbours, alone or figures
        self.counted = Counted()
        self.prefixes = Prefixes(figures.kv_tokens // BLOCK_TOKENS)
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Job] = deque()
        self._filling: deque[_Job] = deque()
        self._writing: list[tuple[int, int, _Job]] = []
        self._order = self._step = 0
        self._context = self._held = 0
        self._chunks: list[tuple[_Job, int]] = []
        self._timer: asyncio.Handle | None = None
        self._end = 0.0

    @property
    def running(self) -> int:
        """Calls in the batch."""
        return len(self._writing) + len(self._filling)

    @property
    def waiting(self) -> int:
        """Calls without a place in it."""
        return len(self._queue)

    @property
    def kv_use(self) -> float:
        """Part of the KV cache that calls hold."""
        return self._held / self.figures.kv_tokens

    async def compute(self, prompt: int, answer: int, keys: Sequence[int] = ()) -> int:
        """A call: prompt taken in, answer written.

        Args:
            prompt: tokens.
            answer: tokens.
            keys: of the prompt's blocks (`blocks_of`).

        Returns:
            Tokens of the prompt that the prefix cache held.
        """
        self._order += 1
        job = _Job(max(1, prompt), max(1, answer), keys, self._order, self._loop.create_future())
        self._queue.append(job)
        if self._timer is None:
            if self.neighbours:
                self.neighbours.at_work(True)
            # With all calls that come in this turn of the loop.
            self._timer = self._loop.call_soon(lambda: self._begin(self._loop.time() * self.speed))
        return await job.future

    def _admit(self) -> None:
        """Calls that wait get a place while there is one, and room for their prompts: in order, nobody is passed."""
        f = self.figures
        while self._queue and self.running < f.max_running:
            job = self._queue[0]
            usable = job.keys[: (job.prompt - 1) // BLOCK_TOKENS]
            if self.running and self._held + job.prompt > f.kv_use * f.kv_tokens:
                break
            self._queue.popleft()
            job.cached = BLOCK_TOKENS * self.prefixes.known(usable)
            job.left = job.held = job.prompt - job.cached
            self._held += job.held
            self._filling.append(job)

    def _begin(self, now: float) -> None:
        """A step begins; device seconds."""
        self._admit()
        writing = len(self._writing)
        budget = max(1, STEP_TOKENS - writing)
        self._chunks = []
        for job in self._filling:
            if budget <= 0:
                break
            chunk = min(job.left, budget)
            budget -= chunk
            self._chunks.append((job, chunk))
        taken_in = sum(chunk for _, chunk in self._chunks)
        seconds = self.figures.step(writing, self._context, taken_in)
        if self.neighbours:
            seconds /= self.neighbours.share()
        c = self.counted
        c.steps += 1
        c.busy_s += seconds
        c.running_s += seconds * self.running
        self._end = now + seconds
        self._timer = self._loop.call_at(self._end / self.speed, self._ended)

    def _ended(self) -> None:
        """The step has ended: tokens are written, prompts taken in, and what comes next begins where it ended."""
        self.counted.late_s += max(0.0, self._loop.time() * self.speed - self._end)
        self._step += 1
        written = len(self._writing)
        self._context += written
        self._held += written
        for job, chunk in self._chunks:
            job.left -= chunk
            if not job.left:
                self._filling.popleft()
                job.due = self._step + job.answer - 1  # the step that takes in the last of a prompt writes a token
                self._context += job.prompt + 1
                self._held += 1
                heapq.heappush(self._writing, (job.due, job.order, job))
        while self._writing and self._writing[0][0] <= self._step:
            self._finish(heapq.heappop(self._writing)[2])
        while self._held > self.figures.kv_tokens and len(self._writing) > 1:
            self._preempt()
        self._timer = None
        if self._writing or self._filling or self._queue:
            self._begin(self._end)
        elif self.neighbours:
            self.neighbours.at_work(False)

    def _finish(self, job: _Job) -> None:
        self._context -= job.prompt + job.answer
        self._held -= job.held + job.answer
        c = self.counted
        c.calls += 1
        c.prompt_tokens += job.prompt
        c.cached_tokens += job.cached
        c.answer_tokens += job.answer
        c.last = self._end
        full = self.alone.full(job.prompt - job.cached, job.answer)
        c.full_s += full
        c.by_second[int(self._end)] = c.by_second.get(int(self._end), 0.0) + full
        if not job.future.done():
            job.future.set_result(job.cached)

    def _preempt(self) -> None:
        """The youngest call gives its place, and takes in again what it had."""
        entry = max(self._writing, key=lambda e: e[1])
        self._writing.remove(entry)
        heapq.heapify(self._writing)
        job = entry[2]
        left = job.due - self._step
        written = job.answer - left
        self._context -= job.prompt + written
        self._held -= job.held + written
        job.prompt, job.answer = job.prompt + written, left
        self.counted.preempted += 1
        self.counted.answer_tokens += written
        self._queue.appendleft(job)

    def report(self) -> dict[str, Any]:
        """What it did, JSON-able."""
        return {k: getattr(self.counted, k) for k in Counted.__dataclass_fields__} | {"simulated": True}

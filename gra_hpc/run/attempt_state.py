"""The state of one attempt at a shard, and what the attempts of one worker share."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gra_hpc.config.settings import RunConfig
from gra_hpc.errors import GraError
from gra_hpc.records import Call, Candidate
from gra_hpc.run.attempts import Heartbeat, SharedTime
from gra_hpc.run.directory import AttemptDir, RunDir, ShardDir
from gra_hpc.run.gold import GoldQuestions
from gra_hpc.run.journal import Journal
from gra_hpc.run.merged import basis_of
from gra_hpc.run.plan import Plan, RoundPlan
from gra_hpc.signals import Signals

if TYPE_CHECKING:
    from gra_hpc.signatures.signer import Signer

_NEW_OBJECTS = 50_000
"""So many more than there were, 10 MB, are looked through for circles of garbage while calls are in flight."""


@dataclass
class Shared:
    """What the attempts of one worker share, beside its engines."""

    window: asyncio.Semaphore
    """Places for samples in flight: the next shard takes those that the last one leaves free."""
    time: SharedTime = field(default_factory=SharedTime)
    calls: int = 0
    """Calls that engines have answered to this worker."""
    flying: int = 0
    """Calls that they have not answered yet."""
    engines: str = ""
    """`start` until they have answered the first call, then `up`; empty: there are none."""
    _driving: int = 0
    """Attempts that keep calls in flight."""
    _pace: tuple[int, int, int] = (0, 0, 0)
    """Python's thresholds of garbage collection before the first of them."""
    _signer: Signer | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, config: RunConfig) -> Shared:
        """Of a worker that begins."""
        return cls(asyncio.Semaphore(config.launch.window))

    def asking(self) -> Asking:
        """While a call is in flight."""
        return Asking(self)

    @contextmanager
    def seldom_tidied(self) -> Iterator[None]:
        """While calls are in flight: samples, requests and tasks live long and are no circles, and to look through them
        for some at Python's usual pace is a third of a worker's work, for nothing."""
        if not self._driving:
            self._pace = gc.get_threshold()
            if self._pace[0]:  # 0: switched off
                gc.set_threshold(max(_NEW_OBJECTS, self._pace[0]), *self._pace[1:])
        self._driving += 1
        try:
            yield
        finally:
            self._driving -= 1
            if not self._driving:
                gc.set_threshold(*self._pace)

    def look(self) -> None:
        """Tell the worker's time what the engines do now."""
        doing = self.engines
        if doing == "up":
            doing = "idle" if not self.flying else "" if self.window.locked() else "tail"
        self.time.doing(doing)

    def signer(self, config: RunConfig, plan: Plan) -> Signer:
        """Signs what they publish; the benchmarks are read once for all of them."""
        from gra_hpc.run.signing import signer_of

        with self._lock:
            self._signer = self._signer or signer_of(config, plan)
            return self._signer


class Asking:
    """A call in flight; a class, since a generator costs each call three times as much."""

    __slots__ = ("_shared",)

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def __enter__(self) -> None:
        self._shared.flying += 1
        self._shared.look()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        shared = self._shared
        if kind is None:
            shared.engines = shared.engines and "up"
        shared.flying -= 1
        shared.look()


@dataclass
class Turn:
    """When the shards of one worker follow each other."""

    before: asyncio.Event | None = None
    """`given` of the shard before: its samples come first."""
    near: asyncio.Event = field(default_factory=asyncio.Event)
    """Few samples are left to begin, or none, and a place is free: time to open the next shard."""
    given: asyncio.Event = field(default_factory=asyncio.Event)
    """None is left: the next shard's may begin."""


@dataclass
class Attempt:
    """The state of one attempt at one shard."""

    run: RunDir
    config: RunConfig
    plan: Plan
    round_plan: RoundPlan
    shard: ShardDir
    dir: AttemptDir
    journal: Journal
    beat: Heartbeat
    signals: Signals
    shared: Shared
    turn: Turn = field(default_factory=Turn)
    samples: list[Candidate] = field(default_factory=list)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    basis: str = ""
    """What its candidates rest on (`merged.basis_of`)."""
    vectors: dict[str, bytes | None] = field(default_factory=dict)
    """Embeddings by sample, where the embedding model is an engine beside the others."""
    tokens: dict[str, list[int]] = field(default_factory=dict)
    """By `role model`: calls, prompt tokens, completion tokens, of all calls the samples rest on."""
    gold: GoldQuestions | None = None
    """Asked beside some of its candidates."""
    golden: list[tuple[str, str, int | None]] = field(default_factory=list)
    """What was answered: question, member, points."""
    tools: Counter[str] = field(default_factory=Counter)
    """Uses by tool, of all that the samples rest on."""
    endless: Counter[str] = field(default_factory=Counter)
    """By model: calls whose thoughts did not end, so that there was no answer."""

    def used(self, tool: str) -> None:
        """Count the use of a tool."""
        self.tools[tool] += 1

    def answered(self, role: str, call: Call, fresh: bool) -> None:
        """Count a call."""
        total = self.tokens.setdefault(f"{role} {call.model}", [0, 0, 0])
        for i, n in enumerate((1, call.prompt_tokens, call.completion_tokens)):
            total[i] += n
        if call.finish == "thoughts":
            self.endless[call.model] += 1
        if fresh:
            self.beat.calls += 1
            self.shared.calls += 1
            self.beat.slowest_call_s = max(self.beat.slowest_call_s, round(call.seconds, 2))
            mine = self.beat.tokens.setdefault(role, [0, 0])
            mine[0] += call.prompt_tokens
            mine[1] += call.completion_tokens
        else:
            self.beat.replayed += 1

    def finished(self, sample: Candidate) -> None:
        """Count a sample."""
        self.samples.append(sample)
        setattr(self.beat, sample.status, getattr(self.beat, sample.status) + 1)

    def is_overtaken(self) -> bool:
        """Whether what the candidates rest on has been replaced; a merge that is away for a moment is asked for
        again."""
        try:
            return basis_of(self.run, self.round_plan.round) != self.basis
        except (GraError, OSError):
            return False

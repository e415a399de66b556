"""What the files of one shard say: as it was published, or as its attempts last told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gra_hpc.errors import ReleaseError, StorageError
from gra_hpc.foreign import all_fit
from gra_hpc.run.attempts import BEFORE, WAITED, Heartbeat, attempt_names
from gra_hpc.run.directory import ShardDir
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.shard_manifest import ShardManifest
from gra_hpc.storage import read_json


@dataclass
class ShardStatus:
    """One shard."""

    shard: int
    state: str
    """published, running, queued (a worker in Slurm's queue will take it), failed (its last attempt ended with an
    error), stopped (killed, or drained, and nobody will take it), waiting (never started), unneeded (never started, and
    the round's target is met without it)."""
    planned: int
    accepted: int = 0
    rejected: int = 0
    failed: int = 0
    calls: int = 0
    replayed: int = 0
    corrupt: int = 0
    """Lines of journals, and whole journals, that could not be used: their calls were asked again."""
    lost: int = 0
    """Answers that it rests on, and that are not in its calls table: they could not be read when it was published."""
    attempts: int = 0
    host: str = ""
    job: str = ""
    phase: str = ""
    message: str = ""
    log: str = ""
    """Log of its newest job, for shards that are neither published nor alive."""
    started: float = 0.0
    at: float = 0.0
    """Both by its machine's clock, for people."""
    lasted: float = 0.0
    """Seconds of its last attempt so far, by a clock that never steps."""
    seconds: float = 0.0
    """Time that its attempts took, as far as they answered calls for it; for a live one, the present attempt's."""
    held_s: float = 0.0
    """Time that its attempts had a node, lost ones too, in seconds; those without a heartbeat are not in it."""
    gpu_s: float = 0.0
    """The same times the GPUs that each was given."""
    workers: dict[str, dict[str, float]] = field(default_factory=dict)
    """By worker that was at it: `seconds`, and what of them its engines did not work in full (`attempts.WAITED`)."""
    starts: dict[str, float] = field(default_factory=dict)
    """Engines' starts in a published shard's time: how many (`starts`), and their seconds by `start_phases.PHASES`."""
    tokens: dict[str, list[int]] = field(default_factory=dict)
    causes: dict[str, int] = field(default_factory=dict)
    """Why samples of a published shard failed: how many, by `stage: cause`."""
    gold: int = 0
    """Answers to gold questions."""
    earlier: int = 0
    """Samples that an attempt before had finished, beyond those of the present one: it reads them again first."""

    @property
    def done(self) -> int:
        return self.accepted + self.rejected + self.failed


@dataclass
class Seen:
    """What the files of an unpublished shard say."""

    dir: ShardDir
    attempts: int
    beat: Heartbeat | None
    heart: Path
    """Heartbeat file of the newest attempt."""
    damaged: str = ""
    """What is wrong with its manifest, if it has one."""
    before: tuple[Heartbeat, ...] = ()
    """Last heartbeats of the attempts before the newest."""


def look(shard: ShardDir) -> ShardStatus | Seen:
    damaged = ""
    for _ in range(2):  # once more where it has been published since
        try:
            return _published(shard)
        except (OSError, StorageError, LookupError, TypeError, ValueError, AttributeError):
            if not shard.manifest.is_file():
                break
    else:
        damaged = _damage(shard)
    names = attempt_names(shard)
    newest = shard.attempt(names[-1] if names else "")
    before = tuple(b for name in names[:-1] if (b := Heartbeat.read(shard.attempt(name))))
    return Seen(shard, len(names), Heartbeat.read(newest) if names else None, newest.heartbeat, damaged, before)


def _damage(shard: ShardDir) -> str:
    """What is wrong with a manifest that cannot be used."""
    try:
        ShardManifest.load(shard)
    except ReleaseError as e:
        return e.what
    return f"{shard.manifest}: not as it was published"


def hold(out: ShardStatus, beats: Iterable[Heartbeat]) -> None:
    for beat in beats:
        lasted = max(0.0, beat.seconds or beat.at - beat.started)
        _hold(out, lasted, beat.gpus, beat.worker or beat.attempt, beat.waited)


def _hold(out: ShardStatus, lasted: float, gpus: int | None, worker: str, waited: Mapping[str, float]) -> None:
    """Add the time of one attempt."""
    out.held_s += lasted
    out.gpu_s += lasted * (gpus or 0)
    mine = out.workers.setdefault(worker, {"seconds": 0.0})
    mine["seconds"] += lasted + waited.get(BEFORE, 0.0)
    for what in WAITED:
        if seconds := waited.get(what):
            mine[what] = mine.get(what, 0.0) + seconds


def own_seconds(lasted: float, calls: int, replayed: int) -> float:
    """Seconds that an attempt would have taken for everything it has, had it replayed nothing."""
    if lasted <= 0 or calls <= 0:
        return 0.0
    return lasted * (calls + replayed) / calls


def _published(shard: ShardDir) -> ShardStatus:
    m = read_json(shard.manifest)
    ledger = Ledger.from_dict(m["ledger"])
    tokens: dict[str, list[int]] = {}
    calls = 0
    for key, (n, prompt, completion) in m["tokens"].items():
        mine = tokens.setdefault(key.split()[0], [0, 0])
        mine[0] += prompt
        mine[1] += completion
        calls += n
    timings = m["timings"]
    last = m["attempts"][-1]
    status = ShardStatus(
        shard.number,
        "published",
        ledger.planned,
        ledger.accepted,
        ledger.rejected_total,
        ledger.failed_total,
        calls=calls,
        corrupt=m.get("corrupt_journal_lines", 0) + m.get("unread_journals", 0),
        lost=m.get("lost_calls", 0),
        attempts=len(m["attempts"]),
        host=m["host"],
        started=timings["started"],
        at=timings["ended"],
        lasted=timings.get("seconds", 0.0),
        seconds=own_seconds(
            timings.get("seconds") or timings["ended"] - timings["started"],
            last.get("calls", calls),
            last.get("replayed", 0),
        ),
        starts=_starts(m["engines"].get("engines", {}).values()),
        tokens=tokens,
        causes=ledger.failed,
        gold=len(m.get("gold", ())),
    )
    for record in m["attempts"]:
        lasted = record.get("seconds") or max(0.0, (record.get("at") or 0) - (record.get("started") or 0))
        if record["attempt"] == m["attempt"]:
            lasted = max(lasted, timings.get("seconds") or timings["ended"] - timings["started"])
        worker = record.get("worker") or record["attempt"]
        _hold(status, lasted, record.get("gpus"), worker, record.get("waited") or {})
    if not all_fit(status):
        raise TypeError(f"{shard.manifest}: values of other types")
    return status


def _starts(engines: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """What engines' starts took, by phase; nothing where none has started, or none has told."""
    out: dict[str, float] = {}
    for engine in engines:
        if found := engine.get("start_phases"):
            for name, value in {"starts": engine["starts"], **found}.items():
                out[name] = out.get(name, 0.0) + value
    return out if out.get("starts") else {}

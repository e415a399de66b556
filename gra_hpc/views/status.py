"""Where a run stands: files first, one look at Slurm's queue second."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gra_hpc.errors import GraError, IncompleteError, LaunchError, ReleaseError, StorageError
from gra_hpc.foreign import all_fit
from gra_hpc.launch.log_files import Finder
from gra_hpc.owner import Owner, Sightings
from gra_hpc.run.attempts import Heartbeat, attempt_names
from gra_hpc.run.directory import RunDir, ShardDir
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.merged import Merged
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.rounds import remaining
from gra_hpc.run.run import Run
from gra_hpc.run.shard_manifest import ShardManifest
from gra_hpc.storage import read_json
from gra_hpc.views.last_words import last_words

SILENT_S = 90.0
"""An attempt on another node that Slurm does not know, and whose heartbeat was seen to stand still for so long, is
dead."""

SLURM_TIMEOUT_S = 5.0
"""Longest wait for squeue: after it, the files alone must do."""

LOGS_READ = 200
"""Logs of dead shards that are read for a cause, per look; the causes of the others are not named."""


@dataclass
class ShardStatus:
    """One shard."""

    shard: int
    state: str
    """published, running, queued (a worker in Slurm's queue will take it), failed (its last attempt ended with an
    error), stopped (killed, or drained, and nobody will take it), waiting (never started)."""
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
    tokens: dict[str, list[int]] = field(default_factory=dict)
    causes: dict[str, int] = field(default_factory=dict)
    """Why samples of a published shard failed: how many, by `stage: cause`."""
    gold: int = 0
    """Answers to gold questions."""

    @property
    def done(self) -> int:
        return self.accepted + self.rejected + self.failed


@dataclass
class Failure:
    """Shards that ended for the same cause, or a merge."""

    cause: str
    what: str
    """merge, failed or stopped."""
    shards: list[int]
    log: str
    """Log of one of them."""


@dataclass
class RoundStatus:
    """One round."""

    round: int
    merged: bool
    shards: list[ShardStatus]
    ledger: Ledger
    failures: list[Failure] = field(default_factory=list)
    merging: str = ""
    """running: in Slurm's queue, or beside a worker's engines; waiting: in the queue; empty: neither."""
    absent: list[int] = field(default_factory=list)
    """Shards that its merge, which was made without them, does not hold."""
    workers: dict[str, int] = field(default_factory=dict)
    """Its workers in Slurm's queue: how many are waiting, how many running."""
    eta_s: float | None = None
    """Seconds until its shards are through at the present rate; none: nothing runs, or nothing has been measured."""

    @property
    def node_hours(self) -> float:
        """Hours that attempts at its shards had a node so far."""
        return sum(s.held_s for s in self.shards) / 3600

    @property
    def gpu_hours(self) -> float:
        return sum(s.gpu_s for s in self.shards) / 3600

    @property
    def states(self) -> dict[str, int]:
        return dict(Counter(s.state for s in self.shards))


@dataclass
class RunStatus:
    """One run."""

    run: str
    fingerprint: str
    rounds: list[RoundStatus]
    release: str
    """Path of the release, once it is there."""
    slurm: str = ""
    """Why Slurm could not be asked; empty when it was, or need not be."""
    stopped: str = ""
    """Why no more can be done, though there is no release; empty when there can."""
    then: str = ""
    """What to type about that."""
    copy_of: str = ""
    """The run that it is a copy of, where that one's jobs wait or run."""
    planned_rounds: int = 0
    """Rounds that it will have, round 0 among them if there is one."""
    simulated: bool = False
    """Whether its engines make their answers up: rates say nothing of real ones."""

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        out = asdict(self)
        for r, mine in zip(out["rounds"], self.rounds, strict=True):
            r["ledger"], r["states"] = mine.ledger.to_dict(), mine.states
            r["node_hours"], r["gpu_hours"] = round(mine.node_hours, 4), round(mine.gpu_hours, 4)
        return out


Ask = Callable[[], list[Any]]
"""What gives Slurm's queue, or raises LaunchError."""


def ask_queue() -> list[Any]:
    """The user's queue, by one query.

    Raises:
        LaunchError: Slurm cannot be asked.
    """
    from gra_hpc.launch import slurm

    return slurm.queue(timeout=SLURM_TIMEOUT_S)


def queue_once() -> Ask:
    """The same for several runs: asked when the first needs it, and then remembered, an error too."""
    answers: list[list[Any] | LaunchError] = []

    def ask() -> list[Any]:
        if not answers:
            try:
                answers.append(ask_queue())
            except LaunchError as e:
                answers.append(e)
        if isinstance(answers[0], LaunchError):
            raise answers[0]
        return answers[0]

    return ask


def collect(run: Run, ask_slurm: bool = True, ask: Ask = ask_queue) -> RunStatus:
    """The state of every shard of every round that is planned."""
    plan = run.plan
    found: list[tuple[RoundPlan, list[ShardStatus | _Seen]]] = []
    stopped: GraError | None = None
    for number in run.rounds:
        directory = run.round(number)
        try:
            round_plan = RoundPlan.load(directory)
        except IncompleteError as e:
            stopped = e if run.round(number - 1).manifest.is_file() else None
            break
        found.append((round_plan, [_look(directory.shard(s)) for s in range(run.shards_of(number))]))
    done = (run.release / "manifest.json").is_file()
    if done and not stopped:
        try:
            done = not remaining(run)  # a shard that came late, or a death before the release was built anew
        except GraError as e:
            done, stopped = False, e
    queue, trouble = _Queue(), ""
    slurm = any(run.submissions.glob("*.json")) or any(
        isinstance(s, _Seen) and s.beat is not None and s.beat.job for _, shards in found for s in shards
    )
    if ask_slurm and slurm and not done:
        try:
            queue = _Queue.of(run, ask())
        except LaunchError as e:
            trouble = e.what
    rounds = []
    with Sightings() as sightings:
        judge = _Judge(run, queue, sightings)
        for round_plan, seen in found:
            number = round_plan.round
            states = [
                s
                if isinstance(s, ShardStatus)
                else judge.shard(number, s, round_plan.of_shard(s.dir.number, plan.seeds))
                for s in seen
            ]
            merged = run.round(number).manifest.is_file()
            absent = _absent(run, number, len(states)) if merged and number else []
            failures = judge.failures(number, states, merged)
            rounds.append(
                RoundStatus(
                    number,
                    merged,
                    states,
                    _ledger(states),
                    failures,
                    "running"
                    if not merged and judge.merges(run.round(number).merging)
                    else queue.merging.get(number, ""),
                    absent,
                    dict(queue.workers.get(number, {})),
                    eta(states),
                )
            )
    why = (stopped.what, stopped.then) if stopped else ("", "")
    release = str(run.release) if done else ""
    return RunStatus(
        str(run.path),
        plan.fingerprint,
        rounds,
        release,
        trouble,
        *why,
        queue.copy_of,
        len(run.rounds),
        _is_simulated(plan.frozen),
    )


def _is_simulated(frozen: dict[str, Any]) -> bool:
    engine = frozen.get("engine")
    return isinstance(engine, dict) and engine.get("kind") == "simulated"


@dataclass
class _Queue:
    """Slurm's queue, as far as it concerns a run."""

    asked: bool = False
    """Slurm has answered: what it does not know is not alive there."""
    workers: dict[int, Counter[str]] = field(default_factory=dict)
    """By round: workers that are waiting, and that are running."""
    merging: dict[int, str] = field(default_factory=dict)
    """Rounds whose merge waits or runs."""
    tasks: dict[str, Any] = field(default_factory=dict)
    """All of the user's tasks by id, also those that plain sbatch submitted."""
    copy_of: str = ""
    """The run that this one is a copy of, and whose jobs wait or run; empty: none."""

    @classmethod
    def of(cls, run: RunDir, tasks: list[Any]) -> _Queue:
        """What of the user's tasks concerns a run."""
        from gra_hpc.launch.submissions import match, original

        own = match(run, tasks)
        if not own and (of := original(run, tasks)):  # what the files say of jobs is said of that one's
            return cls(True, copy_of=of)
        out = cls(True, tasks={t.id: t for t in tasks if t.active})
        for job, task in own:
            for number in job.rounds:
                if job.kind == "merge":
                    out.merging[number] = "running" if task.running else "waiting"
                elif not task.hopeless:
                    out.workers.setdefault(number, Counter())["running" if task.running else "waiting"] += 1
        return out


@dataclass
class _Seen:
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


def _look(shard: ShardDir) -> ShardStatus | _Seen:
    damaged = ""
    if shard.manifest.is_file():
        try:
            return _published(shard)
        except (StorageError, LookupError, TypeError, ValueError, AttributeError):
            damaged = _damage(shard)
    names = attempt_names(shard)
    newest = shard.attempt(names[-1] if names else "")
    before = tuple(b for name in names[:-1] if (b := Heartbeat.read(shard.attempt(name))))
    return _Seen(shard, len(names), Heartbeat.read(newest) if names else None, newest.heartbeat, damaged, before)


def _absent(run: Run, number: int, shards: int) -> list[int]:
    """Shards that a round's merge does not hold; of one that cannot be read others speak."""
    try:
        merged = Merged.load(run.round(number))
    except StorageError:
        return []
    return [] if merged is None or merged.complete else [s for s in range(shards) if (number, s) not in merged.shards]


def _damage(shard: ShardDir) -> str:
    """What is wrong with a manifest that cannot be used."""
    try:
        ShardManifest.load(shard)
    except ReleaseError as e:
        return e.what
    return f"{shard.manifest}: not as it was published"


def eta(shards: list[ShardStatus]) -> float | None:
    """Seconds until all shards are through, if as many run as run now, at the rate measured so far.

    None before a tenth of what has begun is done: a window's samples are finished late and all at once.
    """
    running = [s for s in shards if s.state == "running"]
    begun = [s for s in shards if s.seconds > 0]
    done, spent = sum(s.done for s in begun), sum(s.seconds for s in begun)
    if not running or not done or done < 0.1 * sum(s.planned for s in begun):
        return None
    rate = done / spent  # of one shard; both published and running ones have measured it
    slowest = max((s.planned - s.done) / rate for s in running)
    left = sum(s.planned - s.done for s in shards if s.state in ("running", "queued", "waiting"))
    return max(slowest, left / rate / len(running))


def _ledger(shards: list[ShardStatus]) -> Ledger:
    """Of the round so far; reasons are in the manifests."""
    return Ledger(
        planned=sum(s.planned for s in shards),
        accepted=sum(s.accepted for s in shards),
        rejected={"all": sum(s.rejected for s in shards)},
        failed={"all": sum(s.failed for s in shards)},
        pending=sum(s.planned - s.done for s in shards),
    )


@dataclass
class _Judge:
    """From files and queue to states and causes."""

    run: RunDir
    queue: _Queue
    sightings: Sightings
    finder: Finder | None = None
    read: int = 0

    def shard(self, round_: int, seen: _Seen, units: int) -> ShardStatus:
        beat = seen.beat
        out = ShardStatus(seen.dir.number, "waiting", units, attempts=seen.attempts)
        if beat is not None:
            for key in (
                "accepted", "rejected", "failed", "calls", "replayed", "corrupt", "host", "job", "phase", "message",
                "started", "at", "tokens",
            ):  # fmt: skip
                setattr(out, key, getattr(beat, key))
            out.lasted = beat.seconds
            out.seconds = _own_seconds(beat.seconds or beat.at - beat.started, beat.calls, beat.replayed)
            if beat.phase == "running" and not beat.calls:
                out.phase = "starting"  # until an engine has answered
            _hold(out, [*seen.before, beat])
        if seen.damaged:
            out.state, out.message = "failed", f"{seen.damaged}: move it away"
            return out
        out.state = self._state(beat, seen.heart, round_)
        if out.state in ("failed", "stopped", "waiting"):
            self._explain(out, round_, seen.dir, beat)
        return out

    def merges(self, merging: ShardDir) -> bool:
        """Whether a worker merges a round beside its engines."""
        names = attempt_names(merging)
        newest = merging.attempt(names[-1] if names else "")
        beat = Heartbeat.read(newest) if names else None
        return beat is not None and self._of_attempt(beat, newest.heartbeat) == "running"

    def _state(self, beat: Heartbeat | None, heart: Path, round_: int) -> str:
        state = "waiting" if beat is None else self._of_attempt(beat, heart)
        return "queued" if state in ("waiting", "stopped") and self.queue.workers.get(round_) else state

    def _of_attempt(self, beat: Heartbeat, heart: Path) -> str:
        task = self.queue.tasks.get(beat.job)
        if task is not None and not (beat.ended and task.running):  # else its worker is at another shard by now
            return "running" if task.running else "queued"
        if beat.ended:
            return "failed" if beat.phase == "failed" else "stopped"
        if beat.job and self.queue.asked:
            return "stopped"
        return "stopped" if self.sightings.dead(Owner.of(beat.owner), heart, SILENT_S) else "running"

    def _explain(self, out: ShardStatus, round_: int, shard: ShardDir, beat: Heartbeat | None) -> None:
        """Say from its log why a shard ended; also of a job that ended before its attempt began."""
        if out.state == "waiting" and not self.queue.asked:
            return
        self.finder = self.finder or Finder(self.run)
        log = self.finder.shard(round_, shard, beat).main
        if log is None:
            return
        out.log = str(log)
        if out.state == "waiting":
            out.state = "failed"
        if out.state == "failed" and out.message:
            return
        self.read += 1
        if self.read <= LOGS_READ and (words := last_words(log)):
            out.message = words

    def failures(self, round_: int, shards: list[ShardStatus], merged: bool) -> list[Failure]:
        """Dead shards by cause, the most frequent first; and a merge that failed."""
        groups: dict[tuple[str, str], Failure] = {}
        for s in shards:
            if s.state not in ("failed", "stopped"):
                continue
            cause = (s.message or "ended without a word").split(" -> ")[0]
            key = s.state, re.sub(r"[\da-f]{4,}|\d+|/\S+", "#", cause)
            groups.setdefault(key, Failure(cause, s.state, [], s.log)).shards.append(s.shard)
        found = sorted(groups.values(), key=lambda f: -len(f.shards))
        if (
            not merged
            and round_ not in self.queue.merging
            and self.queue.asked
            and all(s.state == "published" for s in shards)
        ):
            self.finder = self.finder or Finder(self.run)
            log = self.finder.merge(round_).main
            if log is not None:
                found.append(Failure(last_words(log, merge=True) or "ended without a word", "merge", [], str(log)))
        return found


def _hold(out: ShardStatus, beats: Iterable[Heartbeat]) -> None:
    for beat in beats:
        lasted = max(0.0, beat.seconds or beat.at - beat.started)
        out.held_s += lasted
        out.gpu_s += lasted * (beat.gpus or 0)


def _own_seconds(lasted: float, calls: int, replayed: int) -> float:
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
        seconds=_own_seconds(
            timings.get("seconds") or timings["ended"] - timings["started"],
            last.get("calls", calls),
            last.get("replayed", 0),
        ),
        tokens=tokens,
        causes=ledger.failed,
        gold=len(m.get("gold", ())),
    )
    for record in m["attempts"]:
        lasted = record.get("seconds") or max(0.0, (record.get("at") or 0) - (record.get("started") or 0))
        if record["attempt"] == m["attempt"]:
            lasted = max(lasted, timings.get("seconds") or timings["ended"] - timings["started"])
        status.held_s += lasted
        status.gpu_s += lasted * (record.get("gpus") or 0)
    if not all_fit(status):
        raise TypeError(f"{shard.manifest}: values of other types")
    return status

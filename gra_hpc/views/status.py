"""Where a run stands: files first, one look at Slurm's queue second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from gra_hpc.errors import GraError, IncompleteError, LaunchError, StorageError
from gra_hpc.owner import Sightings
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.merged import Merged, gone
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.rounds import gone_shards, remaining
from gra_hpc.run.run import Run
from gra_hpc.run.unneeded import Unneeded
from gra_hpc.views.shard_status import Seen, ShardStatus, look
from gra_hpc.views.states import Failure, Judge, Queue

SLURM_TIMEOUT_S = 5.0
"""Longest wait for squeue: after it, the files alone must do."""


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
    target: int = 0
    """Rows that it is to keep (`method.target_accepted`); 0: as many as survive."""
    kept: int = 0
    """Rows that its merge kept of those accepted."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Accepted rows that its merge dropped, by step."""
    workers: dict[str, int] = field(default_factory=dict)
    """Its workers in Slurm's queue: how many are waiting, how many running."""
    eta_s: float | None = None
    """Seconds until its shards are through at the present rate; none: nothing runs, or nothing has been measured."""
    unneeded: int = 0
    """Shards that are not needed: its target is met without them."""
    unread: bool = False
    """Its merge's manifest cannot be read: what it kept is not known."""

    @property
    def node_hours(self) -> float:
        """Hours that attempts at its shards had a node so far."""
        return sum(s.held_s for s in self.shards) / 3600

    @property
    def gpu_hours(self) -> float:
        return sum(s.gpu_s for s in self.shards) / 3600

    @property
    def by_worker(self) -> dict[str, dict[str, float]]:
        """Of every worker that was at its shards: `shards`, `seconds`, and `attempts.WAITED`, added up."""
        out: dict[str, dict[str, float]] = {}
        for shard in self.shards:
            for name, mine in shard.workers.items():
                total = out.setdefault(name, {"shards": 0})
                total["shards"] += 1
                for what, seconds in mine.items():
                    total[what] = total.get(what, 0.0) + seconds
        return out

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
    """Why no more can be done though there is no release, or with what it was made of; empty when there can."""
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
    found: list[tuple[RoundPlan, list[ShardStatus | Seen]]] = []
    stopped: GraError | None = None
    for number in run.rounds:
        directory = run.round(number)
        try:
            round_plan = RoundPlan.load(directory)
        except IncompleteError as e:
            stopped = e if run.round(number - 1).manifest.is_file() else None
            break
        found.append((round_plan, [look(directory.shard(s)) for s in range(run.shards_of(number))]))
    done = (run.release / "manifest.json").is_file()
    if done and not stopped:
        try:
            done = not remaining(run)  # a shard that came late, or a death before the release was built anew
        except GraError as e:
            done, stopped = False, e
    lost: GraError | None = None
    if not stopped:
        try:
            lost = next((gone(*one) for one in gone_shards(run)), None)
        except StorageError as e:
            lost = e
    queue, trouble = Queue(), ""
    slurm = any(run.submissions.glob("*.json")) or any(
        isinstance(s, Seen) and s.beat is not None and s.beat.job for _, shards in found for s in shards
    )
    if ask_slurm and slurm and not done:
        try:
            queue = Queue.of(run, ask())
        except LaunchError as e:
            trouble = e.what
    rounds = []
    with Sightings() as sightings:
        judge = Judge(run, queue, sightings)
        for round_plan, seen in found:
            number = round_plan.round
            states = [
                s
                if isinstance(s, ShardStatus)
                else judge.shard(number, s, round_plan.of_shard(s.dir.number, plan.seeds))
                for s in seen
            ]
            merged = run.round(number).manifest.is_file()
            spared = _spare(run, number, states) if round_plan.target else 0
            merge = _merge(run, number) if merged and number else None
            counts = merge.manifest["counts"] if merge else {}
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
                    _absent(merge, number, len(states)),
                    round_plan.target,
                    counts.get("kept", 0),
                    counts.get("dropped", {}),
                    dict(queue.workers.get(number, {})),
                    eta(states),
                    spared,
                    bool(merged and number and merge is None),
                )
            )
    wrong = stopped or lost
    why = (wrong.what, wrong.then) if wrong else ("", "")
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


def _spare(run: Run, number: int, shards: list[ShardStatus]) -> int:
    """Have shards that nobody has begun be `unneeded` where they are; how many."""
    begun = {s.shard for s in shards if s.attempts or s.state == "published"}
    if len(begun) == len(shards):
        return 0
    try:
        # whether its settings name it at all: to load them takes as long as all else that is done here
        if not run.plan.decided and b"stop_at_target: true" not in run.config_file.read_bytes():
            return 0
        accepted = {s.shard: s.accepted for s in shards if s.state == "published"}
        unneeded = Unneeded(run, number, accepted).shards()
    except (GraError, OSError):  # of a merge that cannot be read others speak
        return 0
    for s in shards:
        if s.shard in unneeded and s.shard not in begun:
            s.state, s.message, s.log = "unneeded", "", ""
    return sum(s.state == "unneeded" for s in shards)


def _merge(run: Run, number: int) -> Merged | None:
    """A round's merge; of one that cannot be read others speak."""
    try:
        return Merged.load(run.round(number))
    except StorageError:
        return None


def _absent(merged: Merged | None, number: int, shards: int) -> list[int]:
    """Shards that a round's merge does not hold."""
    if merged is None or merged.complete:
        return []
    held = merged.shards
    return [s for s in range(shards) if (number, s) not in held]


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

"""Where an experiment stands: files first, one look at Slurm's queue second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gra_hpc.config import presets
from gra_hpc.config.site import Executor
from gra_hpc.errors import GraError, LaunchError
from gra_hpc.experiments.config import ExperimentConfig, Row
from gra_hpc.experiments.directory import ExperimentDir, seeds_of
from gra_hpc.foreign import fits
from gra_hpc.run.directory import OutputDir, RunDir
from gra_hpc.run.run import Run
from gra_hpc.storage import read_object

QUEUE_TIMEOUT_S = 5.0


@dataclass
class Part:
    """One part of a row: its data, its model or its result."""

    state: str
    """done, running, queued, stopped (begun, and nobody is at it), waiting (not begun), none (the row has no such
    part)."""
    detail: str = ""
    path: str = ""

    def __str__(self) -> str:
        return " ".join(x for x in (self.state, self.detail) if x and x != "none") or "-"


@dataclass
class RowStatus:
    """One row, by training seed."""

    row: str
    seed: int
    data: Part
    model: Part
    result: Part

    @property
    def done(self) -> bool:
        return self.result.state == "done"


def collect(made: ExperimentDir, config: ExperimentConfig, rows: Sequence[Row]) -> tuple[list[RowStatus], str]:
    """The state of every row; and why Slurm could not be asked, if it had to be."""
    queue, trouble = _queue(made)
    out = []
    data: dict[str, Part] = {}
    for row in rows:
        trained = config.data[row.data].trained
        for seed in seeds_of(config, row):
            if not trained:
                first, second = Part("none"), Part("none")
            else:
                if row.made not in data:
                    data[row.made] = _data(made.data(row), queue)
                first, second = data[row.made], _job(made.model(row, seed), queue)
            out.append(RowStatus(str(row), seed, first, second, _job(made.result(row, seed), queue)))
    return out, trouble


def lines(statuses: Sequence[RowStatus]) -> Iterator[str]:
    """A table for a terminal; the last line says what comes next."""
    cells = [("row", "data", "model", "result")]
    several = len({s.seed for s in statuses}) > 1
    for s in statuses:
        name = f"{s.row} seed {s.seed}" if several else s.row
        cells.append((name, str(s.data), str(s.model), str(s.result)))
    widths = [max(len(c[i]) for c in cells) for i in range(4)]
    for c in cells:
        yield "  ".join(text.ljust(w) for text, w in zip(c, widths, strict=True)).rstrip()
    stopped = {st.path for s in statuses for st in (s.data, s.model, s.result) if st.state == "stopped"}
    yield f"{sum(s.done for s in statuses)} of {len(statuses)} done"
    for path in sorted(stopped):
        yield f"stopped: {path} (logs: {path}/logs)"


def to_dict(statuses: Sequence[RowStatus], trouble: str) -> dict[str, Any]:
    """For `--json`."""
    return {"rows": [asdict(s) for s in statuses], "slurm": trouble}


def _queue(made: ExperimentDir) -> tuple[list[Any], str]:
    """All of this user's jobs that wait or run, if any job of the experiment was ever submitted."""
    from gra_hpc.launch import slurm

    if not any(made.path.glob("*/*/submissions/*.json")):
        return [], ""
    try:
        return [t for t in slurm.queue(timeout=QUEUE_TIMEOUT_S) if t.active], ""
    except LaunchError as e:
        return [], e.what


def _jobs(path: Path, queue: Sequence[Any]) -> str:
    """running, queued, or nothing: what Slurm has of a directory."""
    from gra_hpc.launch.submissions import match

    mine = [task for _, task in match(OutputDir(path), queue)] if queue else []
    if any(t.running for t in mine):
        return "running"
    return "queued" if any(not t.hopeless for t in mine) else ""


def _data(run: RunDir, queue: Sequence[Any]) -> Part:
    """A run: its release, or its rounds and shards."""
    from gra_hpc.views.status import collect as collect_run

    path = str(run.path)
    if (run.release / "manifest.json").is_file():
        from gra_hpc.release.manifest import read

        try:
            return Part("done", f"{sum(s['rows'] for s in read(run.release).get('splits', {}).values()):,} rows", path)
        except GraError as e:
            return Part("stopped", e.what, path)
    if not run.plan_file.is_file():
        return Part("waiting", "", path)
    try:
        opened = Run.to_look_at(run.path)
        rounds, of = collect_run(opened, ask_slurm=False).rounds, opened.config.method.rounds
    except GraError as e:
        return Part("stopped", e.what, path)
    at = next((r for r in rounds if not r.merged), rounds[-1])
    published = at.states.get("published", 0)
    detail = f"round {at.round} of {of}, {published} of {len(at.shards)} shards"
    alive = _jobs(run.path, queue)
    if not alive and at.states.get("running"):
        alive = "running"
    begun = any(r.states.get(s) for r in rounds for s in ("published", "failed", "stopped"))
    return Part(alive or ("stopped" if begun else "waiting"), detail if begun or alive else "planned", path)


def _job(path: Path, queue: Sequence[Any]) -> Part:
    """A fine-tuning or an evaluation."""
    if (path / "done.json").is_file():
        try:
            return Part("done", _summary(metrics_of(path / "done.json")), str(path))
        except GraError as e:
            return Part("stopped", e.what, str(path))
    if not (path / "config.yaml").is_file():
        return Part("waiting", "", str(path))
    alive = _jobs(path, queue)
    results = len(list(path.glob("benchmarks/*/result.json")))
    steps = [int(p.name.rpartition("-")[2]) for p in path.glob("checkpoints/*/checkpoint-*") if p.is_dir()]
    detail = f"{results} benchmarks" if results else f"step {max(steps)}" if steps else ""
    return Part(alive or "stopped", detail, str(path))


def metrics_of(done: Path) -> dict[str, float]:
    """The figures of a job that is done; those that are none are left out.

    Raises:
        StorageError: the file cannot be read, or is another one.
    """
    found = read_object(done).get("metrics", {})
    return {k: v for k, v in found.items() if fits(v, float)} if isinstance(found, dict) else {}


def _summary(metrics: dict[str, Any]) -> str:
    """A figure for people: the mean, a lone benchmark's value, or how the loss went."""
    if "loss_first" in metrics and "loss_last" in metrics:
        return f"loss {metrics['loss_first']:.3g} to {metrics['loss_last']:.3g}"
    if "mean" in metrics:
        return f"mean {metrics['mean']:.2f}"
    return ", ".join(f"{k} {v:.4g}" for k, v in list(metrics.items())[:2])


def executor(config: ExperimentConfig) -> Executor:
    """Who runs its jobs."""
    return presets.site(config.cluster).executor if config.cluster else Executor.local

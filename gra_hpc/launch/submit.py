"""`gra submit` and `gra resume`: hand what is left of a run to its executor."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NoReturn

from gra_hpc.config.site import Executor
from gra_hpc.errors import GraError, LaunchError, ReleaseError
from gra_hpc.flows.registry import flow_of
from gra_hpc.launch import local
from gra_hpc.launch.round_end import tidy
from gra_hpc.launch.submissions import Does, sole_submitter
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.merged import gone
from gra_hpc.run.publish import is_published
from gra_hpc.run.rounds import gone_shards, remaining
from gra_hpc.run.run import Run
from gra_hpc.run.signal_lead import lead_for, slowest_call
from gra_hpc.run.target import Target, not_needed
from gra_hpc.run.unneeded import Unneeded
from gra_hpc.terminal import counted, say, shown, tell, word

Progress = Callable[[Run], AbstractContextManager[Callable[[], None]]]
"""Opens what shows how a local run goes on; inside, a function to call often."""


def submit(run: Run, resume: bool, progress: Progress = lambda _: nullcontext(lambda: None)) -> None:
    """Submit a run that was not started (`resume=False`), or what is left of one.

    Args:
        progress: what shows how a local run goes on (`views.progress.progress`); by default nothing does.

    Raises:
        LaunchError: the run was started before, and `resume` is off; or another process submits it.
    """
    here = run.config.site.executor is Executor.local
    with sole_submitter(run, Does.runs if here else Does.submits):
        _submit(run, resume, progress)


def _submit(run: Run, resume: bool, progress: Progress) -> None:
    config = run.config
    if not resume and started(run):
        raise LaunchError(f"{run.path}: was started before", f"gra resume {word(run.path)}")
    steps = remaining(run)
    if not steps:
        tidy(run)
        lost = gone_shards(run)
        missing = sum(map(len, _absent(run))) - len(lost)
        without = f", without {counted(missing, 'shard')}" if missing else ""
        tell(f"nothing left to do; release in {shown(run.release)}{without}")
        if lost:
            trouble = gone(*lost[0])
            tell(trouble.what)
            say(f"next: {trouble.then}")
        elif missing:
            say(f"next: gra resume {shown(run.path)} merge.allow_partial=false  (to make them)")
        return
    if config.site.executor is Executor.slurm:
        from gra_hpc.launch.arrays import submit_steps

        if "%" in str(run.path):
            raise LaunchError(f"{run.path}: Slurm reads % in the names of logs", "plan it in a directory without one")
        for line in size_lead(run):
            tell(line)
        for line in submit_steps(run, steps):
            tell(line)
        say(f"next: gra status {shown(run.path)}")
        return
    try:
        with progress(run) as watch:
            local.run_all(run, watch)
    except (GraError, OSError):
        run.check_there()  # whatever is missing: all of it is, where somebody has removed the run
        raise
    finish(run)


def _absent(run: Run) -> Iterator[list[int]]:
    """Of each merged round, the shards that are not published and were needed."""
    for number in run.rounds:
        unneeded = Unneeded(run, number).shards()
        shards = (s for s in range(run.shards_of(number)) if s not in unneeded)
        yield [s for s in shards if not is_published(run.round(number).shard(s))]


def add(run: Run, workers: int, overrides: Sequence[str]) -> Iterator[str]:
    """Submit more workers to the round that a run is at; they may run elsewhere.

    Args:
        overrides: settings of the site for these workers alone.

    Yields:
        What was done, for people.

    Raises:
        LaunchError: the run does not use Slurm, or nothing is left to do, or Slurm refuses.
    """
    from gra_hpc.launch.arrays import submit_steps

    if run.config.site.executor is not Executor.slurm:
        raise LaunchError(f"{run.path}: runs on this machine, not in Slurm", "python jobs/synthesize.py RUN, beside it")
    with sole_submitter(run):
        steps = remaining(run)
        if not steps or not steps[0].shards:
            raise LaunchError(f"{run.path}: no shard is left to add workers for", f"gra status {word(run.path)}")
        elsewhere = Run.open(run.path, overrides).config if overrides else None
        yield from submit_steps(run, steps, workers, elsewhere)
    yield f"next: gra status {shown(run.path)}"


def size_lead(run: Run) -> Iterator[str]:
    """Leave enough time before the limit for the calls that this run makes; `config` and the saved one change.

    Yields:
        What was changed, or cannot be, for people.
    """
    lead, said = lead_for(run.config, slowest_call(run))
    if lead != run.config.site.signal_lead_s:
        run.config.site.signal_lead_s = lead
        run.save()
    if said:
        yield said


def refuse_settings(run: Run, overrides: Sequence[str]) -> NoReturn:
    """Refuse settings for a run that is submitted: those it was planned with are settled.

    Raises:
        FingerprintError: they are frozen: a new run has them.
        LaunchError: always, with the command that takes them.
    """
    Run.open(run.path, overrides)
    so = "was started before" if started(run) else "never started: gra resume starts it, and takes settings"
    raise LaunchError(
        f"{run.path}: {so}; gra submit takes them with --add alone, for more workers",
        f"gra resume {shown(run.path)} {shlex.join(overrides)}",
    )


def started(run: Run) -> bool:
    """Whether any job of the run was submitted or has left a trace."""
    return any(run.submissions.glob("*.json")) or any(run.path.glob("rounds/*/shards/*"))


def finish(run: Run) -> None:
    """Say what a finished run has made."""
    from gra_hpc.release.manifest import read
    from gra_hpc.run.merged import FORWARDED, not_kept

    manifest = read(run.release)
    try:
        ledger = Ledger.from_dict(manifest["ledger"])
        splits, dropped = manifest["splits"], dict(manifest["dropped"])
        target = Target.of((r["target"], r["survived"]) for r in manifest["rounds"])
        partial = bool(manifest["coverage"]["missing"])
        unneeded = sum(map(len, manifest["coverage"].get("unneeded", {}).values()))
    except (KeyError, TypeError, ValueError):
        raise ReleaseError(f"{run.release}: not a release", f"gra release verify {word(run.release)}") from None
    rows = sum(split["rows"] for split in splits.values())
    say()
    say(f"release: {shown(run.release)}")
    if rows:
        say(f"open it: datasets.load_dataset({str(run.release)!r})")
    if manifest.get("simulated") and flow_of(run.config).asks:
        tell("note:    the engine was simulated, its answers are made up; for real ones: engine.kind=vllm", 9)
    tell(f"ledger:  {ledger.line()}", 9)
    why = f" ({words})" if (words := "; ".join(not_kept(dropped))) else ""
    tell(f"rows:    {rows} of {ledger.accepted - dropped.get(FORWARDED, 0)} accepted{why}", 9)
    if target.wanted:
        spared = f"; {not_needed(unneeded, manifest['coverage']['expected'])}" if unneeded else ""
        tell(f"target:  {target}{spared}", 9)
        if not partial and (advice := target.advice(ledger.planned - ledger.pending)):
            tell(f"         {advice}", 9)
    if not rows:
        why = ", ".join(f"{n} {reason}" for reason, n in ledger.causes()[:3])
        tell(f"         it is empty: {why or 'the merge dropped all that was accepted'}", 9)
        say(f"next: gra inspect {shown(run.path)}{ledger.to_inspect}")

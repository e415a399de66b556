"""`gra decide RUN accept_mean=7.5 --to RUN2`: a run of its own, of the same answers under other thresholds.

Its shards are the run's, decided again; it is merged and released as any run, and says in plan, card and manifest what
it was decided from. No engine starts.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from gra_hpc import __version__
from gra_hpc.config import presets
from gra_hpc.config.settings import RunConfig
from gra_hpc.errors import ConfigError, GraError, ReleaseError, nearest
from gra_hpc.flows.registry import flow_of
from gra_hpc.judging.decisions import decided
from gra_hpc.launch.round_end import finish_round
from gra_hpc.parquet import whole_table
from gra_hpc.permissions import closed_directory
from gra_hpc.records import digest, sample_schema
from gra_hpc.release.inputs import Inputs, Table, read_slices
from gra_hpc.release.limits import UNDECIDED
from gra_hpc.run import disk_space
from gra_hpc.run.directory import RunDir, clear_vacant, is_vacant
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.merged import as_planned, seeds_of
from gra_hpc.run.plan import Plan, frozen
from gra_hpc.run.publish import table_entry
from gra_hpc.run.rounds import remaining
from gra_hpc.run.run import Run
from gra_hpc.storage import OWN, full_disk_as_error, sealed, write_atomic
from gra_hpc.terminal import word

COPIES, FILES = 4, 64
"""Of the samples' bytes: shards, kept rows, pool, release; and files beside those of the shards."""
_BATCH = 8192


def judged(run: Run, words: Sequence[str]) -> RunConfig:
    """A run's settings with other thresholds.

    Args:
        words: `key=value`, with or without `method.` before the key.

    Raises:
        ConfigError: another key, an impossible value, or a run without scores.
        GraError: a run that was decided from another one.
    """
    if run.plan.decided:
        origin = run.plan.decided.get("run", "RUN")
        raise GraError(
            f"{run.path}: was itself decided from {origin}, and holds only the verdicts that counted there",
            f"gra decide {word(origin)} {' '.join(words) or 'accept_mean=7.5'} --to NEW_RUN  (wherever {origin} lies)",
        )
    thresholds = flow_of(run.config).thresholds(run.config.method)
    if not thresholds:
        raise ConfigError(
            f"{run.path}: Reviewers have scored nothing there (method.flow={run.config.method.flow},"
            f" review_response={str(run.config.method.review_response).lower()})",
            f"gra release verify {word(run.release)}  (what it made; its page says more: {run.release}/README.md)",
        )
    changed = []
    for setting in words:
        key = setting.partition("=")[0].removeprefix("method.")
        if key not in thresholds:
            raise ConfigError(
                f"{setting}: not a threshold of the committee{nearest(key, thresholds)}",
                f"one of {', '.join(thresholds)}",
            )
        changed.append(f"method.{setting.removeprefix('method.')}")
    return presets.load(run.config_file, changed)


def decide(run: Run, words: Sequence[str], to: Path) -> Run:
    """Decide again, merge, and release.

    Args:
        run: its rounds are all merged.
        words: the thresholds, as `judged` takes them.
        to: the new run's directory. One that was begun with the same words is finished.

    Raises:
        ConfigError: of `judged`.
        FingerprintError: its settings or the code are not those it was planned with.
        IncompleteError: a round of the run is not merged.
        GraError: something else is at `to`.
    """
    run.plan.verify(run.config, run)
    config = judged(run, words)
    inputs = Inputs.of_run(run)
    plan = _plan(inputs, config)
    target = RunDir(to.absolute())
    if target.plan_file.is_file():
        there = Plan.load(target, own=True)
        if (there.fingerprint, there.decided) != (plan.fingerprint, plan.decided):
            raise GraError(f"{to}: another run", "choose another directory: --to DIR")
    else:
        if not is_vacant(target.path):
            raise GraError(f"{to}: exists and is not a run", "choose another directory: --to DIR")
        _write(inputs, config, plan, target)
    made = Run.open(target.path)
    for step in remaining(made):
        finish_round(made, step.round)
    return made


def _plan(inputs: Inputs, config: RunConfig) -> Plan:
    """The plan of the new run: the old one's, but for what the fingerprint digests, and with its lineage."""
    old = inputs.run.plan
    identities = {k: v.identity for k, v in old.models.items()}
    what = frozen(
        config,
        old.frozen["seeds"],
        identities,
        old.embed,
        old.benchmarks,
        old.own_templates,
        old.frozen.get("gold", ""),
    )
    before = inputs.run.config.method
    unneeded = {str(r.number): found for r in inputs.rounds if (found := r.coverage.get("unneeded"))}
    now = {k: (getattr(before, k), getattr(config.method, k)) for k in flow_of(config).thresholds(before)}
    return replace(
        old,
        fingerprint=digest(what),
        frozen=what,
        version=__version__,
        created=time.time(),
        decided={
            "run": inputs.run.name,
            "fingerprint": old.fingerprint,
            "merges": [[r.number, r.digest] for r in inputs.all_rounds],
            "rounds": [asdict(r.plan) for r in inputs.rounds],
            "thresholds": {k: [getattr(v, "value", v) for v in pair] for k, pair in now.items()},
            **({"unneeded": unneeded} if unneeded else {}),
        },
    )


def _write(inputs: Inputs, config: RunConfig, plan: Plan, target: RunDir) -> None:
    """The run's directory, whole: settings, plan, seeds, and every shard decided again."""
    run = inputs.run
    if any(r.coverage["missing"] or r.coverage.get("unneeded") for r in inputs.rounds):
        config.merge.allow_partial = True  # as it was merged: what was not there then is not there now
    target.path.parent.mkdir(parents=True, exist_ok=True)
    tables = [t for r in inputs.all_rounds for t in r.tables()]
    size = sum(t.manifest["samples"]["bytes"] for t in tables)
    disk_space.check(target.path.parent, disk_space.DiskSpace(COPIES * size, 4 * len(tables) + FILES))
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.path.parent))
    draft = RunDir(temporary)
    try:
        with full_disk_as_error(target.path):
            closed_directory(draft.logs)
            closed_directory(draft.submissions, 0o700)
            shutil.copyfile(seeds_of(run, run.plan), draft.seeds)
            shutil.copyfile(as_planned(run, run.plan, run.seed_rejects), draft.seed_rejects)
            if run.plan.gold:
                shutil.copyfile(as_planned(run, run.plan, run.gold), draft.gold)
            for number in (0, 1) if inputs.prepared else (1,):
                draft.round(number).path.mkdir(parents=True)
                shutil.copyfile(run.round(number).plan_file, draft.round(number).plan_file)
            for table in tables:
                _again(table, config, plan, draft)
            write_atomic(draft.config_file, presets.dump(config).encode(), mode=OWN)
            write_atomic(draft.plan_file, sealed(asdict(plan)), mode=OWN)
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o777 & ~mask)
            clear_vacant(target.path)
            temporary.rename(target.path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _again(table: Table, config: RunConfig, plan: Plan, draft: RunDir) -> None:
    """One shard, decided again. Its calls are the same file, where the file system can name it twice."""
    shard = draft.round(table.manifest["round"]).shard(table.shard.number)
    shard.path.mkdir(parents=True)
    samples, ledger = shard.samples(table.attempt), Ledger()
    schema = sample_schema(plan.thought_out, plan.context, plan.propensity, plan.rubric)
    with whole_table(samples, schema) as writer:
        for rows in read_slices(table.samples, schema.names, _BATCH):
            now = decided(rows, config.method)
            writer.write_table(now)
            ends = (now[name].to_pylist() for name in ("status", "stage", "reason"))
            ledger += Ledger.of(len(now), zip(*ends, strict=True))
    ledger.check(str(table.shard.path))
    was = Ledger.from_dict(table.manifest["ledger"])
    if ledger.planned != was.planned:
        raise ReleaseError(f"{table.shard.path}: {ledger.planned} samples, its manifest says {was.planned}")
    _same(table.shard.calls(table.attempt), shard.calls(table.attempt))
    changed = {
        "fingerprint": plan.fingerprint,
        "samples": table_entry(samples),
        "ledger": ledger.to_dict(),
        "version": __version__,
        "basis": "",
    }
    write_atomic(shard.manifest, sealed(table.manifest | changed))


def _same(source: Path, target: Path) -> None:
    """The same file under another name; a copy on another file system. Its manifest says what is in it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def say_decided(run: Run, words: Sequence[str], to: Path | None) -> Iterator[str]:
    """`decide`, and what came of it."""
    if to is None:
        raise GraError(
            f"{run.path}: where to?", f"gra decide {word(run.path)} accept_mean=7.5 --to {word(run.path)}-again"
        )
    made = decide(run, words, to)
    ledgers = [sum((r.ledger for r in Inputs.of_run(one).rounds), Ledger()) for one in (run, made)]
    for name, ledger in zip(("was", "is"), ledgers, strict=True):
        yield f"{name:4} {ledger.line()}"
    open_ = sum(ledgers[1].failed.get(reason, 0) for reason in UNDECIDED)
    if open_:
        yield f"     {open_} of the failed are undecided: an Adjudicator, or a Reviewer, was never asked about them"
    yield f"release in {made.release}"

"""Planning a run: seeds are read, models found, everything digested, and the run's directory appears whole."""

from __future__ import annotations

import functools
import os
import shutil
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gra_hpc import __version__, once
from gra_hpc.config import presets
from gra_hpc.config.frozen import changes
from gra_hpc.config.settings import RunConfig
from gra_hpc.errors import FingerprintError, GraError, SeedError
from gra_hpc.flows import own_templates
from gra_hpc.flows.domains import domains_of
from gra_hpc.flows.registry import Flow, flow_of
from gra_hpc.flows.render import wording
from gra_hpc.models.identity import Say
from gra_hpc.permissions import closed_directory
from gra_hpc.records import digest
from gra_hpc.run import disk_space
from gra_hpc.run import gold as golden
from gra_hpc.run.directory import RunDir, clear_vacant, is_vacant
from gra_hpc.run.pins import ModelPin, pin_embed, pin_models, special_pattern
from gra_hpc.run.plan import Plan, RoundPlan, first_round, frozen
from gra_hpc.run.run import Run
from gra_hpc.sources import benchmarks as benchmark_files
from gra_hpc.sources import gold, rejected
from gra_hpc.sources.gold import Gold
from gra_hpc.sources.seed_table import Seeds
from gra_hpc.storage import OWN, entry, fsync_dir, fsync_file, full_disk_as_error, sealed, write_atomic
from gra_hpc.terminal import counted
from gra_hpc.text import languages

SEEDS_PER_SHARD_0 = 2000
"""Seeds that one shard of round 0 describes: one call each, where a candidate takes about ten."""


def make(
    path: Path,
    config: RunConfig,
    before_writing: Callable[[RunConfig, Plan], object] | None = None,
    say: Say = lambda _: None,
) -> Run:
    """Plan a run: read the seeds, pin the models, digest it all, and write the run directory whole.

    Planning again with the same settings changes nothing but what is allowed to change (placement, site, ...).

    Args:
        before_writing: called with the plan; if it raises, nothing is written.
        say: told what is read for long.

    Raises:
        SeedError, EngineError, StorageError: what cannot be read or written.
        FingerprintError: the directory holds a run with other settings.
    """
    from gra_hpc.sources import seeds as seed_module

    run = RunDir(path.absolute())
    if not run.plan_file.exists() and not is_vacant(run.path):
        raise GraError(f"{path}: exists and is not a run", "choose another directory")
    flow = flow_of(config)
    own = own_templates.read(config.method.prompts, flow, wording(config.method))
    found = functools.cache(lambda: pin_models(config, say))
    with full_disk_as_error(run.path, "make room, then plan again"):
        seed_set = seed_module.load(
            config.seeds,
            domains_of(config.method),
            config.site.scratch,
            lambda: special_pattern(found()),
            say,
            run.path,
        )
    seeds = seed_set.seeds
    if not seeds:
        first = seed_set.rejects[0]  # there is one: a source without records is refused before
        raise SeedError(
            f"{config.seeds.path}: no usable record; {len(seed_set.rejects)} rejected"
            f" ({rejected.counts(seed_set.reasons)}), the first at"
            f" {first.file} line {first.line}: {first.reason}: {first.detail}",
            rejected.remedy(config.seeds.path, seed_set.reasons, "check seeds.path and seeds.fields"),
        )
    questions = gold.read(
        config.method.gold, domains_of(config.method), config.seeds.max_chars, special_pattern(found())
    )
    flow.check_seeds(config, seeds)
    pins, embeds = found(), flow.keys is not None or flow.draws_by_likeness(config)
    embed = pin_embed(config, say) if embeds else None
    sources = config.merge.decontamination.sources
    benchmarks = {s: benchmark_files.find(s, config.site.scratch) for s in sources}
    what = frozen(
        config,
        seed_set.digest,
        {k: v.identity for k, v in pins.items()},
        embed,
        benchmarks,
        own,
        gold.digest_of(questions),
    )
    undescribed = len(seeds) - seeds.described if flow.prepare else 0
    plan = Plan(
        fingerprint=digest(what),
        frozen=what,
        version=__version__,
        created=time.time(),
        shards=config.launch.shards or -(-len(seeds) // config.launch.seeds_per_shard),
        seeds=len(seeds),
        seed_rejects=len(seed_set.rejects),
        undescribed=undescribed,
        seed_thoughts=seeds.with_thoughts,
        seed_contexts=seeds.with_context,
        seed_context_bytes=seeds.context_bytes,
        seed_aside=seed_set.aside,
        seed_unread=seed_set.unread,
        seed_unanswered=seeds.unanswered,
        prompts=dict(own),
        **_languages(config, flow, seeds, questions, say),
        gold=golden.planned(questions),
        models=pins,
        embed=embed,
        benchmarks=benchmarks,
    )
    if run.plan_file.exists():
        before = Plan.load(run, own=True)
        before.verify(config, run)
        if before.frozen != what:
            raise FingerprintError(
                f"{path}: planned with other seeds or models: {'; '.join(_others(before, what, pins))}",
                "give this plan another directory, or bring back what it was planned with",
            )
        if before_writing:
            before_writing(config, plan)
        write_atomic(run.config_file, presets.dump(config).encode(), mode=OWN)
        return Run(run.path, before, lambda: config)
    if plan.shards > plan.seeds:
        if lost := rejected.most(len(seeds), seed_set.reasons):
            first = seed_set.rejects[0]
            raise SeedError(
                f"{config.seeds.path}: {lost}, the first at {first.file} line {first.line}: {first.detail};"
                f" {counted(len(seeds), 'seed')} left for launch.shards={plan.shards}",
                rejected.remedy(config.seeds.path, seed_set.reasons, "mend them; or name another file by seeds.path"),
            )
        raise GraError(
            f"launch.shards={plan.shards}, by the preset or the command: more shards than seeds ({plan.seeds})",
            f"add launch.shards={plan.seeds} to the command",
        )
    if before_writing:
        before_writing(config, plan)
    run.path.parent.mkdir(parents=True, exist_ok=True)
    candidates = first_round(config, plan).candidates
    disk_space.check(run.path, disk_space.needed(config, candidates, plan.shards, plan.thinking_models))
    with full_disk_as_error(run.path):
        once.check(run.path.parent)
        temporary = Path(tempfile.mkdtemp(prefix=f".{run.name}.", dir=run.path.parent))
        try:
            draft = RunDir(temporary)
            draft.round(1).path.mkdir(parents=True)
            closed_directory(draft.logs)
            closed_directory(draft.submissions, 0o700)
            write_atomic(draft.config_file, presets.dump(config).encode(), mode=OWN)
            seeds.write(draft.seeds)
            seed_module.write_rejects(draft.seed_rejects, seed_set.rejects)
            if questions:
                write_atomic(draft.gold, gold.lines_of(questions))
            if undescribed:
                draft.round(0).path.mkdir(parents=True)
                RoundPlan(0, undescribed, min(plan.shards, -(-undescribed // SEEDS_PER_SHARD_0))).save(draft.round(0))
            first_round(config, plan).save(draft.round(1))
            written = (draft.seeds, draft.seed_rejects, *([draft.gold] if questions else []))
            plan = replace(plan, files={p.name: entry(p) for p in written})
            write_atomic(draft.plan_file, sealed(asdict(plan)), mode=OWN)
            mask = os.umask(0)
            os.umask(mask)
            of_a_group = temporary.stat().st_mode & stat.S_ISGID  # what is made in it belongs to the group too
            temporary.chmod(0o777 & ~mask | of_a_group)
            for path in (*temporary.rglob("*"), temporary):  # or a power loss could leave a run with an empty plan
                fsync_file(path) if path.is_file() else fsync_dir(path)
            clear_vacant(run.path)
            temporary.rename(run.path)
            fsync_dir(run.path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return Run(run.path, plan, lambda: config)


def _others(before: Plan, now: Mapping[str, Any], pins: Mapping[str, ModelPin]) -> Iterator[str]:
    """What differs from a plan; of a model in words, since a digest says nothing to people."""
    identities = {f"models.{name}.identity": name for name in pins if name in before.models}
    for key, old, new in changes(before.frozen, now):
        name = identities.get(key)
        yield (
            f"models.{name}: {before.models[name].other(pins[name])}"
            if name
            else f"{key}: planned {old!r}, now {new!r}"
        )


def _languages(config: RunConfig, flow: Flow, seeds: Seeds, questions: Sequence[Gold], say: Say) -> dict[str, Any]:
    """Fields of the plan: the language that is asked for, and the seeds, and gold questions, of which it is another
    one."""
    wanted = config.method.language
    if wanted != "auto":
        return {"language": "" if wanted == "any" else wanted.removeprefix(languages.OTHER).strip()}
    if not flow.asks or not languages.can_tell():
        return {}
    found = languages.of_seeds(_counted(seeds.texts(), say))
    counts = languages.in_order(Counter(found))
    asked = ["" if name == languages.ENGLISH else name for name in found]
    most = Counter(asked).most_common(1)[0][0]
    others: dict[str, list[str]] = {}
    if len(counts) > 1:
        for id_, name in zip(seeds.ids(), asked, strict=True):
            if name != most:
                others.setdefault(name, []).append(id_)
    spoken = languages.of_seeds((one.instruction, one.response) for one in questions)
    for one, name in zip(questions, spoken, strict=True):
        if (name := "" if name == languages.ENGLISH else name) != most:
            others.setdefault(name, []).append(one.id)
    return {"language": most, "languages": others, "seed_languages": dict(counts)}


def _counted(texts: Iterator[tuple[str, str]], say: Say) -> Iterator[tuple[str, str]]:
    """The same; how far it is is said now and then."""
    from gra_hpc.sources.seeds import SAY_S, TOGETHER

    due = time.monotonic() + SAY_S
    for number, one in enumerate(texts, 1):
        if number % TOGETHER == 0 and time.monotonic() >= due:
            say(f"languages: {number:,} seeds looked at")
            due = time.monotonic() + SAY_S
        yield one

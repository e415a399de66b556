"""What `gra plan` prints: the ledger to come, the models and where they would run, the sbatch text."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gra_hpc.config.settings import EngineKind, ReviewOrder, RunConfig
from gra_hpc.config.site import Executor
from gra_hpc.errors import LaunchError, SlurmDownError
from gra_hpc.flows.registry import flow_of
from gra_hpc.launch.legs import Pace, legs_of
from gra_hpc.run import disk_space
from gra_hpc.run.plan import Plan, RoundPlan
from gra_hpc.run.rounds import Step
from gra_hpc.run.run import Run
from gra_hpc.run.unneeded import stops
from gra_hpc.sources import rejected
from gra_hpc.sources.files import excerpt
from gra_hpc.storage import read_regular
from gra_hpc.terminal import counted
from gra_hpc.text import languages
from gra_hpc.views import estimate
from gra_hpc.views.notes import notes
from gra_hpc.views.status import collect

if TYPE_CHECKING:
    from gra_hpc.placement.placement import Solution


def engines_of(config: RunConfig, plan: Plan) -> Solution | None:
    """Where a run's engines would run; none if it has no real ones of ours.

    Raises:
        GraError: they fit nowhere.
    """
    if config.engine.kind is EngineKind.simulated or not flow_of(config).asks:
        return None
    from gra_hpc.run.engines import plan_engines

    return plan_engines(config, plan)


def _judgement(run: Run) -> str:
    """What Slurm says to the jobs of a run, before any is submitted."""
    from gra_hpc.launch.arrays import merge_executor, overruled_note, refuse_refused, shard_executor

    shards, merge = (make(run, run.config, "gra:") for make in (shard_executor, merge_executor))
    try:
        refuse_refused(shards, merge)
    except SlurmDownError as e:
        return f"not shown to Slurm: {e.what}"
    except LaunchError as e:
        return f"as it is, {e}"
    note = overruled_note(merge)
    return f"Slurm would take it{f'; {note}' if note else ''}"


def is_script(line: str) -> bool:
    """Whether a line of `preview` is one of an sbatch script, which is shown as it is."""
    return line.startswith("    ") and not line.startswith("     ")


def preview(run: Run, solution: Solution | None) -> Iterator[str]:
    """The plan of a run, for people, with where its engines would run (`engines_of`)."""
    import orjson

    config, plan, flow = run.config, run.plan, flow_of(run.config)
    rejects = Counter(orjson.loads(line)["reason"] for line in read_regular(run.seed_rejects).splitlines())
    yield f"run          {run.path}"
    yield f"fingerprint  {plan.fingerprint}"
    yield (
        f"seeds        {plan.seeds} from {config.seeds.path}"
        f" ({plan.undescribed} to describe in round 0; {plan.seed_rejects} rejected"
        + (f": {', '.join(f'{n} {r}' for r, n in rejects.most_common())}; see {run.seed_rejects}" if rejects else "")
        + (f"; {plan.seed_thoughts} with thoughts, kept apart" if plan.seed_thoughts else "")
        + (f"; {plan.seed_contexts} with context before their last exchange" if plan.seed_contexts else "")
        + (
            f"; left aside: {', '.join(f'{n} {kind}' for kind, n in plan.seed_aside.items())}"
            if plan.seed_aside
            else ""
        )
        + ")"
    )
    if lost := rejected.most(plan.seeds, rejects):
        mend = rejected.remedy(config.seeds.path, rejects, "the file says why, record by record")
        yield f"             MOST RECORDS ARE NO SEEDS: {lost}; {mend}"
    if plan.seed_unread:
        yield f"             fields not read: {excerpt(', '.join(plan.seed_unread), 300)}"
    if plan.seed_languages:
        named = ", ".join(f"{name or 'not certain'} {n}" for name, n in plan.seed_languages.items())
        yield f"languages    of the seeds: {named}; each seed's own is asked for"
    elif config.method.language == "auto" and flow.asks:
        yield (
            f"languages    {languages.MISSING}. Until then no prompt asks for the seeds' own language; for seeds in"
            " another than English set method.language=German, or what it is"
        )
    elif plan.language:
        yield f"languages    {plan.language} is asked for"
    if plan.prompts:
        own = ", ".join(f"{name}.j2" for name in plan.prompts)
        yield f"prompts      of your own: {own}; the others are the paper's"
    first = RoundPlan.load(run.round(1))
    books = next(r.ledger for r in collect(run, ask_slurm=False).rounds if r.round == 1)  # it may be planned again
    yield f"round 1      {counted(first.candidates, 'candidate')} in {counted(plan.shards, 'shard')}; {books.line()}"
    if first.target and first.acceptance:
        rounds = config.method.rounds
        in_all = f", {first.target * rounds} in all" if rounds > 1 else ""
        spare = first.candidates * first.acceptance / first.target - 1
        yield (
            f"target       {first.target} rows a round{in_all}, at an acceptance of {first.acceptance:.0%}; {spare:.0%}"
            f" more candidates are planned, for chance. {_stop(run)}: the merge keeps the best, what is beyond the"
            " target is dropped as surplus"
        )
    need = disk_space.needed(config, first.candidates, plan.shards, plan.thinking_models)
    yield f"disk         about {need} at most; {disk_space.free(run.path)} free"
    if config.method.rounds > 1:
        later = "sized by the acceptance measured" if config.method.target_accepted else "of the same size"
        if flow.forwards(config):
            later = "each on what the one before leaves to it: what is said of all rounds is an upper bound"
        yield f"             {counted(config.method.rounds - 1, 'more round')}, {later}"
    if config.committee:
        yield (
            f"committee    {', '.join(f'{n} ({m.model})' for n, m in config.committee.items())};"
            f" roles {config.method.policy.value}"
            f"{'; Reviewers one after another' if config.method.review_order is ReviewOrder.bounded else ''}"
        )
        yield from flow.views.plan(config)
    for name, pin in plan.models.items():
        yield f"model        {name}: {pin.directory} {pin.revision or pin.identity[:12]} {pin.licence}".rstrip()
        if pin.served:
            yield f"             {_asked_as(config, name, pin.served)}"
        if pin.thinking and pin.served:
            yield f"             {'thinks, as its server does it' if pin.thinking.on else 'is asked not to think'}"
        elif pin.thinking:
            t = pin.thinking
            switches = ", ".join(f"{k}={v}" for k, v in t.switches.items())
            how = f"thinks ({t.opening}; parser {t.parser or 'none: guided answers come without thoughts'}"
            yield f"             {how if t.on else 'does not think ('}{'; ' if switches and t.on else ''}{switches})"
    m = config.method
    if plan.gold:
        kinds = ", ".join(f"{n} to {verdict}" for verdict, n in plan.gold.items())
        beside = m.gold_rate * first.candidates
        yield (
            f"gold         {sum(plan.gold.values())} questions from {m.gold} ({kinds}), beside {m.gold_rate:g} of the"
            f" candidates: about {beside:,.0f} of round 1; never released"
        )
    for note in notes(config, plan, first.candidates):
        yield f"note         {note}"
    if not flow.asks:
        yield "engines      none: nobody is asked"
    elif config.engine.kind is EngineKind.simulated:
        yield "engines      simulated: the answers are made up"
    elif solution is None:
        yield "engines      none of ours: every model is an endpoint"
    else:
        from gra_hpc.placement.report import render

        lines = render(solution).splitlines()
        for i, line in enumerate(lines):
            yield f"{'' if i else 'engines':12} {line}"
    if flow.asks:
        steps = [Step(n, tuple(range(run.shards_of(n))), run.shards_of(n)) for n in run.rounds]
        leg = next(leg for leg in legs_of(run, steps, lambda: Pace.of_engines(solution)) if leg.last)
        made = estimate.estimate(config, plan, first.candidates, plan.shards, solution, leg)
        yield from estimate.lines(made, config)
    if config.site.executor is Executor.slurm:
        from gra_hpc.launch.arrays import sbatch_text

        yield "sbatch       the array of round 1:"
        yield from (f"    {line}" for line in sbatch_text(run, config, plan.shards).splitlines())
        if config.site.mail:
            yield f"mail         to {config.site.mail}: one when the release is made, or where a merge fails before"
        if shutil.which("sbatch"):
            yield f"             {_judgement(run)}"
    else:
        yield f"executor     local, {counted(config.launch.parallel or 1, 'worker')}"
        if config.site.mail:
            yield "mail         none: site.mail is for jobs under Slurm"


def _stop(run: Run) -> str:
    """Which shards of a round with a target are made."""
    if run.plan.shards == 1:
        return "All shards are made"
    if stops(run):
        return "No shard is begun once those published seem to meet the target"
    return "All shards are made (launch.stop_at_target=true: no more are begun once it is met)"


def _asked_as(config: RunConfig, name: str, served: str) -> str:
    """How a model that an endpoint serves is asked."""
    e = config.models[name].endpoint
    rate = f", {e.requests_per_minute:g} a minute" if e.requests_per_minute else ""
    key = "by $" + e.key_env if e.key_env else f"in {e.key_file}" if e.key_file else "none"
    return f"hosted elsewhere as {served}; at most {e.concurrency} calls at once{rate} from each job; key: {key}"

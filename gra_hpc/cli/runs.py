"""The commands of a run: plan, submit, status, logs, resume, cancel, merge, inspect, decide, audit, clean."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gra_hpc.cli.application import Json, Overrides, Preset, Round, RunPath, Site, app, no_setting
from gra_hpc.errors import ConfigError, InterruptError
from gra_hpc.terminal import say, tell, word

if TYPE_CHECKING:
    from gra_hpc.placement.placement import Solution
    from gra_hpc.run.run import Run


@app.command()
def plan(
    run: RunPath,
    overrides: Overrides = None,
    preset: Preset = "",
    site: Site = "",
    prompts: Annotated[bool, typer.Option("--prompts", help="Also a prompt of each template, rendered.")] = False,
) -> None:
    """Plan a run: read the seeds, pin the models, freeze it all; work, time and disk. Submits nothing."""
    from gra_hpc.config import presets
    from gra_hpc.run import planning
    from gra_hpc.site.stage import fetched_first
    from gra_hpc.views.plan import engines_of, is_script, preview
    from gra_hpc.views.prompts import rendered
    from gra_hpc.views.status import collect
    from gra_hpc.views.status_lines import next_command

    if not preset:
        raise ConfigError(
            "--preset: none is given; it names the models, the committee and the seeds",
            f"gra init mine.yaml, then gra plan {word(run)} --preset mine.yaml  (or --preset demo, to see one)",
        )
    solutions: list[Solution | None] = []
    with fetched_first(preset, overrides or [], site):
        made = planning.make(
            run,
            presets.compose(preset, overrides or [], site),
            lambda c, p: solutions.append(engines_of(c, p)),
            partial(typer.echo, err=True),
        )
    for line in preview(made, solutions[-1]):
        say(line) if is_script(line) else tell(line, 13)
    if preset == "demo" and any(word.startswith(presets.SEEDS) for word in overrides or []):
        tell("note: models and thresholds are the demo's, for a model of 135M parameters; your own: gra init mine.yaml")
    if prompts:
        say()
        for line in rendered(made):
            say(line)
    then = next_command(collect(made, ask_slurm=False)) or f"gra status {word(made.path)}"
    say()
    say(f"next: {then.replace(str(made.path), str(run))}")


@app.command()
def submit(
    run: RunPath,
    overrides: Overrides = None,
    add: Annotated[int, typer.Option("--add", min=0, help="So many workers more, for a run that is under way.")] = 0,
) -> None:
    """Hand a planned run to Slurm, or run it here (site.executor=local). Settings are for workers that are added."""
    from gra_hpc.launch.submit import add as do_add
    from gra_hpc.launch.submit import refuse_settings
    from gra_hpc.run.run import Run

    if add:
        for line in do_add(Run.open(run), add, overrides or []):
            tell(line)
        return
    if overrides:
        refuse_settings(Run.to_look_at(run), overrides)
    _hand_over(Run.open(run), resume=False)


def _hand_over(run: Run, resume: bool) -> None:
    """Submit a run; whoever interrupts that is told how it goes on.

    Raises:
        InterruptError: by Ctrl-C or SIGTERM.
    """
    from gra_hpc.launch.submit import submit as do_submit
    from gra_hpc.views.progress import progress

    try:
        do_submit(run, resume, progress)
    except KeyboardInterrupt:
        raise InterruptError("interrupted; what was answered is kept", f"gra resume {word(run.path)}") from None


@app.command()
def status(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Directory of the run, or one that holds several.", callback=no_setting),
    ],
    json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Until the run is done.")] = False,
    shards: Annotated[bool, typer.Option("--shards", help="Also every shard, and rates by role.")] = False,
    roles: Annotated[bool, typer.Option("--roles", help="Only the members' standings.")] = False,
) -> None:
    """Show every round, and what failed and why: one look at the files, one at Slurm's queue."""
    from gra_hpc.run.run import Run
    from gra_hpc.views import progress
    from gra_hpc.views.status import collect

    if roles:
        from gra_hpc.views.roles import lines

        for line in lines(Run.to_look_at(run)):
            say(line)
        return
    found = progress.several(run)
    if json:
        from gra_hpc.storage import to_json

        data = [s.to_dict() for s in found] if found else collect(Run.to_look_at(run)).to_dict()
        say(to_json(data).decode(), lines=True)
    elif found:
        progress.show_several(found)
    else:
        progress.show(Run.to_look_at(run), watch, shards)


@app.command()
def logs(
    run: RunPath,
    shard: Annotated[int | None, typer.Argument(metavar="[SHARD]", help="Shard; left out: what failed last.")] = None,
    round_: Round = None,
    merge: Annotated[bool, typer.Option("--merge", help="The log of the round's merge.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Lines of each log.")] = 20,
    paths: Annotated[bool, typer.Option("--paths", help="Only the logs' paths.")] = False,
) -> None:
    """Show the end of a shard's logs: its job's, and its engines'."""
    from gra_hpc.run.run import Run
    from gra_hpc.views.logs import show

    for line in show(Run.to_look_at(run), shard, round_, merge, 0 if paths else lines):
        say(line)


@app.command()
def resume(run: RunPath, overrides: Overrides = None) -> None:
    """Submit what is neither published nor running. Placement and site settings may change."""
    from gra_hpc.run.run import Run

    made = Run.open(run, overrides or [])
    if overrides:
        made.save()
    _hand_over(made, resume=True)


@app.command()
def cancel(
    run: RunPath,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only what has not started yet.")] = False,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Only so many workers; the others go on.")] = 0,
) -> None:
    """Cancel this run's jobs, and no others. What was answered is kept."""
    from gra_hpc.launch.cancel import cancel as do_cancel
    from gra_hpc.run.run import Run

    for line in do_cancel(Run.to_look_at(run), waiting, workers):
        tell(line)


@app.command()
def merge(run: RunPath, round_: Round = None, overrides: Overrides = None) -> None:
    """Merge the published shards of a round here and now; after the last round, build the release."""
    from gra_hpc.launch.round_end import finish_round
    from gra_hpc.run.rounds import current_round
    from gra_hpc.run.run import Run
    from gra_hpc.views.progress import waited_for

    made = Run.open(run, overrides or [])
    if overrides:
        made.save()
    number = current_round(made) if round_ is None else round_
    with waited_for(made) if number in made.rounds else nullcontext():
        tell(finish_round(made, number))


@app.command()
def inspect(
    run: RunPath,
    sample: Annotated[str, typer.Argument(help="Start of a sample's id; the best accepted one if left out.")] = "",
    status: Annotated[str, typer.Option("--status", help="Without an id: accepted, rejected or failed.")] = "accepted",
    round_: Annotated[int | None, typer.Option("--round", help="Only of this round; 0 is among them.")] = None,
    worst: Annotated[int, typer.Option("--worst", min=0, help="So many on which Reviewers disagree most.")] = 0,
    live: Annotated[bool, typer.Option("--live", help="One that is not published yet, as it stands.")] = False,
) -> None:
    """Show one sample with its whole history."""
    from gra_hpc.run.run import Run
    from gra_hpc.views import sample as samples
    from gra_hpc.views import unpublished

    made = Run.to_look_at(run)
    if live:
        found = unpublished.lines(made, round_)
    elif worst:
        found = samples.worst(made, worst)
    else:
        row, _, calls = samples.find_sample(made, sample, status, round_)
        found = samples.history(row, calls, made)
    for line in found:
        tell(line, 4)


@app.command()
def decide(
    run: RunPath,
    thresholds: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="accept_mean, accept_sd, adjudicate_mean, settle."),
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Directory of the new run, with its release.")] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Only a table of thresholds.")] = False,
) -> None:
    """Decide again from stored scores, with other thresholds. No engine starts."""
    from gra_hpc.judging import again
    from gra_hpc.judging import sweep as many
    from gra_hpc.run.run import Run
    from gra_hpc.views.progress import waited_for

    made, words = Run.to_look_at(run), thresholds or []
    with waited_for(made):
        for line in many.table(made, words) if sweep else again.say_decided(made, words, to):
            tell(line, 5)


@app.command()
def audit(
    run: RunPath,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Samples that people judge.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Another number draws others.")] = 0,
    to: Annotated[Path | None, typer.Option("--to", help="The page; RUN/audit.html if left out.")] = None,
    read: Annotated[
        list[Path] | None, typer.Option("--read", help="What a person exported; again for each one.")
    ] = None,
    gold: Annotated[
        Path | None, typer.Option("--gold", help="With --read: write what they said as gold questions (method.gold).")
    ] = None,
) -> None:
    """Ask people: a page to judge samples on, blind and offline; with --read, what they say beside the committee."""
    from gra_hpc.judging import audit as page
    from gra_hpc.judging import labels
    from gra_hpc.run.run import Run
    from gra_hpc.views.progress import waited_for

    made = Run.to_look_at(run)
    with waited_for(made):
        for line in labels.read(made, read, gold) if read else page.write(made, sample, seed, to):
            tell(line, 14)


@app.command()
def clean(
    run: RunPath,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without, they are only listed.")] = False,
) -> None:
    """Remove what a run no longer needs: submission files, and the logs of what is published."""
    from gra_hpc.launch.clean import clean as do_clean
    from gra_hpc.run.run import Run

    for line in do_clean(Run.to_look_at(run), yes):
        tell(line, 4)

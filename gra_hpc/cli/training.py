"""`gra finetune`, `gra evaluate`: does the data help?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gra_hpc.cli.application import Overrides, Site, app, no_setting
from gra_hpc.terminal import say

Out = Annotated[
    Path,
    typer.Argument(metavar="OUT", help="Directory of the job; made if it is not there.", callback=no_setting),
]
Preset = Annotated[
    str, typer.Option("--preset", "-p", help="A name below configs/finetune or configs/evaluate, or a YAML file.")
]
After = Annotated[str, typer.Option("--after", help="Slurm ids of jobs that must succeed first, with commas.")]
Plan = Annotated[bool, typer.Option("--plan", help="Only freeze the settings and show what would be submitted.")]


def _ids(after: str) -> list[str]:
    return [i for i in after.replace(",", " ").split() if i]


def _told(job: str | None, out: Path) -> None:
    if job:
        say(f"job {job}; logs in {out / 'logs'}")
    elif job == "":
        say(f"{out}: done already")


@app.command()
def finetune(
    out: Out, overrides: Overrides = None, preset: Preset = "", site: Site = "", after: After = "", plan: Plan = False
) -> None:
    """Fine-tune a model on a release: submit it to Slurm, or train here. Typed again, it resumes.

    Without --preset the settings OUT was begun with are taken.
    """
    from gra_hpc.config.output_settings import preset_of
    from gra_hpc.config.site import Executor
    from gra_hpc.training.config import compose
    from gra_hpc.training.job import explain, refuse_absent_data, refuse_absent_model, submit_finetune

    config = compose(preset_of(out, preset, "finetune"), overrides or [], site)
    if not (_ids(after) and config.site.executor is Executor.slurm):  # here nothing is waited for
        refuse_absent_data(out, config)
        if not plan:
            refuse_absent_model(out, config)
    for line in explain(out, config, plan):
        say(line)
    if plan:
        return
    job = submit_finetune(out, config, _ids(after), say)
    _told(job, out)
    if job is None:
        say(f"model: {out / 'model'}")
        say(f"loss:  {out / 'loss.png'}")


@app.command()
def evaluate(
    out: Out,
    overrides: Overrides = None,
    preset: Preset = "",
    site: Site = "",
    after: After = "",
    plan: Plan = False,
    fetch: Annotated[
        bool, typer.Option("--fetch", "--stage", help="Only fetch the benchmarks' data, on a node with a network.")
    ] = False,
) -> None:
    """Measure a model on benchmarks and held-out answers: an array of jobs, or here. Typed again, it does what is left.

    Without --preset the settings OUT was begun with are taken.
    """
    from gra_hpc.config.output_settings import preset_of
    from gra_hpc.config.site import Executor
    from gra_hpc.evaluation.config import compose
    from gra_hpc.evaluation.job import explain, refuse_absent_model, stage_data, submit_evaluate

    config = compose(preset_of(out, preset, "evaluate"), overrides or [], site)
    waits = _ids(after) and config.site.executor is Executor.slurm  # here nothing is waited for
    if not (plan or fetch or waits):
        refuse_absent_model(out, config)
    for line in explain(out, config, plan):
        say(line)
    if fetch:
        stage_data(out, config)
    if plan or fetch:
        return
    job = submit_evaluate(out, config, _ids(after))
    _told(job, out)

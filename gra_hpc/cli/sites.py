"""`gra site`, `gra doctor`, `gra fetch`, `gra calibrate`: what a cluster is, lacks, needs to hold, and can do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gra_hpc.cli.application import Json, Overrides, Preset, RunPath, Site, app
from gra_hpc.errors import ConfigError
from gra_hpc.terminal import say, shown, tell, word

if TYPE_CHECKING:
    from gra_hpc.config.settings import RunConfig

site_app = typer.Typer(help="Clusters: write a site file, show what one comes to.", rich_markup_mode=None)
app.add_typer(site_app, name="site")


@site_app.command("detect")
def site_detect(
    name: Annotated[str, typer.Option("--name", help="Name of the site; the cluster's if left out.")] = "",
    partition: Annotated[str, typer.Option("--partition", help="Partition; chosen if left out.")] = "",
    print_: Annotated[bool, typer.Option("--print", help="Print it, write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that is there.")] = False,
) -> None:
    """Write configs/sites/NAME.yaml from what Slurm says about this cluster."""
    from gra_hpc.site import detect
    from gra_hpc.site.cluster import cluster_info

    settings = detect.detect(cluster_info(), partition)
    if print_:
        say(detect.text(settings), lines=True)
        return
    path = detect.write(settings, name, force)
    say(f"wrote {path}")
    for s in settings:
        if s.value not in ("", [], 0):
            say(f"  {s.key}: {s.value}")
    say(f"next: read it, then gra doctor {path.stem}")


@site_app.command("show")
def site_show(site: Annotated[str, typer.Argument(metavar="[SITE]", help="Site; left out: their names.")] = "") -> None:
    """Show a site's settings with their meaning, and the sbatch lines they come to."""
    from gra_hpc.config import presets
    from gra_hpc.site.detect import show

    if not site:
        for name in presets.site_names():
            say(name)
        return
    for line in show(presets.site(site), str(presets.find_site(site))):
        tell(line)


@app.command()
def doctor(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SITE] [KEY=VALUE]...", help="Site (else the preset's); settings."),
    ] = None,
    preset: Preset = "demo",
    job: Annotated[bool, typer.Option("--job", help="Also examine a compute node, by a short job.")] = False,
    here: Annotated[bool, typer.Option("--here", help="Examine this machine as a compute node.")] = False,
    directory: Annotated[Path, typer.Option("--dir", help="Where runs will lie.")] = Path(),
    wait: Annotated[int, typer.Option("--wait", min=1, help="Longest wait until the job runs, in seconds.")] = 900,
    prove: Annotated[
        bool, typer.Option("--prove", help="Run real engines on a node for ten minutes: a table.")
    ] = False,
    model: Annotated[str, typer.Option("--model", help="Of --prove: a small model; else the preset's smallest.")] = "",
    only: Annotated[list[str] | None, typer.Option("--only", help="Of --prove: this piece alone; repeatable.")] = None,
    json: Json = False,
) -> None:
    """Check what a run needs here: Python, directories, Slurm, GPUs, models. Each line says what to do."""
    import sys
    from dataclasses import asdict

    from gra_hpc.config import presets
    from gra_hpc.config.site import Executor
    from gra_hpc.doctor.finding import FAILURE
    from gra_hpc.doctor.report import examination

    sites = [w for w in words or [] if "=" not in w]
    if len(sites) > 1:
        raise ConfigError(f"{sites[1]}: expected one site, then key=value", "gra doctor SITE site.partition=gpu")
    site = "".join(sites)
    config = presets.compose(preset, [w for w in words or [] if "=" in w], site)

    def note(text: str) -> None:
        if not json:
            tell(f"           ... {text}", 15)

    if prove:
        sys.exit(_prove(config, site, directory.absolute(), model, only or [], here, wait, json, note))
    if model or only:
        raise ConfigError("--model, --only: of --prove", f"gra doctor {word(site)} --prove")

    found, heading = [], ""
    for where, finding in examination(config, directory.absolute(), job, here, wait, note):
        found.append({"where": where, **asdict(finding)})
        if not json:
            if where != heading:
                say(where)
                heading = where
            tell(f"  {finding}", 11)
    failures = sum(f["level"] == FAILURE for f in found)
    if json:
        from gra_hpc.storage import to_json

        say(to_json(found).decode(), lines=True)
    elif failures:
        say(f"{failures} to mend before a run can work here")
    elif not job and not here and config.site.executor is Executor.slurm:
        say(f"next: gra doctor {word(site)} --job  (the same on a compute node)")
    else:
        say(f"next: gra plan runs/first --preset {word(preset)}{f' --site {word(site)}' if site else ''}")
    sys.exit(1 if failures else 0)


def _prove(
    config: RunConfig,
    site: str,
    base: Path,
    model: str,
    only: list[str],
    here: bool,
    wait: int,
    json: bool,
    note: Callable[[str], None],
) -> int:
    """Prove a node, print the table and keep what was measured; the exit code."""
    from gra_hpc.doctor.prove import measured, table
    from gra_hpc.doctor.prove.job import prove
    from gra_hpc.doctor.prove.outcome import FAILED
    from gra_hpc.site.calibrate import file_of
    from gra_hpc.storage import to_json

    directory, report, wrong = prove(config, base, model, only, here, wait, note)
    failed = wrong is not None or any(p["state"] == FAILED for p in report["pieces"])
    found = measured.calibration(report, config.site.name, directory) if report else {}
    file = measured.keep(found, file_of(site or config.site.name)) if found else None
    if json:
        say(to_json({**report, "directory": str(directory), "calibration": str(file or "")}).decode(), lines=True)
        return int(failed)
    for line in table.lines(report, directory, site) if report else ():
        tell(line, table.INDENT)
    if wrong:
        tell(str(wrong), 9)
    if file:
        for line in table.calibration_lines(found):
            tell(line)
        tell(f"saved in {shown(file)}: later plans of this site go by it")
    if not failed:
        say(f"next: gra plan runs/first --preset demo{f' --site {word(site)}' if site else ''}")
    return int(failed)


@app.command("stage", hidden=True)  # its name once
@app.command()
def fetch(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID|KEY=VALUE]...", help="Hub ids (ORG/NAME, datasets/ORG/NAME, @REVISION), settings."),
    ] = None,
    preset: Annotated[str, typer.Option("--preset", "-p", help="Preset whose models and data to fetch.")] = "",
    site: Site = "",
    again: Annotated[bool, typer.Option("--again", help="Read and compare all files again.")] = False,
) -> None:
    """Fetch models and data into the site's shared cache, with a network; jobs then need none."""
    from gra_hpc.config import presets
    from gra_hpc.config.site import SiteConfig
    from gra_hpc.site import stage as staging

    overrides = [w for w in words or [] if "=" in w]
    ids = [w for w in words or [] if "=" not in w]
    if preset or not ids:
        config = presets.compose(preset or "demo", overrides, site)
        cluster = config.site
    else:
        config, cluster = None, presets.site(site, expand=True) if site else SiteConfig()
    done = staging.run(config, ids, cluster.scratch, cluster.proxy, say, again)
    if not done:
        say("nothing to fetch: all models and data are files here")
    if config is not None:
        say(f"next: gra plan runs/first --preset {word(preset or 'demo')}{f' --site {word(site)}' if site else ''}")


@app.command()
def calibrate(
    run: RunPath,
    overrides: Overrides = None,
    preset: Preset = "demo",
    site: Site = "",
    to: Annotated[Path | None, typer.Option("--to", help="File; left out: beside the site's.")] = None,
) -> None:
    """Measure a site with a small real run of its own: plan and submit it; when it is done, save what it took."""
    from gra_hpc.config.presets import compose
    from gra_hpc.launch.submit import submit
    from gra_hpc.run.directory import RunDir
    from gra_hpc.run.run import Run
    from gra_hpc.site import calibrate as calibration
    from gra_hpc.views.progress import progress

    if RunDir(run.absolute()).plan_file.exists():
        made = Run.to_look_at(run)
    else:
        made = calibration.plan_small(run, compose(preset, overrides or [], site))
        submit(made, resume=False, progress=progress)
    if not calibration.measurable(made):
        say(f"when it is done: gra calibrate {word(run)}{f' --site {word(site)}' if site else ''}")
        return
    found = calibration.measure(made)
    for line in calibration.describe(found):
        tell(line)
    file = calibration.save(found, to or calibration.file_of(site or found["from"]["site"]))
    say(f"saved in {file}")

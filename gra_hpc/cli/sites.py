"""`gra site`: clusters and their site files."""

from __future__ import annotations

from typing import Annotated

import typer

from gra_hpc.cli.application import app

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
    from gra_hpc.launch import site
    from gra_hpc.launch.cluster import cluster_info

    settings = site.detect(cluster_info(), partition)
    if print_:
        print(site.text(settings), end="")
        return
    path = site.write(settings, name, force)
    print(f"wrote {path}")
    for s in settings:
        if s.value not in ("", [], 0):
            print(f"  {s.key}: {s.value}")
    print(f"next: read it, then gra doctor {path.stem}")


@site_app.command("show")
def site_show(
    site: Annotated[str, typer.Argument(metavar="[SITE]", help="Site; left out: their names.")] = "",
) -> None:
    """Show a site's settings with their meaning, and the sbatch lines they come to."""
    from gra_hpc import presets
    from gra_hpc.launch.site import show

    if not site:
        for name in presets.site_names():
            print(name)
        return
    for line in show(presets.site(site), str(presets.find_site(site))):
        print(line)

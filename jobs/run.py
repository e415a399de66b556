"""A whole run, from top to bottom, in one process: `python jobs/run.py RUN [--preset P] [--site S] [KEY=VALUE]...`

The same steps that `gra plan` and `gra submit` spread over a cluster, one after the other on this node: in an
allocation of one's own (salloc), in one sbatch job, on a laptop. Whatever ends it, typed again it goes on where it was.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gra_hpc.config import presets
from gra_hpc.errors import GraError
from gra_hpc.launch.legs import legs_of
from gra_hpc.launch.round_end import finish_round, merge_beside, tidy
from gra_hpc.launch.submissions import sole_submitter
from gra_hpc.launch.tasks import leave_unless_published, start_job
from gra_hpc.run import planning
from gra_hpc.run.directory import RunDir
from gra_hpc.run.rounds import current_round, remaining
from gra_hpc.run.run import Run
from gra_hpc.run.worker import work


def run_whole(path: Path, preset: str, site: str, overrides: Sequence[str]) -> Run:
    """Seeds -> plan -> shards -> merge -> (next round) ... -> release."""
    if RunDir(path.absolute()).plan_file.is_file():
        run = Run.open(path, overrides)
    else:
        # The seeds are read and checked, the models found; all that samples depend on is digested and frozen.
        run = planning.make(path, presets.compose(preset, overrides, site))
    start_job()
    with sole_submitter(run):
        # What is left of a run is known from files alone: nothing here remembers what has been done.
        while steps := remaining(run):
            leg = legs_of(run, steps)[0]
            # Slices of the seeds through the flow, one after the other over this node's engines, which start once; the
            # samples of each are published once, whole. Small rounds are merged on the way.
            leave_unless_published(work(run, leg.first, last=leg.last, merge=merge_beside).end)
            # A round's samples without duplicates: what the next round draws from. After the last one, the release.
            print(finish_round(run, current_round(run)), flush=True)
        tidy(run)
    return run


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of the run")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as gra config show names them")
    parser.add_argument("--preset", default="demo", help="for a run that is not planned yet")
    parser.add_argument("--site", default="", help="for a run that is not planned yet")
    args = parser.parse_intermixed_args()
    try:
        run = run_whole(args.run, args.preset, args.site, args.overrides)
        print(f"release in {run.release}")
    except GraError as e:
        print(f"run: {e}", file=sys.stderr)
        sys.exit(e.exit_code)


if __name__ == "__main__":
    main()

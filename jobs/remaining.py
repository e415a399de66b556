"""What is left of a run, for plain sbatch: `python jobs/remaining.py RUN [--largest N]`, a line per job.

    workers ROUND LAST COUNT COMMENT
    merge   ROUND COMMENT

Workers go on from their round to the last of theirs, which the merge behind them is of.

The jobs are noted in RUN/submissions first: their comments let `gra status`, `gra cancel` and `gra resume` know them.
"""

import argparse
import sys

from gra_hpc.errors import GraError
from gra_hpc.launch import slurm
from gra_hpc.launch.legs import legs_of
from gra_hpc.launch.queue_gap import spread
from gra_hpc.launch.slurm import max_array_size
from gra_hpc.launch.submissions import Job, Submission, match, refuse_copy
from gra_hpc.run.rounds import remaining
from gra_hpc.run.run import Run
from gra_hpc.terminal import word


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="directory of the run (gra plan made it)")
    parser.add_argument("--largest", type=int, default=0, help="largest array; asked of Slurm if left out")
    args = parser.parse_args()
    try:
        run = Run.open(args.run)
        size = args.largest or max_array_size()
        queue = slurm.queue()
        refuse_copy(run, queue)
        in_queue = match(run, queue)
        if in_queue:
            ids = ", ".join(sorted({str(task.job) for _, task in in_queue})[:5])
            raise GraError(f"{run.path}: jobs of it are in the queue ({ids})", f"gra cancel {word(run.path)}, or wait")
        jobs: list[Job] = []
        lines: list[tuple[object, ...]] = []
        for leg in legs_of(run, remaining(run)):
            if workers := min(size, leg.workers):
                jobs.append(Job("workers", leg.first, spread(leg.shards, workers), plain=True, last=leg.last))
                lines.append(("workers", leg.first, leg.last, workers))
            jobs.append(Job("merge", leg.first, plain=True, last=leg.last))
            lines.append(("merge", leg.last))
        submission = Submission.new(run, jobs)
        if jobs:
            submission.save(run)
        for number, line in enumerate(lines):
            print(*line, submission.comment(run, number))
    except GraError as e:
        print(f"remaining: {e}", file=sys.stderr)
        sys.exit(e.exit_code)


if __name__ == "__main__":
    main()

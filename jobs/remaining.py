"""What is left of a run, for plain sbatch: `python jobs/remaining.py RUN [--largest N]`, a line per job.

    shards ROUND OFFSET INDICES COMMENT     INDICES for --array; an index plus OFFSET is the shard
    merge  ROUND COMMENT

The jobs are noted in RUN/submissions first: their comments let `gra status`, `gra cancel` and `gra resume` know them.
"""

import argparse
import sys
from itertools import groupby

from gra_hpc.errors import GraError
from gra_hpc.launch import slurm
from gra_hpc.launch.slurm import index_ranges, max_array_size
from gra_hpc.launch.submissions import Job, Submission, match, refuse_copy
from gra_hpc.run.rounds import remaining
from gra_hpc.run.run import Run


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
            raise GraError(f"{run.path}: jobs of it are in the queue ({ids})", f"gra cancel {run.path}, or wait")
        jobs: list[Job] = []
        lines: list[tuple[object, ...]] = []
        for step in remaining(run):
            for block, some in groupby(step.shards, lambda shard: shard // size):
                offset, shards = block * size, list(some)
                jobs.append(Job("shards", step.round, list(range(offset, shards[-1] + 1)), plain=True))
                indices = index_ranges(shard - offset for shard in shards)
                lines.append(("shards", step.round, offset, indices))
            jobs.append(Job("merge", step.round, plain=True))
            lines.append(("merge", step.round))
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

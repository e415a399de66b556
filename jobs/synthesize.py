"""Work through the shards that are left, or run one alone: `python jobs/synthesize.py RUN [SHARD]`.

By hand, from sbatch, or anywhere else; as often as there are nodes, also while others are at it.
"""

import argparse
import os
import signal
import sys

from gra_hpc.errors import GraError
from gra_hpc.launch.legs import legs_of
from gra_hpc.launch.tasks import ShardTask, WorkerTask, requeue
from gra_hpc.run.rounds import current_round, remaining
from gra_hpc.run.run import Run


def _part(text: str) -> tuple[int, int]:
    """`3/16`: the third of sixteen, from 0.

    Raises:
        ValueError: not two numbers, or none of nothing.
    """
    which, workers = (int(word) for word in text.split("/"))
    if workers < 1:
        raise ValueError(text)
    return which, workers


def main() -> None:
    """Parse the command line and run."""
    # Slurm's warning may come before anybody listens: then nothing has been done, and the job is put back at once.
    signal.signal(signal.SIGUSR2, lambda *_: requeue())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="directory of the run (gra plan made it)")
    parser.add_argument("shard", type=int, nargs="?", help="this shard alone, whoever else is at it; from 0")
    parser.add_argument("--round", type=int, default=None, help="round; the current one if left out")
    parser.add_argument(
        "--last",
        type=int,
        default=None,
        help="go on to this round; ROUND alone, or where that is left out as far as"
        " the rounds between are small (launch.inline_merge_rows)",
    )
    parser.add_argument(
        "--worker", type=_part, default=(0, 1), metavar="I/N", help="which of so many workers: where it begins"
    )
    args = parser.parse_args()
    try:
        run = Run.open(args.run)
        number = current_round(run) if args.round is None else args.round
        lead_s = int(os.environ.get("GRA_LEAD_S") or 0)
        if args.shard is None:
            which, workers = args.worker
            last = (
                (legs_of(run, remaining(run))[0].last if args.round is None else 0) if args.last is None else args.last
            )
            print(WorkerTask(str(run.path), number, which * run.shards_of(number) // workers, lead_s, last)())
        else:
            print(ShardTask(str(run.path), number, args.shard, lead_s)())
    except GraError as e:
        print(f"synthesize: {e}", file=sys.stderr)
        sys.exit(e.exit_code)


if __name__ == "__main__":
    main()

"""Merge a round: `python jobs/merge.py RUN [--round R]`. After the last round, the release is built."""

import argparse
import signal
import sys

from gra_hpc.errors import GraError
from gra_hpc.launch.tasks import MergeTask
from gra_hpc.run.attempts import job_id
from gra_hpc.run.rounds import current_round
from gra_hpc.run.run import Run


def main() -> None:
    """Parse the command line and merge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="directory of the run (gra plan made it)")
    parser.add_argument("--round", type=int, default=None, help="round; the current one if left out")
    args = parser.parse_args()
    try:
        run = Run.open(args.run)
        if job_id():
            # A preempted job that exits by itself is not requeued: wait for the kill, and start again.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        number = current_round(run) if args.round is None else args.round
        print(MergeTask(str(run.path), number)())
    except GraError as e:
        print(f"merge: {e}", file=sys.stderr)
        sys.exit(e.exit_code)


if __name__ == "__main__":
    main()

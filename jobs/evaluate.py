"""Measure one benchmark, or merge: `python jobs/evaluate.py OUT NAME`, `python jobs/evaluate.py OUT --merge`.

NAME may be a number, from 0: the benchmark's place in config.yaml (for array tasks).
"""

import argparse
import signal
import sys

from gra_hpc.errors import GraError
from gra_hpc.evaluation import config as configs
from gra_hpc.evaluation.directory import EvaluateDir
from gra_hpc.evaluation.job import EvaluateMergeTask, EvaluateTask
from gra_hpc.launch.tasks import requeue


def main() -> None:
    """Parse the command line and measure."""
    # Slurm's warning may come before the job listens: then nothing has been done, and it is put back at once.
    signal.signal(signal.SIGUSR2, lambda *_: requeue())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="directory of the evaluation (gra evaluate made it; config.yaml)")
    parser.add_argument("name", nargs="?", help="benchmark, or its number")
    parser.add_argument("--merge", action="store_true", help="put the results together")
    args = parser.parse_args()
    try:
        if args.merge or args.name is None:
            print(EvaluateMergeTask(args.out)())
            return
        names = configs.load(EvaluateDir.existing(args.out).config).names
        name = names[int(args.name)] if args.name.isdigit() and int(args.name) < len(names) else args.name
        if name not in names:
            raise GraError(f"{args.name}: no such benchmark", f"one of {', '.join(names)}, or 0 to {len(names) - 1}")
        print(EvaluateTask(args.out, name)())
    except GraError as e:
        print(f"evaluate: {e}", file=sys.stderr)
        sys.exit(e.exit_code)


if __name__ == "__main__":
    main()

"""Fine-tune: `python jobs/finetune.py OUT`, once per node (srun). By hand, from sbatch, or anywhere else."""

import argparse
import signal
import sys

from gra_hpc.errors import GraError
from gra_hpc.launch.tasks import requeue
from gra_hpc.training.job import FinetuneTask


def main() -> None:
    """Parse the command line and train."""
    # Slurm's warning may come before the job listens: then nothing has been done, and it is put back at once.
    signal.signal(signal.SIGUSR2, lambda *_: requeue())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", help="directory of the job (gra finetune made it; config.yaml)")
    args = parser.parse_args()
    try:
        print(FinetuneTask(args.out)())
    except GraError as e:
        print(f"finetune: {e}", file=sys.stderr)
        sys.exit(e.exit_code)


if __name__ == "__main__":
    main()

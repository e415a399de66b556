"""Do all that is left of a run, in this process: `python tools/faults/whole_run.py RUN`. Simulated engines only.

What `gra resume` does with one process for each job, one after another: so that one process can die anywhere in a run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gra_hpc.errors import GraError
from gra_hpc.launch.round_end import tidy
from gra_hpc.launch.tasks import MergeTask, ShardTask
from gra_hpc.run.rounds import remaining
from gra_hpc.run.run import Run


def work(path: Path) -> None:
    """Every shard and every merge that is left, in order."""
    while steps := remaining(Run.open(path)):
        for step in steps:
            for shard in step.shards:
                ShardTask(str(path), step.round, shard)()
            MergeTask(str(path), step.round)()
    tidy(Run.open(path))


if __name__ == "__main__":
    try:
        work(Path(sys.argv[1]))
    except GraError as e:
        print(f"whole_run: {e}", file=sys.stderr)
        sys.exit(e.exit_code)

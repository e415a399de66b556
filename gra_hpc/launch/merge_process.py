"""The merge of a round beside a worker's engines: `python -m gra_hpc.launch.merge_process RUN ROUND PARENT`.

It dies with its worker, at any moment without harm, and leaves signals to it.
"""

from __future__ import annotations

import logging
import sys

from gra_hpc.errors import GraError
from gra_hpc.launch.round_end import finish_round
from gra_hpc.launch.tasks import start_job
from gra_hpc.run.run import Run
from gra_hpc.workers import die_with_parent, leave_signals_to_parent

log = logging.getLogger("gra_hpc.launch.merge_process")  # its own name is "__main__", of which no log is kept


def main(path: str, number: str, parent: str) -> None:
    """Merge.

    Args:
        path: of the run.
        number: the round.
        parent: process id of the worker.
    """
    die_with_parent(int(parent))
    leave_signals_to_parent()
    start_job()
    try:
        log.info("%s", finish_round(Run.open(path), int(number)))
    except GraError as e:
        sys.exit(f"merge: {e}")


if __name__ == "__main__":
    main(*sys.argv[1:])

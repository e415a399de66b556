"""The merge's worker processes, and what Slurm sends to all processes of a step."""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil
import pytest

from gra_hpc.errors import GraError
from gra_hpc.workers import Workers


def struck_while(number: signal.Signals) -> list[None]:
    """What workers answer while each of them is sent a signal."""

    def strike() -> None:
        while len(ours := [p for p in psutil.Process().children() if "gra_hpc.workers" in p.cmdline()]) < 2:
            time.sleep(0.01)
        time.sleep(1.0)  # they have imported what they need, and sleep
        for p in ours:
            os.kill(p.pid, number)

    with Workers(2) as workers:
        thread = threading.Thread(target=strike)
        thread.start()
        try:
            return list(workers.map(time.sleep, [1.0] * 6))
        finally:
            thread.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_workers_leave_slurms_signals_to_the_merge(number: signal.Signals) -> None:
    assert struck_while(number) == [None] * 6


def test_a_killed_worker_is_told() -> None:
    with pytest.raises(GraError, match="worker"):
        struck_while(signal.SIGKILL)

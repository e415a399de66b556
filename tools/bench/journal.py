"""What an answered call costs in the journal: microseconds of CPU, of all threads, the one that syncs included.

    python tools/bench/journal.py [--calls 5000] [--rounds 6]

The least of several rounds counts: others use the machine too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from gra_hpc.records import Call
from gra_hpc.run.journal import Journal

TEXT = "An answer of some length, as models give it. " * 45
"""2 kB."""


def cost(path: Path, calls: list[Call]) -> float:
    """Seconds of CPU a call."""
    journal = Journal([], path)
    began = time.process_time()
    for call in calls:
        journal.append(call)
    journal.flush()
    spent = time.process_time() - began
    journal.close()
    return spent / len(calls)


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    calls = [
        Call(f"{i:032x}/response/generator/0", f"{i:032x}", "ada", "m", TEXT, "stop", 700, 450, i, 1.0, 2.0)
        for i in range(args.calls)
    ]
    with tempfile.TemporaryDirectory() as where:
        costs = [cost(Path(where) / f"{n}.log", calls) for n in range(args.rounds)]
    print(f"{min(costs) * 1e6:.1f} microseconds of CPU a call, the least of {args.rounds} rounds of {args.calls} calls")


if __name__ == "__main__":
    main()

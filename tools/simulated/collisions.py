#!/usr/bin/env python3
"""How often workers take the same shard: many processes, the real rule (`gra_hpc.run.choice`), on a real directory.

    python tools/simulated/collisions.py [--workers 64] [--shards 640] [--seconds 0.2] [--together]

SIMULATED: no engine is asked; a shard is worked on for a random time around `--seconds`, then published with an empty
manifest. A collision costs repeated calls, never rows. `--together`: all workers begin at one place, the worst case.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

from gra_hpc.run import attempts
from gra_hpc.run.attempts import Heartbeat
from gra_hpc.run.choice import Chooser
from gra_hpc.run.directory import RunDir


def work(path: str, number: int, place: int, shards: int, seconds: float, out: str) -> None:
    """One worker: as `run.worker`, without the work. Writes a letter a choice: p published, c collided, w withdrew."""
    rng, run = random.Random(number), RunDir(Path(path))
    round_ = run.round(1)
    chooser = Chooser(round_, shards, place, 1.0, run.submissions)
    said = ""
    while choice := chooser.next():
        shard = round_.shard(choice.shard)
        here = attempts.begin(shard)
        Heartbeat(here.id, choice.shard, 1).write(here)
        if not chooser.first(here, shard):
            shutil.rmtree(here.path, ignore_errors=True)
            said += "w"
            continue
        time.sleep(seconds * rng.lognormvariate(0, 0.3))
        try:
            os.close(os.open(shard.manifest, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            said += "p"
        except FileExistsError:
            said += "c"
    Path(out, str(number)).write_text(said, encoding="utf-8")


def main() -> None:
    """Parse, run, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--shards", type=int, default=640)
    parser.add_argument("--seconds", type=float, default=0.2, help="of work on a shard")
    parser.add_argument("--together", action="store_true", help="all begin at shard 0")
    args = parser.parse_args()
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="gra-collisions-") as temporary:
        run, out = Path(temporary, "run"), Path(temporary, "out")
        RunDir(run).round(1).shards.mkdir(parents=True)
        out.mkdir()
        processes = []
        for n in range(args.workers):
            place = 0 if args.together else n * args.shards // args.workers
            processes.append(fork.Process(target=work, args=(str(run), n, place, args.shards, args.seconds, str(out))))
        began = time.monotonic()
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        took = time.monotonic() - began
        told = Counter("".join(f.read_text(encoding="utf-8") for f in out.iterdir()))
        published = len(list(RunDir(run).round(1).shards.glob("*/manifest.json")))
    print(
        f"{args.workers} workers, {args.shards} shards of about {args.seconds} s, {took:.1f} s: {published} published,"
        f" {told['c']} made twice, {told['w']} steps back before any work"
    )


if __name__ == "__main__":
    main()

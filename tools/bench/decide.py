#!/usr/bin/env python3
"""Measure `gra decide` on a corpus of reviewed samples: seconds and memory of deciding, and of the table of thresholds.

    python tools/bench/decide.py --rows 1000000

The corpus is that of `merge.py`, with three reviews a row and a verdict where they disagree. What is measured runs in a
process of its own; the merge of what was decided is `merge.py`'s to measure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gra_hpc import storage
from gra_hpc.judging.again import _plan, _write, judged
from gra_hpc.judging.sweep import sweep
from gra_hpc.merge.round import merge_round
from gra_hpc.records import ACCEPTED, CRITERIA, DOMAINS, REJECTED, sample_schema
from gra_hpc.release.inputs import Inputs
from gra_hpc.run import publish
from gra_hpc.run.directory import RunDir
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.run import Run
from tools.bench.merge_corpus import make_corpus, uniform


def reviewed(table: pa.Table, first: int) -> pa.Table:
    """The same rows with reviews around 8, and what thresholds of 8, 1.5, 8 make of them."""
    n, schema = len(table), sample_schema()
    i = np.arange(first, first + n)
    kind = schema.field("verdict").type
    columns = [np.clip(np.round(uniform(i, 50) * 3 + 7 + 4 * (uniform(i, 51 + r) - 0.5)), 1, 10) for r in range(4)]

    def review(scores: np.ndarray, mask: np.ndarray | None = None) -> pa.Array:
        values = [pa.repeat("m", len(scores)), pa.repeat("fine", len(scores))]
        values += [pa.array(scores.astype(np.int8))] * len(CRITERIA)
        return pa.StructArray.from_arrays(values, fields=list(kind), mask=None if mask is None else pa.array(mask))

    three = np.stack(columns[:3], axis=1)
    mean, sd = three.mean(axis=1), three.std(axis=1)
    disputed = (mean >= 8) & (sd > 1.5)
    accepted = (mean >= 8) & (~disputed | (columns[3] >= 8))
    ends = pa.array(np.arange(0, 3 * n + 1, 3).astype(np.int32))
    given = {
        "domain": pa.array(DOMAINS).take(pa.array(i % 7)),
        "reviewers": pa.ListArray.from_arrays(ends, pa.repeat("m", 3 * n)),
        "reviews": pa.ListArray.from_arrays(ends, review(three.ravel())),
        "verdict": review(columns[3], ~disputed),
        "mean": pa.array(mean),
        "sd": pa.array(sd),
        "score": pa.array(np.where(disputed, columns[3], mean)),
        "status": pa.array(np.where(accepted, ACCEPTED, REJECTED)),
        "stage": pa.array(np.where(accepted, "", np.where(disputed, "adjudication", "response_review"))),
        "reason": pa.array(np.where(accepted, "", "mean below the threshold")),
        "summary": pa.array(np.where(accepted, "A summary.", "")),
    }
    return pa.table({f.name: given[f.name].cast(f.type) if f.name in given else table[f.name] for f in schema})


def corpus(path: Path, rows: int) -> None:
    """A run of reviewed samples, merged without steps: each row is kept."""
    make_corpus(path, rows, max(2, rows // 100_000), False)
    run = RunDir(path)
    run.seed_rejects.touch()
    for n, directory in enumerate(sorted(run.round(1).shards.iterdir())):
        shard = run.round(1).shard(n)
        manifest = storage.read_json(shard.manifest)
        file, ledger = shard.samples("bench"), Ledger()
        table, first = pq.read_table(file), n * rows
        with pq.ParquetWriter(file, sample_schema(), compression="zstd", compression_level=1) as writer:
            for s in range(0, len(table), 10_000):
                part = reviewed(table.slice(s, 10_000).combine_chunks(), first + s)
                writer.write_table(part)
                ends = (part[name].to_pylist() for name in ("status", "stage", "reason"))
                ledger += Ledger.of(len(part), zip(*ends, strict=True))
        manifest |= {"samples": publish.table_entry(file), "ledger": ledger.to_dict(), "round": 1}
        shard.manifest.write_bytes(storage.to_json(manifest))
        assert directory == shard.path


def measured(path: Path, what: str) -> dict[str, Any]:
    """Do one thing in this process; what it took."""
    run, began = Run.to_look_at(path), time.perf_counter()
    if what == "sweep":
        lines = sweep(run, [])
        found: dict[str, Any] = {"accepted": {line.accept_mean: line.accepted for line in lines}}
    else:
        config = judged(run, ["accept_mean=7.5"])
        inputs = Inputs.of_run(run)
        _write(inputs, config, _plan(inputs, config), RunDir(path.with_name("again")))
        found = {}
    seconds = time.perf_counter() - began
    status = Path("/proc/self/status").read_text(encoding="utf-8")  # ru_maxrss of a child begins with its parent's
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    return {"what": what, "seconds": round(seconds, 2), "peak_mb": round(peak)} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "RUN"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(Path(args.one[1]), args.one[0])))
        return
    with tempfile.TemporaryDirectory(prefix="bench-decide-") as directory:
        run = Path(directory) / "run"
        corpus(run, args.rows)
        made = Run.to_look_at(run)
        for step in ("exact", "fuzzy"):
            setattr(made.config.merge, step, False)
        merge_round(made, 1)
        for what in ("sweep", "decide"):
            words = [sys.executable, "-m", "tools.bench.decide", "--one", what, str(run)]
            print(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


if __name__ == "__main__":
    main()

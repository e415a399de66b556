#!/usr/bin/env python3
"""Measure the merge on synthetic corpora in which the duplicates are known (`merge_corpus.py`).

    python tools/bench/merge.py --rows 100000 --semantic
    python tools/bench/merge.py --rows 1000000 --unsigned
    python tools/bench/merge.py --rows 10000000 --shards 100 --dir /scratch/bench --release
    python tools/bench/merge.py --rows 100000 1000000 --datatrove VENV/bin/python
    python tools/bench/merge.py --rows 100000 --semantic --semhash VENV/bin/python

What is measured is the product's `merge_round`, in a process of its own; the memory of all its processes together is
sampled. Peers run in their own environments, on the same rows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gra_hpc import storage
from gra_hpc.flows.registry import find
from gra_hpc.merge.semantic.embedding_column import to_matrix
from gra_hpc.run.code import code_digest, signing_digest
from gra_hpc.run.directory import RunDir
from gra_hpc.signatures.minhash import banding
from tools.bench.merge_corpus import (  # fmt: skip
    COSINE,
    NEAR,
    ORIGINAL,
    SEMANTIC,
    SHINGLE,
    THRESHOLD,
    TWIN,
    identity,
    make_corpus,
    truth,
)


@dataclass
class Watched:
    """A process that was watched to its end."""

    seconds: float
    cpu_seconds: float
    """Of it and its children together: what it costs whatever else the machine does."""
    peak_mb: float
    """Most memory of it and its children together, private and shared, sampled five times a second."""
    output: str


def watch(command: list[str], quiet: bool = False, **more: Any) -> Watched:
    """Run a command; its time, and the peak of its processes' memory, pages that they share counted once, as a job's
    limit does. `quiet`: what it logs is shown if it fails."""
    import psutil

    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=out, stderr=log if quiet else None, **more)
        peak = 0.0
        stop = threading.Event()

        def sample() -> None:
            nonlocal peak
            me = psutil.Process(process.pid)
            while not stop.wait(0.3):
                total = 0
                try:
                    for p in (me, *me.children(recursive=True)):
                        try:
                            total += p.memory_full_info().pss
                        except psutil.Error:
                            continue
                except psutil.Error:
                    return
                peak = max(peak, total / 2**20)

        watcher = threading.Thread(target=sample, daemon=True)
        watcher.start()
        code = process.wait()
        stop.set()
        watcher.join()
        out.seek(0)
        text = out.read()
        log.seek(0)
        logged = log.read()
    if code:
        raise SystemExit(f"{logged[-2000:]}\n{' '.join(command[:4])}... failed with {code}".lstrip())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Watched(time.monotonic() - began, cpu, peak, text)


PEERS = Path(__file__).with_name("merge_peers.py")
_MERGE = """
import logging, sys
from gra_hpc.merge.round import merge_round
from gra_hpc.run.run import Run
logging.basicConfig(level=logging.INFO, format="  %(message)s", stream=sys.stderr)
print(merge_round(Run.to_look_at(sys.argv[1]), 1))
"""


_RELEASE = """
import sys
from gra_hpc.release.build import build
from gra_hpc.run.run import Run
build(Run.open(sys.argv[1]))
"""


def release(path: Path) -> dict[str, Any]:
    """Build the release of a merged corpus, and verify it."""
    run = path / "release"
    shutil.rmtree(run, ignore_errors=True)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    built = watch([sys.executable, "-c", _RELEASE, str(path)], env=env)
    checked = watch([sys.executable, "-m", "gra_hpc.cli", "release", "verify", str(path)], env=env)
    size = sum(f.stat().st_size for f in run.rglob("*") if f.is_file())
    return {
        "seconds": round(built.seconds, 1),
        "peak_mb": round(built.peak_mb),
        "bytes": size,
        "verify_seconds": round(checked.seconds, 1),
        "verify_peak_mb": round(checked.peak_mb),
    }


def measure(path: Path, rows: int) -> dict[str, Any]:
    """Merge the corpus, and compare what was dropped with what was planted."""
    run = RunDir(path)
    shutil.rmtree(run.round(1).merged, ignore_errors=True)
    root = str(Path(__file__).resolve().parents[2])
    env = {**os.environ, "PYTHONPATH": root}
    seen = watch([sys.executable, "-c", _MERGE, str(path)], env=env)
    manifest = storage.read_json(run.round(1).manifest)
    seconds = storage.read_json(run.round(1).merged / "timings.json")["seconds"]
    dropped = pq.read_table(run.round(1).dropped, columns=["id", "step", "winner", "similarity"])
    result = {
        "rows": rows,
        "seconds": round(seen.seconds, 1),
        "cpu_seconds": round(seen.cpu_seconds, 1),
        "exact_and_near_seconds": round(sum(seconds.get(s, 0) for s in ("collect", "sign", "exact", "fuzzy")), 1),
        "steps": seconds,
        "peak_mb": round(seen.peak_mb),
        "kept": manifest["survived"],
        **score(rows, dropped, manifest),
    }
    print(seen.output.strip(), file=sys.stderr)
    return result


def score(rows: int, dropped: Any, manifest: dict[str, Any]) -> dict[str, Any]:
    """Recall and precision by step."""
    t = truth(rows)
    ids = np.array(identity(np.arange(rows)), "S32")
    order = np.argsort(ids)

    def number(column: Any) -> np.ndarray:
        wanted = np.array(column.to_pylist(), "S32")
        return order[np.searchsorted(ids[order], wanted)] if len(wanted) else np.empty(0, np.int64)

    step = np.array(dropped["step"].to_pylist())
    row, winner = number(dropped["id"]), number(dropped["winner"])

    def together(planted: np.ndarray, *by: str) -> float:
        """Share of planted pairs of which these steps left at most one row: what a later step drops is not theirs."""
        gone = np.zeros(rows, bool)
        gone[row[np.isin(step, by)]] = True
        return float((gone[planted] | gone[t.base[planted]]).mean()) if len(planted) else 1.0

    result: dict[str, Any] = {}
    twins = np.flatnonzero(t.kind == TWIN)
    here = step == "exact"
    result["exact"] = {
        "planted": len(twins),
        "dropped": int(here.sum()),
        "recall": together(twins, "exact"),
        "precision": float((t.base[row[here]] == t.base[winner[here]]).mean()) if here.any() else 1.0,
    }
    near = np.flatnonzero((t.kind == NEAR) & (t.jaccard >= THRESHOLD))
    here = step == "fuzzy"
    # A drop is right when row and winner were made from one original, and are linked by planted similarity.
    right = t.base[row[here]] == t.base[winner[here]]
    for side in (row[here], winner[here]):
        right &= (
            (t.kind[side] == ORIGINAL)
            | (t.jaccard[side] >= THRESHOLD)
            | (dropped["similarity"].to_numpy()[here] >= THRESHOLD)
        )
    result["near"] = {
        "planted": len(near),
        "dropped": int(here.sum()),
        "recall": together(near, "exact", "fuzzy"),
        "precision": float(right.mean()) if here.any() else 1.0,
    }
    semantic = manifest["steps"]["semantic"]
    if semantic:
        planted = np.flatnonzero(t.kind == SEMANTIC)
        here = step == "semantic"
        result["semantic"] = {
            "planted": len(planted),
            "dropped": int(here.sum()),
            "recall": together(planted, "exact", "fuzzy", "semantic"),
            "precision": float((t.base[row[here]] == t.base[winner[here]]).mean()) if here.any() else 1.0,
            "method": semantic["method"],
            "measured_recall": semantic["recall"],
        }
    return result


def against_datatrove(path: Path, rows: int, python: str, ours: dict[str, Any]) -> dict[str, Any]:
    """datatrove's MinHash pipeline on the same rows, with the same shingles and bands."""
    workers = len(os.sched_getaffinity(0))
    b = banding(THRESHOLD, 128)
    with tempfile.TemporaryDirectory(prefix="bench-datatrove-", dir=path.parent) as temporary:
        work = Path(temporary)
        (work / "texts").mkdir()
        files = sorted((path / "rounds" / "01" / "shards").glob("*/samples-*.parquet"))
        for w in range(workers):
            with pq.ParquetWriter(
                work / "texts" / f"{w}.parquet", pa.schema([("id", "string"), ("text", "string")])
            ) as out:
                for file in files[w::workers]:
                    t = pq.read_table(file, columns=["id", "instruction", "response"])
                    text = pc.binary_join_element_wise(t["instruction"], t["response"], "\n")
                    out.write_table(pa.table({"id": t["id"], "text": text}))
        numbers = [str(n) for n in (workers, b.bands, b.rows, SHINGLE)]
        seen = watch([python, str(PEERS), "datatrove", str(work / "texts"), str(work), *numbers], quiet=True)
        kept = np.array((work / "kept.txt").read_text(encoding="utf-8").split(), "S32")
    t = truth(rows)
    gone = ~np.isin(np.array(identity(np.arange(rows)), "S32"), kept)
    planted = np.flatnonzero((t.kind == NEAR) & (t.jaccard >= THRESHOLD))
    # What it removed rightly: rows of a family (one original and what was made of it) of which others are left.
    family = np.bincount(t.base, minlength=rows)
    return {
        "steps": json.loads(seen.output.strip().splitlines()[-1]),
        "seconds": round(seen.seconds, 1),
        "peak_mb": round(seen.peak_mb),
        "near_recall": float((gone[planted] | gone[t.base[planted]]).mean()),
        "removed": int(gone.sum()),
        "removed_outside_families": int((gone & (family[t.base] < 2)).sum()),
        "our_speed": {
            "exact_and_near": round(seen.seconds / ours["exact_and_near_seconds"], 1),
            "whole_merge": round(seen.seconds / ours["seconds"], 1),
        },
    }


def against_semhash(path: Path, rows: int, python: str, ours: dict[str, Any]) -> dict[str, Any]:
    """SemHash on the same rows' embeddings, with the same threshold."""
    files = sorted((path / "rounds" / "01" / "shards").glob("*/samples-*.parquet"))
    with tempfile.TemporaryDirectory(prefix="bench-semhash-", dir=path.parent) as temporary:
        work = Path(temporary)
        tables = [pq.read_table(file, columns=["id", "embedding"]) for file in files]
        np.save(work / "ids.npy", np.array([i for t in tables for i in t["id"].to_pylist()], "S32"))
        parts = [to_matrix(t["embedding"].combine_chunks())[1].astype(np.float32) for t in tables]
        np.save(work / "vectors.npy", np.concatenate(parts))
        seen = watch([python, str(PEERS), "semhash", str(work), str(COSINE)], quiet=True)
        kept = np.array((work / "kept.txt").read_text(encoding="utf-8").split(), "S32")
    t = truth(rows)
    gone = ~np.isin(np.array(identity(np.arange(rows)), "S32"), kept)
    planted = np.flatnonzero(t.kind == SEMANTIC)
    return {
        "steps": json.loads(seen.output.strip().splitlines()[-1]),
        "seconds": round(seen.seconds, 1),
        "cpu_seconds": round(seen.cpu_seconds, 1),
        "peak_mb": round(seen.peak_mb),
        "semantic_recall": float((gone[planted] | gone[t.base[planted]]).mean()),
        "removed": int(gone.sum()),
        "our_speed": {"semantic_step": round(seen.seconds / ours["steps"]["semantic"], 1)},
    }


def made_by() -> str:
    """What a corpus that is kept depends on: its plan's code, and what signs its shards."""
    return f"{code_digest(find('synthesize'))} {signing_digest()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000], help="corpus sizes")
    parser.add_argument("--shards", type=int, default=0, help="shards of the corpus (default: 100,000 rows each)")
    parser.add_argument("--semantic", action="store_true", help="with embeddings, and the semantic step")
    parser.add_argument(
        "--unsigned", action="store_true", help="shards as earlier versions made them: the merge signs their texts"
    )
    parser.add_argument("--release", action="store_true", help="also build and verify the release")
    parser.add_argument(
        "--dir", type=Path, help="where corpora are kept and used again (default: a temporary directory)"
    )
    parser.add_argument("--datatrove", metavar="PYTHON", help="also run datatrove's MinHash, with this interpreter")
    parser.add_argument("--semhash", metavar="PYTHON", help="with --semantic: also run SemHash, with this interpreter")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(prefix="bench-merge-") as temporary:
        for rows in args.rows:
            shards = args.shards or max(2, rows // 100_000)
            kind = f"{'-semantic' if args.semantic else ''}{'-unsigned' if args.unsigned else ''}"
            path = (args.dir or Path(temporary)) / f"corpus-{rows}-{shards}{kind}"
            done = path / "done"
            if not done.exists() or done.read_text(encoding="utf-8") != made_by():  # the run is one of the present code
                shutil.rmtree(path, ignore_errors=True)
                began = time.monotonic()
                make_corpus(path, rows, shards, args.semantic, signed=not args.unsigned)
                done.write_text(made_by(), encoding="utf-8")
                print(f"corpus of {rows:,} rows made in {time.monotonic() - began:.0f} s", file=sys.stderr)
            result = measure(path, rows)
            if args.release:
                result["release"] = release(path)
            if args.datatrove:
                result["datatrove"] = against_datatrove(path, rows, args.datatrove, result)
            if args.semhash and args.semantic:
                result["semhash"] = against_semhash(path, rows, args.semhash, result)
            results.append(result)
            print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

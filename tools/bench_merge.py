#!/usr/bin/env python3
"""Measure the merge on synthetic corpora in which the duplicates are known.

    python tools/bench_merge.py --rows 100000 --semantic
    python tools/bench_merge.py --rows 10000000 --shards 100 --dir /scratch/bench
    python tools/bench_merge.py --rows 100000 1000000 --datatrove VENV/bin/python

A corpus is a run with published shards. Row i is made from i alone: an original of 80 to 200 words, an exact twin of an
original (other case and punctuation), a near-duplicate (1 to 4 words changed: its Jaccard similarity is known), a decoy
(5 to 9 words changed: below the threshold), or, in the embedding only, a semantic duplicate. The merge that is measured
is the product's, `merge_round`, in a process of its own whose memory (all processes together) is sampled.
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
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ORIGINAL, TWIN, NEAR, DECOY, SEMANTIC = range(5)
SHARES = {TWIN: 0.05, NEAR: 0.09, DECOY: 0.04, SEMANTIC: 0.05}
"""Rows by kind; the rest are originals."""
SHINGLE, THRESHOLD, COSINE = 5, 0.8, 0.9
VOCABULARY = 60_000
LONGEST = 200
DIMENSIONS = 384
TOPICS = 4000


def mixed(*parts: np.ndarray | int) -> np.ndarray:
    """64 random bits from integers, the same every time."""
    x = np.zeros(1, np.uint64)
    for p in parts:
        x = (x + np.asarray(p, np.uint64)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x632BE59BD9B4E019)
        for shift, by in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(by)
        x ^= x >> np.uint64(31)
    return x


def uniform(*parts: np.ndarray | int) -> np.ndarray:
    """Uniform in [0, 1)."""
    return (mixed(*parts) >> np.uint64(11)) / float(1 << 53)


@dataclass(frozen=True)
class Truth:
    """What was planted."""

    kind: np.ndarray
    base: np.ndarray
    """The original each row was made from; its own number for an original."""
    jaccard: np.ndarray
    """Similarity with the original's text, as sets of shingles."""


@lru_cache(maxsize=1)
def truth(rows: int) -> Truth:
    """What is planted in a corpus of this size."""
    i = np.arange(rows)
    u = uniform(i, 1)
    kind = np.zeros(rows, np.int8)
    edge = 0.0
    for k, share in SHARES.items():
        kind[(u >= edge) & (u < edge + share)] = k
        edge += share
    originals = np.flatnonzero(kind == ORIGINAL)
    base = i.copy()
    made = np.flatnonzero(kind != ORIGINAL)
    base[made] = originals[(mixed(made, 2) % np.uint64(len(originals))).astype(np.int64)]
    jaccard = np.zeros(rows)
    jaccard[kind == TWIN] = 1
    for k in (NEAR, DECOY):
        for some in np.array_split(np.flatnonzero(kind == k), rows // 100_000 + 1):
            jaccard[some] = similarity(some, base[some], kind[some])
    return Truth(kind, base, jaccard)


def length(base: np.ndarray) -> np.ndarray:
    """Words of an original."""
    return (80 + mixed(base, 3) % np.uint64(LONGEST - 79)).astype(np.int64)


def changes(i: np.ndarray, base: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Which words of each row differ from its original's, bool [rows, LONGEST]."""
    n = length(base)
    count = np.where(
        kind == NEAR,
        1 + mixed(i, 4) % np.uint64(4),
        np.where(kind == DECOY, 5 + mixed(i, 4) % np.uint64(5), 0),
    )
    changed = np.zeros((len(i), LONGEST), bool)
    for c in range(9):
        at = (uniform(i, 5, c) * n).astype(np.int64)
        here = np.flatnonzero(c < count)
        changed[here, at[here]] = True
    return changed


def similarity(i: np.ndarray, base: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Jaccard similarity of shingle sets (all shingles of random text differ): lost windows against all."""
    n = length(base)
    changed = changes(i, base, kind)
    running = np.concatenate([np.zeros((len(i), 1), np.int64), np.cumsum(changed, axis=1)], axis=1)
    windows = running[:, SHINGLE:] - running[:, :-SHINGLE] > 0
    inside = np.arange(windows.shape[1])[None, :] < (n - SHINGLE + 1)[:, None]
    lost = (windows & inside).sum(axis=1)
    total = n - SHINGLE + 1
    return (total - lost) / (total + lost)


def vocabulary() -> Any:
    """Made-up words, short ones first."""
    import pyarrow as pa

    syllables = [a + b for a in "bcdfghklmnprstvz" for b in ("a", "e", "i", "o", "u", "ai", "or", "en")]
    words = []
    for k in range(VOCABULARY):
        word, left = "", k + 1
        while left:
            left, s = divmod(left, len(syllables))
            word += syllables[s]
        words.append(word + "s" * (k % 3 == 0))
    return pa.array(words)


def texts(i: np.ndarray, t: Truth) -> tuple[Any, Any]:
    """Instructions and responses of rows, as Arrow string arrays."""
    import pyarrow as pa
    import pyarrow.compute as pc

    base, kind = t.base[i], t.kind[i]
    n = length(base)
    place = np.arange(LONGEST)[None, :]
    source = np.where(kind == SEMANTIC, i, base)  # a semantic duplicate has words of its own
    u = uniform(source[:, None], 6, place)
    fresh = uniform(i[:, None], 7, place)
    u = np.where(changes(i, base, kind), fresh, u)
    words = (VOCABULARY * u**2).astype(np.int32)
    vocabulary_ = vocabulary()
    answers = []
    for first, last in ((np.zeros_like(n), n // 6), (n // 6, n)):
        inside = (place >= first[:, None]) & (place < last[:, None])
        offsets = np.concatenate([[0], np.cumsum(inside.sum(axis=1))]).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), vocabulary_.take(pa.array(words[inside])))
        joined = pc.binary_join(lists, " ")
        twin = pc.replace_substring(pc.utf8_capitalize(joined), " ", ",  ", max_replacements=7)
        answers.append(pc.if_else(pa.array(kind == TWIN), twin, joined))
    return answers[0], answers[1]


def embeddings(i: np.ndarray, t: Truth) -> np.ndarray:
    """Unit vectors in topics and subtopics; semantic duplicates at a cosine of 0.9 to 0.99 of their original."""

    def normal(key: np.ndarray, salt: int) -> np.ndarray:
        place = np.arange(DIMENSIONS // 2)[None, :]
        a, b = uniform(key[:, None], salt, place), uniform(key[:, None], salt + 1, place)
        r = np.sqrt(-2 * np.log(1 - a))
        v = np.concatenate([r * np.cos(2 * np.pi * b), r * np.sin(2 * np.pi * b)], axis=1)
        return v / np.linalg.norm(v, axis=1, keepdims=True)

    base = t.base[i]
    topic = mixed(base, 20) % np.uint64(TOPICS)
    v = 0.6 * normal(topic // np.uint64(40), 21) + 0.5 * normal(topic, 23) + 0.62 * normal(base, 25)
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    cosine = np.where(t.kind[i] == SEMANTIC, planted_cosine(i), np.where(t.kind[i] == ORIGINAL, 1, 0.995))[
        :, None
    ]
    other = normal(i, 27)
    other -= (other * v).sum(axis=1, keepdims=True) * v
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    return (cosine * v + np.sqrt(1 - cosine**2) * other).astype(np.float16)


def planted_cosine(i: np.ndarray) -> np.ndarray:
    """Cosine of a semantic duplicate with its original."""
    return 0.905 + 0.085 * uniform(i, 29)


def identity(i: np.ndarray) -> list[str]:
    """Ids of rows: 32 hex digits that say nothing about their order."""
    high, low = mixed(i, 30), mixed(i, 31)
    return [f"{a:016x}{b:016x}" for a, b in zip(high.tolist(), low.tolist(), strict=True)]


def write_shard(asked: tuple[str, int, int, int, bool]) -> int:
    """Publish one shard: rows `number`, `number + shards`, ..."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from gra_hpc import publish, storage
    from gra_hpc.ledger import Ledger
    from gra_hpc.merge import vectors
    from gra_hpc.plan import Plan
    from gra_hpc.records import ACCEPTED, sample_schema
    from gra_hpc.rundir import RunDir

    path, number, shards, total, embedded = asked
    run = RunDir(Path(path))
    shard = run.round(1).shard(number)
    shard.path.mkdir(parents=True)
    t = truth(total)
    rows = np.arange(number, total, shards)
    schema = sample_schema()
    file = shard.samples("bench")
    with pq.ParquetWriter(
        file, schema, compression="zstd", compression_level=1, use_dictionary=False
    ) as writer:
        for s in range(0, len(rows), 10_000):
            i = rows[s : s + 10_000]
            instruction, response = texts(i, t)
            given = {
                "id": pa.array(identity(i)),
                "round": pa.repeat(pa.scalar(1, pa.int32()), len(i)),
                "seed_id": pa.array([f"seed{k % 50_000}" for k in i.tolist()]),
                "instruction": instruction,
                "response": response,
                "score": pa.array(np.round(8 + 2 * uniform(i, 8), 2)),
                "status": pa.repeat(ACCEPTED, len(i)),
                "embedding": vectors.column(embeddings(i, t)) if embedded else pa.nulls(len(i), pa.binary()),
            }
            columns = [
                given[f.name].cast(f.type) if f.name in given else pa.nulls(len(i), f.type) for f in schema
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    manifest = {
        "fingerprint": Plan.load(run).fingerprint,
        "round": 1,
        "shard": number,
        "attempt": "bench",
        "samples": publish.table_entry(file),
        "calls": None,
        "ledger": Ledger(planned=len(rows), accepted=len(rows)).to_dict(),
    }
    shard.manifest.write_bytes(storage.to_json(manifest))
    return len(rows)


def make_corpus(path: Path, rows: int, shards: int, semantic: bool) -> None:
    """A planned run whose shards are published."""
    from gra_hpc import presets
    from gra_hpc.config import MemberConfig, ModelConfig, RunConfig, SeedsConfig
    from gra_hpc.merge.workers import Workers
    from gra_hpc.plan import ModelPin, Plan, RoundPlan
    from gra_hpc.records import digest
    from gra_hpc.rundir import RunDir
    from gra_hpc.seeds import write_records

    config = RunConfig(
        SeedsConfig(path="synthetic"), {"none": ModelConfig(path="none")}, {"m": MemberConfig("none")}
    )
    config.merge.semantic = semantic
    config.merge.embed_model = "synthetic" if semantic else ""
    run = RunDir(path)
    run.path.mkdir(parents=True)
    run.config.write_text(presets.dump(config))
    pin = ModelPin("synthetic", "synthetic", "", "") if semantic else None
    plan = Plan(digest("bench", rows, shards), {}, "bench", 0.0, shards, 0, 0, 0, {}, pin)
    run.plan.write_text(json.dumps(asdict(plan)))
    write_records(run.seeds, [])
    RoundPlan(1, rows, shards).save(run.round(1))
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)
    import bench_merge

    with Workers(len(os.sched_getaffinity(0))) as workers:
        asked = [(str(path), n, shards, rows, semantic) for n in range(shards)]
        for done, _ in enumerate(workers.map(bench_merge.write_shard, asked), 1):
            if done % max(1, shards // 10) == 0:
                print(f"  corpus: {done} of {shards} shards", file=sys.stderr)


@dataclass
class Watched:
    """A process that was watched to its end."""

    seconds: float
    cpu_seconds: float
    """Of it and its children together: what it costs whatever else the machine does."""
    peak_mb: float
    """Most memory of it and its children together, private and shared, sampled five times a second."""
    output: str


def watch(command: list[str], **more: Any) -> Watched:
    """Run a command; its time and peak memory."""
    import psutil

    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, **more)
        peak = 0.0
        stop = threading.Event()

        def sample() -> None:
            nonlocal peak
            me = psutil.Process(process.pid)
            while not stop.wait(0.2):
                total = 0
                try:
                    for p in (me, *me.children(recursive=True)):
                        try:
                            total += p.memory_info().rss
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
    if code:
        raise SystemExit(f"{' '.join(command[:4])}... failed with {code}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Watched(time.monotonic() - began, cpu, peak, text)


_MERGE = """
import logging, sys
from gra_hpc.merge.job import merge_round
from gra_hpc.rundir import RunDir
logging.basicConfig(level=logging.INFO, format="  %(message)s", stream=sys.stderr)
print(merge_round(RunDir.existing(sys.argv[1]), 1))
"""


def measure(path: Path, rows: int) -> dict[str, Any]:
    """Merge the corpus, and compare what was dropped with what was planted."""
    import pyarrow.parquet as pq

    from gra_hpc import storage
    from gra_hpc.rundir import RunDir

    run = RunDir(path)
    shutil.rmtree(run.round(1).merged, ignore_errors=True)
    root = str(Path(__file__).resolve().parent.parent)
    env = {**os.environ, "PYTHONPATH": root}
    seen = watch([sys.executable, "-c", _MERGE, str(path)], env=env)
    manifest = storage.read_json(run.round(1).manifest)
    seconds = storage.read_json(run.round(1).merged / "timings.json")["seconds"]
    dropped = pq.read_table(run.round(1).dropped, columns=["id", "step", "winner", "similarity"])
    result = {
        "rows": rows,
        "seconds": round(seen.seconds, 1),
        "cpu_seconds": round(seen.cpu_seconds, 1),
        "exact_and_near_seconds": round(
            sum(seconds.get(s, 0) for s in ("collect", "sign", "exact", "fuzzy")), 1
        ),
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
    gone = np.zeros(rows, bool)
    gone[row] = True

    def together(planted: np.ndarray) -> float:
        """Share of planted pairs of which at most one row is left."""
        return float((gone[planted] | gone[t.base[planted]]).mean()) if len(planted) else 1.0

    result: dict[str, Any] = {}
    twins = np.flatnonzero(t.kind == TWIN)
    here = step == "exact"
    result["exact"] = {
        "planted": len(twins),
        "dropped": int(here.sum()),
        "recall": together(twins),
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
        "recall": together(near),
        "precision": float(right.mean()) if here.any() else 1.0,
    }
    semantic = manifest["steps"]["semantic"]
    if semantic:
        planted = np.flatnonzero(t.kind == SEMANTIC)
        here = step == "semantic"
        result["semantic"] = {
            "planted": len(planted),
            "dropped": int(here.sum()),
            "recall": together(planted),
            "precision": float((t.base[row[here]] == t.base[winner[here]]).mean()) if here.any() else 1.0,
            "method": semantic["method"],
            "measured_recall": semantic["recall"],
        }
    return result


def against_datatrove(path: Path, rows: int, python: str, ours: dict[str, Any]) -> dict[str, Any]:
    """datatrove's MinHash pipeline on the same rows, with the same shingles and bands."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from gra_hpc.merge.signing import banding

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
        script = str(Path(__file__).with_name("bench_merge_peers.py"))
        numbers = [str(n) for n in (workers, b.bands, b.rows, SHINGLE)]
        seen = watch(
            [python, script, "datatrove", str(work / "texts"), str(work), *numbers], stderr=subprocess.DEVNULL
        )
        kept = np.array((work / "kept.txt").read_text().split(), "S32")
    t = truth(rows)
    gone = ~np.isin(np.array(identity(np.arange(rows)), "S32"), kept)
    planted = np.flatnonzero((t.kind == NEAR) & (t.jaccard >= THRESHOLD))
    # What it removed rightly: rows of a family (one original and what was made of it) of which others are left.
    family = np.bincount(t.base, minlength=rows)
    return {
        "steps": json.loads(seen.output.strip().splitlines()[-1]),
        "seconds": round(seen.seconds, 1),
        "cpu_seconds": round(seen.cpu_seconds, 1),
        "peak_mb": round(seen.peak_mb),
        "near_recall": float((gone[planted] | gone[t.base[planted]]).mean()),
        "removed": int(gone.sum()),
        "removed_outside_families": int((gone & (family[t.base] < 2)).sum()),
        "our_speed": {
            "exact_and_near": round(seen.seconds / ours["exact_and_near_seconds"], 1),
            "whole_merge": round(seen.seconds / ours["seconds"], 1),
            "whole_merge_cpu": round(seen.cpu_seconds / ours["cpu_seconds"], 1),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000], help="corpus sizes")
    parser.add_argument(
        "--shards", type=int, default=0, help="shards of the corpus (default: 100,000 rows each)"
    )
    parser.add_argument("--semantic", action="store_true", help="with embeddings, and the semantic step")
    parser.add_argument(
        "--dir", type=Path, help="where corpora are kept and used again (default: a temporary directory)"
    )
    parser.add_argument(
        "--datatrove", metavar="PYTHON", help="also run datatrove's MinHash, with this interpreter"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(prefix="bench-merge-") as temporary:
        for rows in args.rows:
            shards = args.shards or max(2, rows // 100_000)
            path = (
                args.dir or Path(temporary)
            ) / f"corpus-{rows}-{shards}{'-semantic' if args.semantic else ''}"
            if not (path / "done").exists():
                shutil.rmtree(path, ignore_errors=True)
                began = time.monotonic()
                make_corpus(path, rows, shards, args.semantic)
                (path / "done").touch()
                print(f"corpus of {rows:,} rows made in {time.monotonic() - began:.0f} s", file=sys.stderr)
            result = measure(path, rows)
            if args.datatrove:
                result["datatrove"] = against_datatrove(path, rows, args.datatrove, result)
            results.append(result)
            print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Run a peer's removal of duplicates on a corpus, for `merge.py`; with the Python that the peer is installed in.

    PYTHON tools/bench/merge_peers.py datatrove TEXTS_DIR WORK_DIR WORKERS BANDS ROWS SHINGLE
    PYTHON tools/bench/merge_peers.py semhash WORK_DIR THRESHOLD

TEXTS_DIR holds Parquet files with columns `id` and `text`, one per worker; for semhash, WORK_DIR holds ids.npy and
vectors.npy. Prints JSON: seconds by step, and writes the ids of the rows that are left to WORK_DIR/kept.txt.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np


def datatrove(texts: Path, work: Path, workers: int, bands: int, rows: int, shingle: int) -> dict[str, float]:
    """The four steps of datatrove's MinHash pipeline, as its own example runs them."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import HashConfig, MinhashConfig
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import JsonlWriter

    config = MinhashConfig(
        n_grams=shingle, num_buckets=bands, hashes_per_bucket=rows, hash_config=HashConfig(precision=64)
    )
    sign, buckets, removed = (str(work / name) for name in ("signatures", "buckets", "removed"))
    files = len(list(texts.glob("*.parquet")))
    steps = {
        "signatures": ([ParquetReader(str(texts)), MinhashDedupSignature(sign, config)], files),
        "buckets": ([MinhashDedupBuckets(sign, buckets, config=config)], bands),
        "cluster": ([MinhashDedupCluster(buckets, removed, config=config)], 1),
        "filter": (
            [ParquetReader(str(texts)), MinhashDedupFilter(removed), JsonlWriter(str(work / "kept"), compression=None)],
            files,
        ),
    }
    seconds = {}
    for name, (pipeline, tasks) in steps.items():
        began = time.monotonic()
        LocalPipelineExecutor(
            pipeline, tasks=tasks, workers=min(workers, tasks), logging_dir=str(work / "logs" / name)
        ).run()
        seconds[name] = round(time.monotonic() - began, 2)
    with (work / "kept.txt").open("w", encoding="utf-8") as out:
        for file in sorted((work / "kept").glob("*.jsonl")):
            with file.open(encoding="utf-8") as f:
                out.writelines(f"{json.loads(line)['id']}\n" for line in f)
    return seconds


def semhash(work: Path, threshold: float) -> dict[str, float]:
    """SemHash over given embeddings, with its default index."""
    from semhash import SemHash

    ids = [i.decode() for i in np.load(work / "ids.npy")]
    vectors = np.load(work / "vectors.npy")
    began = time.monotonic()
    index = SemHash.from_embeddings(vectors, ids, model=None)
    built = time.monotonic()
    kept = index.self_deduplicate(threshold=threshold).selected
    seconds = {"index": round(built - began, 2), "deduplicate": round(time.monotonic() - built, 2)}
    (work / "kept.txt").write_text("\n".join(kept), encoding="utf-8")
    return seconds


if __name__ == "__main__":
    name, *words = sys.argv[1:]
    if name == "datatrove":
        print(json.dumps(datatrove(Path(words[0]), Path(words[1]), *map(int, words[2:]))))
    else:
        print(json.dumps(semhash(Path(words[0]), float(words[1]))))

"""Synthetic corpora in which the duplicates are known, for `merge.py`: runs with published shards.

Row i is made from i alone: an original of 80 to 200 words, an exact twin of an original (other case and punctuation), a
near-duplicate (1 to 4 words changed: its Jaccard similarity is known), a decoy (5 to 9 words changed: below the
threshold), or, in the embedding only, a semantic duplicate.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gra_hpc import __version__, storage
from gra_hpc.config import presets
from gra_hpc.config.settings import MemberConfig, ModelConfig, RunConfig, SeedsConfig
from gra_hpc.merge.semantic.embedding_column import to_column
from gra_hpc.records import ACCEPTED, call_schema, digest, sample_schema
from gra_hpc.run import publish
from gra_hpc.run.directory import RunDir
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.pins import ModelPin
from gra_hpc.run.plan import Plan, RoundPlan, frozen
from gra_hpc.run.signing import signer_of
from gra_hpc.sources.seeds import write_records
from gra_hpc.workers import Workers

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
        kind == NEAR, 1 + mixed(i, 4) % np.uint64(4), np.where(kind == DECOY, 5 + mixed(i, 4) % np.uint64(5), 0)
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
    cosine = np.where(t.kind[i] == SEMANTIC, planted_cosine(i), np.where(t.kind[i] == ORIGINAL, 1, 0.995))[:, None]
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


def write_shard(asked: tuple[str, int, int, int, bool, bool]) -> int:
    """Publish one shard: rows `number`, `number + shards`, ..."""
    path, number, shards, total, embedded, signed = asked
    run = RunDir(Path(path))
    shard = run.round(1).shard(number)
    shard.path.mkdir(parents=True)
    t = truth(total)
    rows = np.arange(number, total, shards)
    schema = sample_schema()
    file = shard.samples("bench")
    with pq.ParquetWriter(file, schema, compression="zstd", compression_level=1, use_dictionary=False) as writer:
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
                "generator": pa.repeat("m", len(i)),
                "embedding": to_column(embeddings(i, t)) if embedded else pa.nulls(len(i), pa.binary()),
            }
            columns = [given[f.name].cast(f.type) if f.name in given else pa.nulls(len(i), f.type) for f in schema]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    calls = shard.calls("bench")
    pq.write_table(call_schema().empty_table(), calls)
    samples = publish.table_entry(file)
    plan, config = Plan.load(run), presets.load(run.config_file)
    manifest = {
        "fingerprint": plan.fingerprint,
        "round": 1,
        "shard": number,
        "attempt": "bench",
        "samples": samples,
        "calls": publish.table_entry(calls),
        "ledger": Ledger(planned=len(rows), accepted=len(rows)).to_dict(),
        "attempts": [],
        "tokens": {},
        "timings": {"started": 0.0, "ended": 0.0},
        "engines": {"engines": {}},
        "host": "",
    }
    if signed:
        signer, target = signer_of(config, plan), shard.signatures("bench")
        manifest["signatures"] = signer.sign(file, samples["sha256"], target)
    shard.manifest.write_bytes(storage.to_json(manifest))
    return len(rows)


def make_corpus(path: Path, rows: int, shards: int, semantic: bool, signed: bool = True) -> None:
    """A planned run whose shards are published.

    Args:
        signed: as real shards are: with what the merge needs of their texts.
    """
    config = RunConfig(SeedsConfig(path="synthetic"), {"none": ModelConfig(path="none")}, {"m": MemberConfig("none")})
    config.merge.semantic = semantic
    config.merge.embed_model = "synthetic" if semantic else ""
    run = RunDir(path)
    run.path.mkdir(parents=True)
    run.config_file.write_text(presets.dump(config), encoding="utf-8")
    pin = ModelPin("synthetic", "synthetic", "", "") if semantic else None
    models = {"none": ModelPin("none", "synthetic", "", "")}
    what = frozen(config, digest("bench", rows, shards), {"none": "synthetic"}, pin, {})
    plan = Plan(digest(what), what, __version__, 0.0, shards, 0, 0, 0, models, pin)
    run.plan_file.write_text(json.dumps(asdict(plan)), encoding="utf-8")
    write_records(run.seeds, [])
    RoundPlan(1, rows, shards).save(run.round(1))
    from tools.bench import merge_corpus

    with Workers(len(os.sched_getaffinity(0))) as workers:
        asked = [(str(path), n, shards, rows, semantic, signed) for n in range(shards)]
        for done, _ in enumerate(workers.map(merge_corpus.write_shard, asked), 1):
            if done % max(1, shards // 10) == 0:
                print(f"  corpus: {done} of {shards} shards", file=sys.stderr)

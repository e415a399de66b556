"""Exact and near duplicates against brute force over Python sets."""

from __future__ import annotations

import random
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricate import change, make_run, publish_shard, rows, sample, seed, tables, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gra_hpc.merge.index import Index
from gra_hpc.merge.near import near_duplicates
from gra_hpc.merge.near.candidates import LEADERS, buckets, candidate_pairs, pack
from gra_hpc.merge.near.decisions import Decisions
from gra_hpc.merge.round import merge_round
from gra_hpc.run.run import Run
from gra_hpc.signatures import minhash
from gra_hpc.text.normal_form import normalise
from gra_hpc.text.words import Hashes, windows, word_hashes


def shingle_set(instruction: str, response: str, size: int = 5) -> set[tuple[bytes, ...]]:
    words = b" ".join(normalise([instruction.encode(), response.encode()])).split()
    return {tuple(words[i : i + size]) for i in range(max(1, len(words) - size + 1))} if words else set()


def survivors(samples: list, seeds: list, threshold: float) -> tuple[set[str], dict[str, str]]:
    """Who stays, and who beat whom: exact twins first, then best first, for the best near one that stays."""
    ranked = [*seeds, *sorted(samples, key=lambda s: (-s.score, s.id))]
    protected = {s.id for s in seeds}
    seen: dict[bytes, str] = {}
    beaten: dict[str, str] = {}
    for s in ranked:
        key = b"\0".join(normalise([s.instruction.encode(), s.response.encode()]))
        if key in seen and s.id not in protected:
            beaten[s.id] = seen[key]
        seen.setdefault(key, s.id)
    left = [s for s in ranked if s.id not in beaten]
    sets = [shingle_set(s.instruction, s.response) for s in left]
    stay: list[int] = []
    for j, s in enumerate(left):
        near = [i for i in stay if sets[i] and sets[j] and len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold]
        if near and s.id not in protected:
            beaten[s.id] = left[near[0]].id
        else:
            stay.append(j)
    return {s.id for s in ranked} - set(beaten), beaten


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(0, 4))
def test_the_same_as_brute_force(number: int, count: int, edits: int) -> None:
    """Random families of edited texts, as a whole merge."""
    rng = random.Random(number)
    bases = [(text(rng, 6), text(rng, rng.choice([2, 10, 60]))) for _ in range(max(1, count // 4))]
    seeds = [seed(i, *rng.choice(bases), occurrence=i) for i in range(rng.randrange(3))] if number % 2 else [seed(0)]
    samples = []
    for i in range(count):
        instruction, response = rng.choice(bases)
        places = [rng.randrange(len(response.split())) for _ in range(rng.randrange(edits + 1))]
        response = change(response, places, by=f"x{rng.randrange(3)}")
        samples.append(sample(i, instruction, response, score=rng.choice([8.0, 9.0, 10.0])))
    with tempfile.TemporaryDirectory() as directory:
        run = make_run(Path(directory) / "run", seeds, shards=2)
        publish_shard(run, 1, 0, samples[::2])
        publish_shard(run, 1, 1, samples[1::2])
        merge_round(run, 1)
        kept = {r["id"] for r in rows(run.round(1).kept)}
        dropped = {r["id"]: r["winner"] for r in rows(run.round(1).dropped)}
    stays, beaten = survivors(samples, seeds, 0.8)
    assert kept == stays - {s.id for s in seeds}
    assert dropped == beaten


def test_large_buckets_are_covered(tmp_path: Path) -> None:
    """A family larger than a bucket that is compared completely."""
    rng = random.Random(1)
    base = text(rng, 150)
    samples = [sample(i, "The same question", change(base, [rng.randrange(150)], by=f"y{i}")) for i in range(300)]
    run = make_run(tmp_path / "run", [seed(0)], shards=1)
    publish_shard(run, 1, 0, [*samples, sample(1000)])
    assert merge_round(run, 1).kept == 2


def families_of(tmp_path: Path, name: str, sizes: list[int]) -> Run:
    """Families of texts in which one word differs."""
    rng = random.Random(1)
    run = make_run(tmp_path / name, [seed(0)], shards=1)
    samples = []
    for size in sizes:
        base = text(rng, 150)
        for _ in range(size):
            i = len(samples)
            answer = change(base, [rng.randrange(150)], by=f"y{i}")
            samples.append(sample(i, "The same question", answer, score=rng.choice([8.0, 9.0])))
    publish_shard(run, 1, 0, samples)
    return run


def test_pairs_in_instalments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Families whose pairs do not fit in the memory given: never more at a time, and the same rows stay."""
    sizes = [60, 2, 300, 40, 1, 90]
    whole = families_of(tmp_path, "whole", sizes)
    assert merge_round(whole, 1).kept == len(sizes)
    run = families_of(tmp_path, "run", sizes)
    real, jaccard = near_duplicates.duplicates, near_duplicates.jaccard
    compared = []

    def counted(ix: Any, what: Any, pairs: np.ndarray, *more: Any) -> np.ndarray:
        compared.append(len(pairs))
        return jaccard(ix, what, pairs, *more)

    monkeypatch.setattr(near_duplicates, "_LEAST_PAIRS", 1000)
    monkeypatch.setattr(near_duplicates, "duplicates", lambda *a: real(*a[:5], memory=1))
    monkeypatch.setattr(near_duplicates, "jaccard", counted)
    merge_round(run, 1)
    assert len(compared) > 5
    assert max(compared) <= 1000
    assert tables(run) == tables(whole)


@pytest.mark.parametrize("memory", [None, 1])
def test_nothing_is_dropped_through_others(tmp_path: Path, memory: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain: each row shares most words with the next; the first and the thirtieth share none."""
    rng = random.Random(7)
    words = [f"w{rng.randrange(10**6)}" for _ in range(400)]
    run = make_run(tmp_path / "run", [seed(0)], shards=1)
    samples = [
        sample(i, "The same question", " ".join(words[5 * i : 5 * i + 100]), score=10 - i / 100) for i in range(60)
    ]
    publish_shard(run, 1, 0, samples)
    if memory:
        real = near_duplicates.duplicates
        monkeypatch.setattr(near_duplicates, "_LEAST_PAIRS", 64)
        monkeypatch.setattr(near_duplicates, "duplicates", lambda *a: real(*a[:5], memory=memory))
    merge_round(run, 1)
    stay, beaten = survivors(samples, [seed(0)], 0.8)
    assert {r["id"] for r in rows(run.round(1).kept)} == stay - {seed(0).id}
    assert {r["id"]: r["winner"] for r in rows(run.round(1).dropped)} == beaten
    assert 20 <= len(beaten) <= 40
    assert all(r["similarity"] >= 0.8 for r in rows(run.round(1).dropped))


def chains(rng: random.Random, rows_: int, pool: int) -> list[tuple[int, int]]:
    """Near pairs of a made-up corpus, each the better rank first."""
    found = set()
    for _ in range(rng.randrange(3 * rows_)):
        a, b = sorted(rng.sample(range(rows_), 2))
        if b >= pool:
            found.add((a, b))
    return sorted(found)


@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(0, 5), st.integers(1, 6))
def test_decisions_do_not_depend_on_instalments(number: int, count: int, pool: int, at_once: int) -> None:
    rng = random.Random(number)
    pairs = chains(rng, count, pool)
    stay: set[int] = set()
    winners = {}
    for row in range(count):
        near = [a for a, b in pairs if b == row and a in stay]
        if near:
            winners[row] = near[0]
        else:
            stay.add(row)
    bands = [pairs[i : i + at_once] for i in range(0, len(pairs), at_once)]
    for early in (False, True):
        decisions = Decisions(count, pool)
        for some in bands:  # a bucket of two for each pair
            flat = np.array([r for pair in some for r in pair], np.int64)
            decisions.bucketed(flat, np.arange(0, len(flat), 2))
        if early:
            decisions.decide_early()
        rng.shuffle(bands)
        for some in bands:
            packed = pack(*(np.array(side, np.int64) for side in zip(*some, strict=True)))
            if early:
                packed = decisions.open(packed)
            decisions.add(packed, np.ones(len(packed)))
        drop, winner, _ = decisions.final()
        assert dict(zip(drop.tolist(), winner.tolist(), strict=True)) == winners


def test_candidates_of_a_corpus_that_repeats_itself_come_in_blocks(tmp_path: Path) -> None:
    """One bucket of many rows, and small ones: what is held at a time is bounded, and nothing is left out."""
    n = 20_000
    ix = Index([], 3, 3, np.empty(n, "S1"), np.arange(n), np.arange(n))
    keys = np.full(n, 1 << 40, np.uint64)
    keys[n // 2 :] = np.arange(n // 2).astype(np.uint64) // 5 << np.uint64(20)
    usable = np.ones(n, bool)
    tracemalloc.start()
    blocks = []
    rank, begins = buckets(keys, ix, usable)
    for block in candidate_pairs(rank, begins, ix.pool, 2000):
        blocks.append(len(block))
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(blocks) <= 2000
    assert peak < 100 * n, "bytes: of the rows, not of their pairs"
    some = np.unique(np.concatenate(list(candidate_pairs(rank, begins, ix.pool, 2000))))
    (whole,) = candidate_pairs(rank, begins, ix.pool, 64 * n)
    assert (some == whole).all()
    met = np.minimum(np.arange(n // 2), 2 * LEADERS)  # leaders, and as many next in rank
    assert len(whole) == met.sum() - 3 + n // 2 // 5 * 10


def test_rows_without_words_are_no_near_duplicates(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [seed(0)], shards=1, exact=False)
    publish_shard(
        run, 1, 0, [sample(0, "!!!", "..."), sample(1, "???", "--"), sample(2, "a", "b"), sample(3, "c", "d")]
    )
    assert merge_round(run, 1).kept == 4


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("permutations", [32, 64, 128, 256])
def test_banding_finds_pairs_at_the_threshold(threshold: float, permutations: int) -> None:
    b = minhash.banding(threshold, permutations)
    assert b.bands * b.rows <= permutations
    assert b.found(threshold) >= 0.99
    assert permutations < 128 or threshold < 0.6 or b.found(threshold / 3) < 0.5


def test_minhash_estimates_jaccard() -> None:
    """Agreement of signatures is an unbiased estimate of the similarity, with the variance that theory gives."""
    rng = np.random.default_rng(0)
    n, banding = 400, minhash.Banding(32, 4)
    for shared in (50, 120, 180):
        values, offsets = [], [0]
        for _ in range(n):
            common = rng.integers(0, 1 << 64, shared, dtype=np.uint64)
            for _ in range(2):
                own = rng.integers(0, 1 << 64, 200 - shared, dtype=np.uint64)
                values.append(np.concatenate([common, own]))
                offsets.append(offsets[-1] + 200)
        s = minhash.minhash(Hashes(np.concatenate(values), np.array(offsets)), banding)
        estimate = (s[:, 0::2] == s[:, 1::2]).mean(axis=0)
        true = shared / (400 - shared)
        assert abs(estimate.mean() - true) < 4 * np.sqrt(true * (1 - true) / 128 / n)
        assert 0.8 < estimate.std() / np.sqrt(true * (1 - true) / 128) < 1.2


def test_minhash_of_real_windows_estimates_jaccard() -> None:
    rng = random.Random(5)
    rows_ = []
    for _ in range(300):
        t = text(rng, 150)
        rows_ += [t, change(t, [20, 60, 100])]
    shingles = windows(word_hashes(normalise(t.encode() for t in rows_)), 5, short=True)
    s = minhash.minhash(shingles, minhash.Banding(32, 4))
    a, b = shingle_set("", rows_[0]), shingle_set("", rows_[1])
    true = len(a & b) / len(a | b)
    estimate = (s[:, 0::2] == s[:, 1::2]).mean()
    assert abs(estimate - true) < 0.01

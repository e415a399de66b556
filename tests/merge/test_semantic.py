"""The greedy rule against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gra_hpc.merge.semantic import clusters, recall, rule, semantic
from gra_hpc.workers import Workers


def brute_force(vectors: np.ndarray, pool: int, threshold: float) -> tuple[list[int], list[int]]:
    """The rule as the paper states it, one row at a time, in 64-bit arithmetic."""
    v = vectors.astype(np.float64)
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    kept, drop, winner = list(range(pool)), [], []
    matrix = v.copy()  # its first len(kept) rows are the target pool
    for i in range(pool, len(v)):
        cosine = matrix[: len(kept)] @ v[i] if kept else np.array([-1.0])
        if cosine.max() >= threshold:
            drop.append(i)
            winner.append(kept[int(cosine.argmax())])
        else:
            matrix[len(kept)] = v[i]
            kept.append(i)
    return drop, winner


def corpus(n: int, d: int, near: float, seed: int = 0, spread: float = 0.35) -> np.ndarray:
    """Unit vectors of which a share lies near another one, some in chains."""
    rng = np.random.default_rng(seed)
    v = rng.normal(size=(n, d))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    for i in np.flatnonzero(rng.random(n) < near):
        j = int(rng.integers(n))
        noise = rng.normal(size=d)
        v[i] = v[j] + rng.uniform(0.05, 2 * spread) * noise / np.linalg.norm(noise)
    return (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("pool", [0, 1, 700])
def test_identical_to_brute_force(pool: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "_BLOCK", 256)
    monkeypatch.setattr(semantic, "_TILE", 300)
    v = corpus(3000, 48, 0.5)
    found = semantic.exact(v, pool, 0.9)
    drop, winner = brute_force(v, pool, 0.9)
    assert len(drop) > 300
    assert found.drop.tolist() == drop
    assert found.winner.tolist() == winner
    assert found.method == "exact"
    assert sum(found.histogram()) == 3000 - pool
    stays = np.setdiff1d(np.arange(pool, 3000), found.drop) - pool
    assert (found.nearest[stays] < 0.9 + 1e-6).all()
    assert np.allclose(found.nearest[found.drop - pool], found.similarity, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_identical_to_brute_force_at_20_000_rows() -> None:
    v = corpus(20_000, 384, 0.3, seed=5)
    found = semantic.exact(v, 2_000, 0.9)
    drop, winner = brute_force(v, 2_000, 0.9)
    assert len(drop) > 1000
    assert (found.drop.tolist(), found.winner.tolist()) == (drop, winner)


@settings(max_examples=40)
@given(st.integers(0, 60), st.integers(0, 20), st.sampled_from([0.3, 0.8, 0.9, 1.0]), st.integers(0, 1000))
def test_identical_to_brute_force_on_crowded_vectors(n: int, pool: int, threshold: float, seed: int) -> None:
    """Few dimensions: everything is near everything, with ties."""
    rng = np.random.default_rng(seed)
    v = rng.integers(-2, 3, size=(n, 3)).astype(np.float16)
    v[(v == 0).all(axis=1)] = 1
    pool = min(pool, n)
    found = semantic.exact(v, pool, threshold)
    sure = brute_force(v, pool, threshold - 1e-12)[0] == brute_force(v, pool, threshold + 1e-12)[0]
    if sure:  # a cosine that equals the threshold in theory is decided by its rounding
        assert found.drop.tolist() == brute_force(v, pool, threshold)[0]


@pytest.mark.parametrize(("count", "d"), [(1, 32), (2, 32), (2, 384)])
def test_clusters_find_what_brute_force_finds(tmp_path: Path, count: int, d: int) -> None:
    v = corpus(6_000, d, 0.3, seed=3)
    exact = semantic.exact(v, 500, 0.9)
    with Workers(count) as workers:
        found = clusters.duplicates(v, 500, 0.9, tmp_path, workers)
        again = clusters.duplicates(v, 500, 0.9, tmp_path, workers, memory=0)  # stored in 16 bits
    assert len(exact.drop) > 300
    assert found.recall is not None
    assert found.recall >= 0.97
    assert found.detail["recall_rows"] >= 200
    assert 0.95 < found.detail["recall_low"] < found.recall
    both = np.intersect1d(exact.drop, found.drop)
    assert len(both) >= 0.97 * len(exact.drop)
    assert len(both) >= 0.99 * len(found.drop)
    assert found.drop.tolist() == again.drop.tolist()
    assert found.winner.tolist() == again.winner.tolist()
    stay = np.setdiff1d(np.arange(500, len(v)), both) - 500
    assert np.abs(found.nearest - exact.nearest)[stay].mean() < 0.05, "of what was compared"


def test_many_equal_rows_are_found(tmp_path: Path) -> None:
    """Centres that are equal would share out rows by rounding."""
    v = corpus(2_400, 384, 0.0, seed=4)
    v[np.random.default_rng(4).permutation(2_400)[:1_200]] = np.tile(v[:5], (240, 1))
    exact = semantic.exact(v, 0, 0.9)
    with Workers(1) as workers:
        found = clusters.duplicates(v, 0, 0.9, tmp_path, workers)
    assert len(np.setdiff1d(exact.drop, found.drop)) == 0
    assert len(exact.drop) >= 1_100


def rare(n: int, d: int, share: float, shape: str) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of which few lie at a cosine of 0.905 to 0.99 of an earlier one, and which those are.

    Noise has no clusters, so neighbours are often of different cells; in `manifold` they differ in a few directions.
    """
    rng = np.random.default_rng(7)
    basis = rng.normal(size=(40, d)) if shape == "manifold" else np.eye(d)

    def draw(rows: int) -> np.ndarray:
        v = rng.normal(size=(rows, len(basis))) @ basis + 0.3 * rng.normal(size=(rows, d))
        return v / np.linalg.norm(v, axis=1, keepdims=True)

    v = draw(n)
    planted = np.sort(rng.permutation(np.arange(n // 2, n))[: int(n * share)])
    base = v[rng.integers(n // 2, size=len(planted))]
    away = draw(len(planted))
    away -= (away * base).sum(axis=1, keepdims=True) * base
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    cosine = rng.uniform(0.905, 0.99, len(planted))[:, None]
    v[planted] = cosine * base + np.sqrt(1 - cosine**2) * away
    return v.astype(np.float16), planted


@pytest.mark.parametrize(
    ("share", "shape", "d"),
    [
        (0.001, "manifold", 384),
        (0.003, "noise", 48),
        pytest.param(0.001, "noise", 48, marks=pytest.mark.slow),
        pytest.param(0.003, "manifold", 128, marks=pytest.mark.slow),
    ],
)
def test_rare_duplicates_are_found(
    tmp_path: Path, share: float, shape: str, d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too few in the samples to choose the number of visits by, and to measure recall: it is not made up."""
    monkeypatch.setattr(recall, "_COMPARED", 0)  # as in a corpus of millions: 3,000 rows
    v, planted = rare(20_000, d, share, shape)
    exact = semantic.exact(v, 0, 0.9)
    assert np.isin(planted, exact.drop).all()
    with Workers(2) as workers:
        found = clusters.duplicates(v, 0, 0.9, tmp_path, workers)
    assert len(np.intersect1d(exact.drop, found.drop)) >= 0.97 * len(exact.drop)
    assert found.detail["recall_rows"] < recall._FEWEST
    assert found.recall is None
    words = semantic.approximate({"method": found.method, "recall": found.recall, **found.detail})
    assert words.startswith("approximate, its recall not measurable: ")
    assert f"{found.detail['recall_pairs']} such pair" in words


def test_more_rows_are_sampled_where_duplicates_are_few(tmp_path: Path) -> None:
    """Until enough have one: 3,000 rows would have 45 here, half of them to measure."""
    v, _ = rare(20_000, 48, 0.03, "noise")
    with Workers(2) as workers:
        found = clusters.duplicates(v, 0, 0.9, tmp_path, workers)
    assert found.recall is not None
    assert found.detail["sampled"] > 10_000
    assert found.detail["recall_rows"] >= 200
    assert semantic.approximate({"method": found.method, "recall": found.recall, **found.detail}) == (
        f"approximate, measured recall {found.recall:.4f} ({found.detail['recall_pairs']} pairs, "
        f"95% interval from {found.detail['recall_low']:.4f})"
    )


def test_wilson() -> None:
    """Against the values of Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20."""
    assert recall.wilson(81 / 263, 263) == pytest.approx(0.2553, abs=5e-5)
    assert recall.wilson(15 / 148, 148) == pytest.approx(0.0624, abs=5e-5)
    assert recall.wilson(0.0, 20) == pytest.approx(0, abs=1e-12)
    assert recall.wilson(1.0, 200) == pytest.approx(0.98115, abs=5e-5)


def test_of_an_exact_search_nothing_is_said() -> None:
    assert semantic.approximate(None) == ""
    assert semantic.approximate({"method": "exact", "recall": None}) == ""


def test_the_size_decides_the_method(tmp_path: Path) -> None:
    v = corpus(300, 16, 0.3)
    assert semantic.duplicates(v, 10, 0.9, tmp_path, Workers(1), exact_rows=300).method == "exact"
    assert semantic.duplicates(v, 10, 0.9, tmp_path, Workers(1), exact_rows=299).method == "clusters"


def test_nothing_and_one() -> None:
    assert len(semantic.exact(np.empty((0, 4), np.float16), 0, 0.9).drop) == 0
    assert len(semantic.exact(np.ones((1, 4), np.float16), 0, 0.9).drop) == 0
    assert semantic.exact(np.ones((2, 4), np.float16), 0, 0.9).drop.tolist() == [1]


def test_what_is_true_is_found_in_order() -> None:
    mask = np.random.default_rng(1).random((70, 90)) > 0.98
    for some in (mask, mask[:, :0], mask[:0], ~mask):
        assert all(map(np.array_equal, rule.where(some), np.nonzero(some)))

"""Fewer dimensions, in which the semantic step cuts cells and sees what cannot be near."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gra_hpc.merge.semantic import clusters, recall
from gra_hpc.merge.semantic.narrow import directions, keeps_all, least_seen, narrow
from gra_hpc.merge.semantic.rule import unit_length
from gra_hpc.workers import Workers


def pairs(cosine: float, count: int, d: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors, and others at this cosine from them."""
    a, b = unit_length(rng.normal(size=(count, d))), rng.normal(size=(count, d))
    b = unit_length(b - (b * a).sum(axis=1, keepdims=True) * a)
    return a, unit_length(cosine * a + np.sqrt(1 - cosine**2) * b)


def test_of_a_million_pairs_at_the_threshold_about_one_seems_farther() -> None:
    """By the law of what is seen of very long vectors along 128 directions (Bartlett): shorter ones vary less."""
    rng, n = np.random.default_rng(5), 2_000_000
    along, beside, across = np.sqrt(rng.chisquare(128, n)), rng.normal(size=n), np.sqrt(rng.chisquare(127, n))
    for cosine in (0.5, 0.9, 0.99):
        slope = (cosine / np.sqrt(1 - cosine**2) * along + beside) / across
        seen = slope / np.sqrt(1 + slope**2)
        assert np.median(seen) == pytest.approx(cosine, abs=0.01)
        assert (seen < least_seen(cosine, np.empty((4096, 128)))).sum() <= 5
        assert (seen < least_seen(cosine, np.empty((4096, 100)))).sum() == 0, "fewer directions, more caution"


@pytest.mark.parametrize(("d", "cosine"), [(384, 0.9), (1024, 0.7)])
def test_no_pair_at_the_threshold_seems_to_be_none(d: int, cosine: float) -> None:
    rng = np.random.default_rng(5)
    space = directions(d, rng)
    a, b = pairs(cosine, 4_000, d, rng)
    seen = (narrow(a, space) * narrow(b, space)).sum(axis=1)
    assert space.shape == (d, 128)
    assert seen.min() >= least_seen(cosine, space)
    assert seen.mean() == pytest.approx(cosine, abs=0.02)


def test_most_of_what_is_far_is_seen_to_be() -> None:
    rng = np.random.default_rng(6)
    space = directions(384, rng)
    a, b = pairs(0.5, 10_000, 384, rng)
    assert ((narrow(a, space) * narrow(b, space)).sum(axis=1) >= least_seen(0.9, space)).mean() < 0.001


def test_short_vectors_are_seen_whole() -> None:
    v = unit_length(np.random.default_rng(7).normal(size=(10, 200)))
    space = directions(200, np.random.default_rng(7))
    assert keeps_all(space)
    assert narrow(v, space) is v
    assert least_seen(0.9, space) == 0.9


@pytest.mark.parametrize("crowded", [False, True], ids=["few seem near", "most seem near"])
def test_the_sample_meets_all_its_duplicates(tmp_path: Path, crowded: bool) -> None:
    """What recall is measured by: as comparing in all dimensions."""
    rng = np.random.default_rng(8)
    a, b = pairs(0.905, 2_000, 384, rng)
    v = np.concatenate([a, b])
    if crowded:  # all at a cosine of about 0.8 from each other
        v = unit_length(v + 2 * unit_length(rng.normal(size=(1, 384))))
    path = tmp_path / "vectors.npy"
    np.save(path, v.astype(np.float16))
    threshold, some, space = 0.9, np.arange(1, len(v), 2), directions(384, rng)
    with Workers(1) as workers:
        row, other = recall._neighbours(path, some, threshold, space, workers)
    wide = unit_length(v.astype(np.float16))
    cosine, seen = wide[some] @ wide.T, narrow(wide, space)
    near = (seen[some] @ seen.T >= least_seen(threshold, space)).mean()
    assert near > 0.5 if crowded else near < 1 / recall._PAIR_COST
    for at, found in ((threshold + 2e-4, "missed"), (threshold - 2e-4, "made up")):
        r, o = np.nonzero(cosine >= at)
        true = {(int(some[i]), int(j)) for i, j in zip(r, o, strict=True) if j < some[i]}
        met = set(zip(row.tolist(), other.tolist(), strict=True))
        assert len(true) >= 900
        assert not (true - met if found == "missed" else met - true), found


@pytest.mark.parametrize("count", [1, 5, 13, 40])
def test_the_largest_are_found_one_by_one_or_set_apart(count: int) -> None:
    values = np.random.default_rng(9).normal(size=(50, 60)).astype(np.float32)
    largest = clusters._largest(values.copy(), count)
    assert np.sort(largest).tolist() == np.sort(np.argsort(-values)[:, :count]).tolist()

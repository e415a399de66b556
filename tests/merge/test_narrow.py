"""Fewer dimensions, in which the semantic step sees what cannot be near."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gra_hpc.merge.semantic import recall
from gra_hpc.merge.semantic.narrow import directions, narrow, seems
from gra_hpc.merge.semantic.rule import unit_length
from gra_hpc.workers import Workers


def pairs(cosine: float, count: int, d: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors, and others at this cosine from them."""
    a, b = unit_length(rng.normal(size=(count, d))), rng.normal(size=(count, d))
    b = unit_length(b - (b * a).sum(axis=1, keepdims=True) * a)
    return a, unit_length(cosine * a + np.sqrt(1 - cosine**2) * b)


@pytest.mark.parametrize("cosine", [0.7, 0.9, 0.97])
def test_no_pair_at_the_threshold_seems_to_be_none(cosine: float) -> None:
    rng = np.random.default_rng(5)
    space = directions(384, rng)
    a, b = pairs(cosine, 10_000, 384, rng)
    seen = (narrow(a, space) * narrow(b, space)).sum(axis=1)
    assert space.shape == (384, 128)
    assert seen.min() >= seems(cosine, space)
    assert seen.std() < 1.1 * (1 - cosine**2) / np.sqrt(128), "as the docstring says"


def test_most_of_what_is_far_is_seen_to_be() -> None:
    rng = np.random.default_rng(6)
    space = directions(384, rng)
    a, b = pairs(0.6, 10_000, 384, rng)
    assert ((narrow(a, space) * narrow(b, space)).sum(axis=1) >= seems(0.9, space)).mean() < 0.001


def test_short_vectors_are_seen_whole() -> None:
    v = unit_length(np.random.default_rng(7).normal(size=(10, 200)))
    space = directions(200, np.random.default_rng(7))
    assert narrow(v, space) is v
    assert seems(0.9, space) == 0.9


def test_the_sample_meets_all_its_duplicates(tmp_path: Path) -> None:
    """What recall is measured by: as comparing in all dimensions."""
    rng = np.random.default_rng(8)
    a, b = pairs(0.905, 3_000, 384, rng)
    path, v = tmp_path / "vectors.npy", np.concatenate([a, b]).astype(np.float16)
    np.save(path, v)
    some = np.arange(1, len(v), 2)
    with Workers(1) as workers:
        row, other = recall._neighbours(path, some, 0.9, directions(384, rng), workers)
    wide = unit_length(v)
    r, o = np.nonzero(wide[some] @ wide.T >= 0.9)
    earlier = o < some[r]
    assert len(row) == 1_500
    assert sorted(zip(row.tolist(), other.tolist(), strict=True)) == sorted(
        zip(some[r[earlier]].tolist(), o[earlier].tolist(), strict=True)
    )

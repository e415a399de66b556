"""Examples nearest to an item."""

from __future__ import annotations

import numpy as np
import pytest

from gra_hpc.labels import nearest as module
from gra_hpc.labels.nearest import nearest


def unit(rows: np.ndarray) -> np.ndarray:
    out: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return out


@pytest.mark.parametrize("cells", [1, 500, 1 << 24])
def test_it_is_the_exact_order(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CELLS", cells)
    rng = np.random.default_rng(0)
    pool, queries = unit(rng.normal(size=(200, 16))), unit(rng.normal(size=(31, 16)))
    assert (nearest(queries, pool, 5) == np.argsort(-(queries @ pool.T), axis=1, kind="stable")[:, :5]).all()


def test_equals_come_in_the_pools_order_and_none_is_itself() -> None:
    pool = unit(np.array([[1.0, 0], [0, 1], [1, 0], [1, 0]]))
    assert nearest(pool[:1], pool, 2).tolist() == [[0, 2]]
    assert nearest(pool[:1], pool, 2, np.array([0])).tolist() == [[2, 3]]
    assert nearest(pool[:1], pool[:1], 3, np.array([0])).tolist() == [[-1]]
    assert nearest(pool, pool[:0], 3).shape == (4, 0)


def test_nearest_examples_tell_more_than_random_ones() -> None:
    """Planted: an item is a noisy copy of a labelled example; its label is what most of its examples say."""
    rng = np.random.default_rng(1)
    pool, labels = unit(rng.normal(size=(300, 32))), rng.integers(0, 4, 300)
    pool = np.repeat(pool, 3, axis=0) + rng.normal(0, 0.02, (900, 32)).astype(np.float32)
    labels = np.repeat(labels, 3)
    source = rng.integers(0, 900, 400)
    items = unit(pool[source] + rng.normal(0, 0.05, (400, 32)))

    def right(chosen: np.ndarray) -> float:
        votes = np.stack([(labels[chosen] == label).sum(axis=1) for label in range(4)], axis=1)
        return float((votes.argmax(axis=1) == labels[source]).mean())

    assert right(nearest(items, unit(pool), 3)) > 0.95
    assert right(rng.integers(0, 900, (400, 3))) < 0.5

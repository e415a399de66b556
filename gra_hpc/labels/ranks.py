"""Rankings of items, one by each model of a chain, by how sure it is: whose label an item gets.

Method: Farr et al., LLM Chain Ensembles for Scalable and Accurate Data Annotation (2024), arXiv 2410.13006. Nothing
that a run asks depends on it: it is for what people are shown, and what is released.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rank_ensemble(confidences: Sequence[np.ndarray]) -> np.ndarray:
    """Whose label each item gets: the link in which the item stands highest among those that the link saw.

    An item's rank in a link (equal confidences: the highest of their ranks) is divided by the number of items the link
    saw, so that links with other scales of confidence can be compared. Among equals the first link.

    Args:
        confidences: of each link, float [n], NaN where it did not see the item.

    Returns:
        int64 [n]: a link; -1 where none saw the item.
    """
    ranks = np.stack([_ranks(c) for c in confidences])
    seen = ~np.isnan(ranks).all(axis=0)
    out = np.full(ranks.shape[1], -1, np.int64)
    out[seen] = np.nanargmax(ranks[:, seen], axis=0)
    return out


def _ranks(confidences: np.ndarray) -> np.ndarray:
    """Ranks from 1/n to 1 among what is not NaN, ties the highest: float64 [n]."""
    out = np.full(len(confidences), np.nan)
    seen = np.flatnonzero(~np.isnan(confidences))
    values = np.sort(confidences[seen])
    if len(seen):
        out[seen] = np.searchsorted(values, confidences[seen], side="right") / len(seen)
    return out

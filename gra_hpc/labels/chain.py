"""Chains of models, cheap to dear: each link keeps what it is surest of, and hands the rest on.

Method: Farr et al., LLM Chain Ensembles for Scalable and Accurate Data Annotation (2024), arXiv 2410.13006. A link's
confidence in an item is the difference between its two largest label log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def share_kept(seen: int, link: int, links: int) -> int:
    """How many of the items that a link sees it is to keep: an even part of what is left; the last keeps all.

    Args:
        seen: items that reach the link.
        link: from 0.
        links: how many there are.
    """
    return seen // (links - link)


def threshold(confidences: np.ndarray, keep: int) -> float:
    """The confidence from which on a link keeps an item: its `keep`-th largest; infinite where it keeps none.

    Equal confidences are kept together: more than `keep` may be.
    """
    if keep <= 0:
        return float("inf")
    at = max(0, len(confidences) - keep)
    return float(np.partition(confidences, at)[at]) if len(confidences) else float("inf")


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


def quantile_route(confidences: Sequence[np.ndarray]) -> np.ndarray:
    """Which link keeps each item where every link's confidence is known for all of them: int64 [n].

    What a chain would have done, from a run in which all links saw everything; and in which order it would have been
    better.
    """
    links, items = len(confidences), len(confidences[0])
    kept_by = np.full(items, -1, np.int64)
    for link, known in enumerate(confidences):
        left = np.flatnonzero(kept_by < 0)
        if link == links - 1:
            kept_by[left] = link
        elif len(left):
            bound = threshold(known[left], share_kept(len(left), link, links))
            kept_by[left[known[left] >= bound]] = link
    return kept_by

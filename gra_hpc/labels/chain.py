"""Chains of models, cheap to dear: each link keeps what it is surest of, and hands the rest on.

What the answers then come to is another matter (`ranks.py`), which may change while a run is under way.

Method: Farr et al., LLM Chain Ensembles for Scalable and Accurate Data Annotation (2024), arXiv 2410.13006. A link's
confidence in an item is the difference between its two largest label log-probabilities.
"""

from __future__ import annotations

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

"""Chains of models: a case worked by hand, and properties."""

from __future__ import annotations

import ast
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gra_hpc.flows.registry import find
from gra_hpc.labels.chain import share_kept, threshold
from gra_hpc.labels.margins import confidence
from gra_hpc.labels.ranks import rank_ensemble

N = np.nan
SEEN = [
    np.array([0.9, 0.8, 0.5, 0.4, 0.3, 0.1]),
    np.array([N, N, 0.2, 0.7, 0.6, 0.1]),
    np.array([N, N, 0.9, N, N, 0.3]),
]
"""Three links, six items."""


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


def test_the_case_worked_by_hand() -> None:
    left = np.arange(6)
    for link, kept in enumerate([[0, 1], [3, 4], [2, 5]]):
        known = SEEN[link][left]
        keep = known >= threshold(known, share_kept(len(left), link, 3))
        assert left[keep].tolist() == kept
        left = left[~keep]
    assert rank_ensemble(SEEN).tolist() == [0, 0, 2, 1, 1, 2]


def test_all_links_seen_the_route_is_the_same() -> None:
    full = [SEEN[0], np.array([0.99, 0.99, 0.2, 0.7, 0.6, 0.1]), np.array([0, 0, 0.9, 0, 0, 0.3])]
    assert quantile_route(full).tolist() == [0, 0, 2, 1, 1, 2]


@given(st.integers(0, 1000), st.integers(1, 6))
def test_every_item_is_kept_once_and_links_see_even_parts(items: int, links: int) -> None:
    left, kept = items, []
    for link in range(links):
        kept.append(share_kept(left, link, links))
        left -= kept[-1]
    assert left == 0
    assert max(kept) - min(kept) <= 1


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 30))
def test_at_least_as_many_as_wanted_are_kept_and_ties_together(values: list[int], keep: int) -> None:
    of = np.array(values, float)
    kept = of[of >= threshold(of, min(keep, len(of)))]
    assert len(kept) >= min(keep, len(of))
    if keep:
        assert (kept > kept.min()).sum() < keep  # without its smallest, it would be too few
    else:
        assert not len(kept)


def test_ties_share_the_highest_rank_and_the_first_link_wins() -> None:
    assert rank_ensemble([np.array([0.5, 0.5, 0.1]), np.array([0.9, 0.9, 0.9])]).tolist() == [0, 0, 1]
    assert rank_ensemble([np.array([N, 0.5]), np.array([N, N])]).tolist() == [-1, 0]


def test_confidence_is_the_lead_of_the_best_label() -> None:
    assert confidence({"a": -0.1, "b": -3.1, "c": -2.1}) == 2.0
    assert confidence({"a": -0.1}) == 0


def test_annotate_rests_on_what_it_asks_and_forwards_by_and_not_on_what_ranks_for_people() -> None:
    """`Flow.uses` has each module of labels that the flow's code imports, and no other: edits of others refuse none of
    its runs."""
    flow = find("annotate")
    folder = flow.prompts.parent
    code = [f.read_text(encoding="utf-8") for f in folder.rglob("*.py") if "views" not in f.relative_to(folder).parts]
    found = {n.module for text in code for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom) and n.module}
    used = {m.removeprefix("gra_hpc.").replace(".", "/") + ".py" for m in found if m.startswith("gra_hpc.labels.")}
    assert used == {name for name in flow.uses if name.startswith("labels/")}
    assert "labels/chain.py" in used

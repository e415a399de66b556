"""How sure a model is of the label that it gives."""

from __future__ import annotations

from collections.abc import Mapping


def confidence(scores: Mapping[str, float]) -> float:
    """How sure an answer is: the largest log-probability less the second largest; 0 for fewer than two labels."""
    if len(scores) < 2:
        return 0.0
    first, second, *_ = sorted(scores.values(), reverse=True)
    return first - second

"""What the labels of one item come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gra_hpc.flows.annotate.questions import Label, Labels
from gra_hpc.flows.annotate.settings import AnnotateConfig, Kind
from gra_hpc.labels.votes import each, median, tally


@dataclass(frozen=True)
class Decision:
    """The label that most say."""

    label: Label
    confidence: float
    """Share of the annotators' weight that is for it, 0 to 1; of several labels, for the one that fewest agree on."""
    tied: bool = False

    def agreed(self, config: AnnotateConfig) -> bool:
        """Whether it stands without the Adjudicator."""
        return not self.tied and self.confidence >= config.agree - 1e-9


def decide(said: Sequence[Label], weights: Sequence[float], labels: Labels, config: AnnotateConfig) -> Decision:
    """What the annotators say together.

    A score is their median, sure as far as they are within `annotate.near` of it. Of multi and spans, what more than
    half of the weight names; two spans are the same if their bounds and labels are.

    Args:
        said: labels of one kind, at least one.
        weights: of the annotators.
    """
    if labels.kind is Kind.score:
        scores = [int(s) for s in said if isinstance(s, int)]
        middle = median(scores, weights)
        near = sum(w for s, w in zip(scores, weights, strict=True) if abs(s - middle) <= config.near)
        return Decision(middle, near / sum(weights))
    if labels.kind in (Kind.choice, Kind.pair):
        found = tally([str(s) for s in said], labels.names, weights)
        return Decision(found.label, found.share, found.tied)
    sets: list[frozenset[Any]] = [s for s in said if isinstance(s, frozenset)]
    shares = each(sets, sorted(frozenset().union(*sets)), weights)
    kept = frozenset(label for label, share in shares.items() if share > 0.5 + 1e-9)
    least = min((max(s, 1 - s) for s in shares.values()), default=1.0)
    return Decision(kept, least, any(abs(s - 0.5) < 1e-9 for s in shares.values()))

"""The settings of `method.flow=annotate`: section `annotate:`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gra_hpc.config.fields import Most, setting


class Kind(Enum):
    """What a label is."""

    choice = "choice"
    multi = "multi"
    score = "score"
    spans = "spans"
    pair = "pair"

    @property
    def named(self) -> bool:
        """Whether its labels have names of the user's own."""
        return self in (Kind.choice, Kind.multi, Kind.spans)

    @property
    def categorical(self) -> bool:
        """Whether an item has one label out of few."""
        return self in (Kind.choice, Kind.score, Kind.pair)


class Examples(Enum):
    """Which labelled examples an annotator is shown."""

    none = "none"
    random = "random"
    nearest = "nearest"


class Aggregate(Enum):
    """What the annotators' labels of an item come to."""

    majority = "majority"
    weighted = "weighted"
    dawid_skene = "dawid_skene"


class Route(Enum):
    """Whom an item is shown to."""

    all = "all"
    chain = "chain"


class Keep(Enum):
    """What a link of a chain keeps."""

    margin = "margin"
    quantile = "quantile"


@dataclass
class AnnotateConfig:
    """Labels for existing records."""

    kind: Kind = Kind.choice
    """choice: one label; multi: any of the labels; score: an integer; spans: labelled passages; pair: which of two
    texts (first, second or tie)."""
    labels: dict[str, str] = setting({})
    """The labels, as `name: what it means in one line`; of choice, multi and spans."""
    guide: str = ""
    """What annotators are told beside the labels: what is to be judged, and how doubtful cases are."""
    lowest: int = setting(1, ge=0, le=100)
    """kind=score: the lowest score."""
    highest: int = setting(5, ge=0, le=100)
    """kind=score: the highest score."""
    annotators: int = setting(3, ge=1, le=16)
    """Members that label each item; fewer where the committee is too small."""
    reasons: bool = True
    """Ask for a reason before the label. Off: labels alone, for a fraction of the tokens."""
    examples: Examples = Examples.none
    """none; random: drawn for each item from the records that come with a label (their `response`); nearest: those of
    them that are most like the item, by `merge.embed_model`."""
    shots: int = setting(8, ge=1, le=200)
    """Examples shown, at most."""
    aggregate: Aggregate = Aggregate.majority
    """majority; weighted: by `annotate.weights`; dawid_skene: by each member's errors, found from all labels together
    when the run is merged."""
    weights: dict[str, float] = setting({})
    """aggregate=weighted: weight by member; 1 for those not named."""
    agree: float = setting(0.6, gt=0, le=1)
    """Share of the annotators' weight that a label needs to stand; below, the item is settled by `method.settle`."""
    near: int = setting(1, ge=0, le=100)
    """kind=score: scores so far from the median agree with it."""
    route: Route = Route.all
    """all: to so many annotators at once; chain: to one member after another, cheap ones first, until one is sure
    enough of its label (kind=choice or score; no reasons, no Adjudicator)."""
    chain: list[str] = setting([])
    """route=chain: the members, in their order."""
    keep: Keep = Keep.margin
    """route=chain: margin: a member keeps an item of which it is as sure as `annotate.margins` says; quantile: a round
    for each member (`method.rounds`), which keeps an even part of the items, those that it is surest of: of three
    members the first a third, the second half of the rest, the last all that is left."""
    margins: list[float] = setting([], ge=0, le=1000)
    """route=chain, keep=margin: how sure each member but the last has to be to keep an item: the difference between its
    two largest log-probabilities of labels, in nats (2.2: one is nine times as likely as the other)."""
    rank: bool = True
    """route=chain: the label that is released is that of the member in whose ranking of all items that it saw the item
    stands highest. Off: that of the member that kept it."""
    for_humans: int = setting(500, ge=0, le=Most.COUNT)
    """Least certain items that are listed for people."""
    audit: int = setting(100, ge=0, le=Most.COUNT)
    """Items drawn at random for people, beside those: what the agreement with them says holds for all."""

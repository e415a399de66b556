"""How far annotators agree with each other, and the committee with people; what it cost.

Without people: Krippendorff's alpha among members (nominal; of scores ordinal; of multi a label at a time), of spans
the mean F1 of pairs of members. With people's labels: `labels/gold.py`, for the committee and for each member; of spans
`span_people`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from gra_hpc.errors import GraError
from gra_hpc.flows.annotate.questions import Labels
from gra_hpc.flows.annotate.settings import Aggregate, AnnotateConfig, Keep, Kind, Route
from gra_hpc.flows.annotate.views.collected import HOW, Collected, Final
from gra_hpc.flows.annotate.views.people import People, categories_of
from gra_hpc.labels import gold
from gra_hpc.labels.agreement import Coincidences
from gra_hpc.labels.spans import Span, overlap_f1
from gra_hpc.terminal import columns, counted


def among_members(found: Collected) -> dict[str, float | None]:
    """Krippendorff's alpha among the members, by label where several are given, else under the name `alpha`."""
    if found.labels.kind is Kind.multi:
        return {name: _alpha((found.said >> i) & 1, found.said >= 0, 2) for i, name in enumerate(found.labels.names)}
    metric = "ordinal" if found.labels.kind is Kind.score else "nominal"
    return {"alpha": _alpha(found.said, found.said >= 0, len(found.labels.categories), metric)}


def _alpha(values: np.ndarray, given: np.ndarray, labels: int, metric: str = "nominal") -> float | None:
    counted = Coincidences(labels)
    counted.add(values[given], given.sum(axis=1))
    return counted.alpha(metric)


def span_agreement(tables: Iterator[pa.Table]) -> float | None:
    """Mean F1 of pairs of members over items, of tables with a column `annotations`; none without a pair."""
    total, pairs = 0.0, 0
    for table in tables:
        for of_item in table["annotations"].to_pylist():
            said = [[Span(*span) for span in json.loads(a["said"])] for a in of_item]
            for ours, theirs in combinations(said, 2):
                total, pairs = total + overlap_f1(ours, theirs), pairs + 1
    return total / pairs if pairs else None


def facts(
    found: Collected, final: Final, config: AnnotateConfig, rounds: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """What can be said without people's labels, as plain JSON.

    Args:
        rounds: as `chain`.
    """
    counts = {name or "failed": int((found.how == i).sum()) for i, name in enumerate(HOW)}
    out: dict[str, Any] = {"items": len(found), "kind": config.kind.value, "how": counts}
    decided = final.code >= 0
    out["mean_confidence"] = round(float(final.confidence[decided].mean()), 4) if decided.any() else None
    if config.kind is Kind.spans:
        return out
    out["labels"] = {
        str(name): n for name, n in zip(categories_of(found.labels), _occurs(final.code, found.labels), strict=True)
    }
    out["alpha"] = {k: None if v is None else round(v, 4) for k, v in among_members(found).items()}
    members = {}
    for i, name in enumerate(found.members):
        seen = (found.said[:, i] >= 0) & decided
        if seen.any():
            same = float((found.said[seen, i] == final.code[seen]).mean())
            members[name] = {"items": int(seen.sum()), "as_released": round(same, 4)}
    if config.route is Route.chain:
        out["chain"] = chain(found, final, config, rounds)
    if config.aggregate is Aggregate.dawid_skene and (found.said >= 0).any():
        accuracy = np.mean([model.accuracy() for model in found.models], axis=0)
        for i, name in enumerate(found.members):
            if name in members:
                members[name]["accuracy_estimated"] = round(float(accuracy[i]), 4)
        out["dawid_skene"] = [{"steps": m.steps, "converged": m.converged} for m in found.models]
    return out | {"members": members}


def chain(
    found: Collected, final: Final, config: AnnotateConfig, rounds: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """What each link of a chain saw and kept, and how often what it said of what it saw is released.

    Args:
        rounds: where each link has a round, what the round's merge found, by step: that decided what the link kept,
            and nothing else tells it from what no later link could answer. The last link keeps what it answers.
    """
    columns, out = found.links(config), []
    for place, column in enumerate(columns):
        saw = found.said[:, column] >= 0
        if config.keep is Keep.quantile:
            kept = saw & _kept(found.margin[:, column], rounds[place].get("forwarded"))
        else:
            kept = saw & ~(found.said[:, columns[place + 1 :]] >= 0).any(axis=1)
        same = found.said[:, column] == final.code
        out.append(
            {
                "member": found.members[column],
                "saw": int(saw.sum()),
                "kept": int(kept.sum()),
                "released": int((saw & same).sum()),
                "least_margin": round(float(found.margin[kept, column].min()), 4) if kept.any() else None,
            }
        )
    return out


def _kept(margins: np.ndarray, forwarded: Mapping[str, Any] | None) -> np.ndarray:
    """Which items a link kept, by what the merge of its round forwarded (`annotate/forward.py`): bool [n].

    Args:
        margins: float64 [n], NaN where it has no answer.
        forwarded: none: it forwards nothing.
    """
    if forwarded is None:
        return np.ones(len(margins), bool)
    bound = forwarded["margin"]
    if bound is None:
        return np.zeros(len(margins), bool)
    kept: np.ndarray = (margins >= bound) & (margins > 0)
    return kept


def _occurs(code: np.ndarray, labels: Labels) -> list[int]:
    """Items that each label is released for."""
    known = code[code >= 0]
    if labels.kind is Kind.multi:
        return [int(((known >> i) & 1).sum()) for i in range(len(labels.names))]
    return [int(n) for n in np.bincount(known, minlength=len(labels.categories))]


def cost(tokens: Mapping[str, Sequence[int]], items: int) -> dict[str, Any]:
    """Calls and tokens for a thousand items, of the committee, and of each of its models if it alone labelled them.

    Args:
        tokens: calls, prompt and completion tokens by `role model`, as shards count them.
    """

    def per_thousand(counts: Sequence[float], of: float) -> dict[str, float]:
        names = ("calls", "prompt_tokens", "completion_tokens")
        return {name: round(1000 * n / of, 1) for name, n in zip(names, counts, strict=True)} if of else {}

    total = [sum(counts[i] for counts in tokens.values()) for i in range(3)]
    alone = {
        key.partition(" ")[2]: per_thousand(counts, counts[0])
        for key, counts in sorted(tokens.items())
        if key.startswith("annotator ")
    }
    return {"committee": per_thousand(total, items), "alone": alone}


# ---- people ----------------------------------------------------------------------------------------------------------


def with_people(ids: Sequence[str], found: Collected, final: Final, people: Sequence[People]) -> dict[str, Any]:
    """The committee and its members beside people: figures with intervals.

    What was drawn at random tells of all items: where the files say what was, figures are of that alone.

    Args:
        ids: of the items, in the order of `found`.

    Raises:
        GraError: nobody has labelled an item of this run, or labels that there are not.
    """
    said = np.stack([p.codes(ids, found.labels) for p in people])
    audit = frozenset().union(*(p.audit for p in people))
    left_out = {"that this release does not have": list(dict.fromkeys(i for p in people for i in p.elsewhere))}

    def leave_out(why: str, which: np.ndarray) -> None:
        left_out[why] = [i for i, out in zip(ids, which & (said >= 0).any(axis=0), strict=True) if out]

    if audit:
        drawn = np.array([i in audit for i in ids], bool)
        leave_out("not drawn at random", ~drawn)
        said[:, ~drawn] = gold.UNKNOWN
    if not (said >= 0).any():
        raise GraError("no label of an item of this run", "give the files that were made from its for_humans.csv")
    split = np.zeros(len(ids), bool)
    for _, k, of in _asked(found.labels):
        split |= _together(of(said), k) < 0
    leave_out("on which people are split", split)
    leave_out("that the committee left open", final.code < 0)
    same = [(a.who, b.who) for a, b in combinations(people, 2) if a.labels == b.labels]
    return {
        "people": [p.who for p in people],
        "at_random": bool(audit),
        "drawn": drawn_of(people),
        "left_out": {why: items for why, items in left_out.items() if items},
        "same": same,
    } | beside(said, found, final)


def drawn_of(people: Sequence[People]) -> dict[str, int]:
    """What was drawn at random, by what became of it: `all` of it; `unlabelled`: nobody labelled it; `lost`: labelled,
    and no item of the release.

    Args:
        people: of the release's items.
    """
    audit = frozenset().union(*(p.audit for p in people))
    labelled = frozenset().union(*(p.labels for p in people))
    elsewhere = frozenset().union(*(p.elsewhere for p in people))
    return {
        "all": len(audit),
        "unlabelled": len(audit - labelled - elsewhere),
        "lost": len((audit & elsewhere) - labelled),
    }


def beside(said: np.ndarray, found: Collected, final: Final) -> dict[str, Any]:
    """Figures beside some labels. Those of several people: what most of them say; where none has most, the item is left
    out.

    Args:
        said: int64 [persons, n], as `Collected.label`; -1 for none.
    """
    rows = np.flatnonzero((said >= 0).any(axis=0))
    said = said[:, rows]
    return {
        "items": len(rows),
        "labels": {
            name: _beside(
                of(said), of(final.code[rows]), of(found.said[rows]), final.confidence[rows], found.members, k
            )
            for name, k, of in _asked(found.labels)
        },
    }


def plain(value: Any) -> Any:
    """Figures as plain JSON."""
    if isinstance(value, (gold.Figure, gold.Alternative)):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return round(value, 4) if isinstance(value, float) else value


def _asked(labels: Labels) -> Iterator[tuple[str, int, Callable[[np.ndarray], np.ndarray]]]:
    """What figures are of: each label of multi, no and yes, else all labels; name, number, and how codes say it."""
    if labels.kind is not Kind.multi:
        yield "", len(labels.categories), lambda codes: codes
        return

    def bit(label: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda codes: np.where(codes < 0, gold.UNKNOWN, (codes >> label) & 1)

    for i, name in enumerate(labels.names):
        yield name, 2, bit(i)


def _beside(
    people: np.ndarray, committee: np.ndarray, members: np.ndarray, confidence: np.ndarray, names: Sequence[str], k: int
) -> dict[str, Any]:
    """Figures of one label, or of the only one."""
    truth = _together(people, k)
    out: dict[str, Any] = {"committee": gold.figures(truth, committee, k)}
    out["members"] = {name: gold.figures(truth, members[:, i], k) for i, name in enumerate(names)}
    both = (truth >= 0) & (committee >= 0)
    out["reliability"] = gold.reliability(confidence[both], (truth == committee)[both])
    out["alternative"] = gold.alternative(people, committee, k) if len(people) > 1 else None
    return out


def _together(people: np.ndarray, k: int) -> np.ndarray:
    """What most people say of each item; -1 for none."""
    counts = np.stack([(people == label).sum(axis=0) for label in range(k)])
    best = counts.max(axis=0)
    alone = (counts == best).sum(axis=0) == 1
    return np.where((best > 0) & alone, counts.argmax(axis=0), gold.UNKNOWN)


def whose(found: Mapping[str, Any]) -> Iterator[str]:
    """Whose labels figures are of, and which are left out."""
    yield f"people        {', '.join(found['people'])}; {_how_drawn(found)}"
    for why, items in found["left_out"].items():
        some = ", ".join(" ".join(i.split())[:_EXCERPT] for i in items[:3])
        yield f"left out      {counted(len(items), 'item')} {why}: {some}{', and others' if len(items) > 3 else ''}"
    for one, other in found["same"]:
        yield f"note          {one} and {other} say the same of every item: is one a copy of the other?"


def _how_drawn(found: Mapping[str, Any]) -> str:
    """How many items figures are of, and whether these tell of all."""
    n, drawn = found["items"], found["drawn"]
    if not found["at_random"]:
        return f"{counted(n, 'item')}, not known to be drawn at random: they may be harder than most"
    if drawn["lost"] > _LOST * (drawn["lost"] + n):
        return (
            f"{n} of {counted(drawn['all'], 'item')} drawn; a biased part: {drawn['lost']} that people labelled are"
            " not in this release, and what is left need not tell of all"
        )
    if drawn["unlabelled"]:
        return f"{n} of {counted(drawn['all'], 'item')} drawn at random; nobody labelled {drawn['unlabelled']}"
    return f"{counted(n, 'item')}, drawn at random"


_LOST = 0.05
"""Of what was drawn at random and labelled: a larger share left out, and the rest is not called random."""


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The figures of `with_people`, for people."""
    yield from whose(found)
    for name, part in found["labels"].items():
        if name:
            yield f"label         {name}"
        yield from table({"committee": part["committee"], **part["members"]}, _FIGURES)
        for sure, right, n in part["reliability"]:
            yield f"confidence    {sure:.2f} on average: {right:.2f} as people say, of {counted(n, 'item')}"
        if alternative := part["alternative"]:
            yield (
                f"among people  alpha {_two(alternative.people)}; with the committee in one's place"
                f" {_two(alternative.replaced)}; the difference, the loss: {alternative.loss:.2f}"
            )
    if any(part["alternative"] for part in found["labels"].values()):
        yield (
            "loss          above 0: the committee agrees with people less than they do with each other; where its"
            " interval reaches 0 or below, nothing speaks against the committee in a person's place"
        )


_EXCERPT = 32
"""Characters of an item's id, or of its text, that tell which one is meant."""


_FIGURES = {"accuracy": "accuracy", "macro-F1": "macro_f1", "kappa": "kappa"}
"""Of labels, by their titles."""


def table(rows: Mapping[str, Mapping[str, Any]], figures: Mapping[str, str]) -> Iterator[str]:
    """Figures of each, in tables that fit the terminal.

    Args:
        rows: by whose they are; `decided` counts the items.
        figures: their keys, by title.
    """
    wide = max(map(len, rows))
    cells = {title: [f"{f[key]:.2f}" for f in rows.values()] for title, key in figures.items()}
    left = {title: max(map(len, (title, *column))) for title, column in cells.items()}
    while left:
        now: dict[str, int] = {}
        for title, width in left.items():
            if now and wide + 7 + sum(w + 2 for w in (*now.values(), width)) > columns():
                break
            now[title] = width
        left = {title: width for title, width in left.items() if title not in now}
        yield f"{'':{wide}}  {'items':>5}" + "".join(f"  {title:>{width}}" for title, width in now.items())
        for i, (who, f) in enumerate(rows.items()):
            shown = "".join(f"  {cells[title][i]:>{width}}" for title, width in now.items())
            yield f"{who:{wide}}  {f['decided']:>5}{shown}"


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"

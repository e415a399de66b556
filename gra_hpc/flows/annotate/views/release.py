"""What labels add to a release: two files, and how far they can be trusted, at what cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from gra_hpc import parquet
from gra_hpc.config.settings import RunConfig
from gra_hpc.flows.annotate.questions import Labels
from gra_hpc.flows.annotate.records import as_text
from gra_hpc.flows.annotate.settings import AnnotateConfig, Keep, Kind
from gra_hpc.flows.annotate.views import agreement, links, outputs, span_people
from gra_hpc.flows.annotate.views.collected import COLUMNS, EMPTY, HOW, Collected, Final
from gra_hpc.flows.annotate.views.people import of_files
from gra_hpc.flows.registry import Added, Released, Section
from gra_hpc.flows.units import settings_of


def added(of: Released) -> Added:
    """Write labels.parquet and for_humans.csv; say how far annotators agree, and what it cost."""
    config: AnnotateConfig = settings_of(of.config)
    labels = Labels.of(config)
    samples = links.whole(of.samples, config.chain, labels) if config.keep is Keep.quantile else of.samples
    found = Collected.of((t.select(COLUMNS) for t in samples()), labels, tuple(of.config.committee))
    final = found.final(config)
    outputs.write(samples, found, final, config, of.config.method.seed, of.out)
    facts = agreement.facts(found, final, config, of.rounds)
    if config.kind is Kind.spans:
        facts["pair_f1"] = agreement.span_agreement(t.select(["annotations"]) for t in of.samples())
    if config.keep is Keep.quantile:
        for link, took in zip(facts["chain"], links.spent(of.samples(), len(config.chain)), strict=True):
            link |= took
    facts["cost"] = agreement.cost(of.tokens, len(found))
    beside = None
    if config.kind is not Kind.spans and (found.gold >= 0).any():
        beside = agreement.beside(found.gold[None, :], found, final)
        facts["gold"] = agreement.plain(beside)
    return Added(facts, tuple(_sections(facts, beside)))


def _sections(facts: Mapping[str, Any], beside: Mapping[str, Any] | None) -> Iterator[Section]:
    how = ", ".join(f"{n:,} {name}" for name, n in facts["how"].items() if n)
    sure = facts["mean_confidence"]
    words = f"{facts['items']:,} items: {how}. {outputs.LABELS} has each with its label, confidence, and what every"
    words += f" annotator said; {outputs.HUMANS} lists those that people should see."
    words += f" Mean confidence of a label: {sure:.2f}." if sure is not None else ""
    counts = tuple((name, f"{n:,}") for name, n in facts.get("labels", {}).items())
    yield Section("Labels", words, ("label", "items") if counts else (), counts)
    if "chain" in facts:
        yield _chain(facts["chain"])
    yield _agreement(facts)
    if beside:
        yield from _gold(beside)
    yield _cost(facts["cost"])


def _chain(chain: Sequence[Mapping[str, Any]]) -> Section:
    """Each link; what it took, where each has a round to itself."""
    by_link = {"calls": "calls", "prompt_tokens": "prompt tokens", "completion_tokens": "written tokens"}
    took = [key for key in by_link if key in chain[0]]
    head = ("link", "saw", "kept", "least margin of what it kept", "of what it saw, released as it says")
    rows = [
        (
            *(c["member"], f"{c['saw']:,}", f"{c['kept']:,}", _margin(c["least_margin"]), f"{c['released']:,}"),
            *(f"{c[key]:,}" for key in took),
        )
        for c in chain
    ]
    words = "Each link hands on what it is not sure enough of."
    return Section("The chain", words, (*head, *(by_link[key] for key in took)), tuple(rows))


def _margin(nats: float | None) -> str:
    return "" if nats is None else f"{nats:.2f}"


def _agreement(facts: Mapping[str, Any]) -> Section:
    if "alpha" not in facts:
        f1 = facts["pair_f1"]
        words = "No item has two annotators." if f1 is None else f"Mean F1 of two annotators' spans: {f1:.3f}."
        return Section("Agreement among annotators", words)
    alphas = ", ".join(f"{n} {'not defined' if v is None else f'{v:.3f}'}" for n, v in facts["alpha"].items())
    words = f"Krippendorff's alpha (1: perfect, 0: chance; from 0.8 reliable, from 0.667 tentative): {alphas}."
    members, estimated = facts["members"], "dawid_skene" in facts
    head = ("annotator", "items", "says what is released", *(["accuracy, estimated without gold"] if estimated else []))
    rows = [
        (n, f"{m['items']:,}", f"{m['as_released']:.3f}", *([f"{m['accuracy_estimated']:.3f}"] if estimated else []))
        for n, m in members.items()
    ]
    return Section("Agreement among annotators", words, head, tuple(rows))


def _gold(beside: Mapping[str, Any]) -> Iterator[Section]:
    for name, part in beside["labels"].items():
        head = ("who", "items", "accuracy", "macro-F1", "kappa")
        rows = [
            (who, f"{f['decided']:,}", str(f["accuracy"]), str(f["macro_f1"]), str(f["kappa"]))
            for who, f in {"committee": part["committee"], **part["members"]}.items()
        ]
        words = f"{beside['items']:,} items came with a label. In brackets: 95% intervals."
        yield Section(
            f"Beside the labels that came with the records{f': {name}' if name else ''}", words, head, tuple(rows)
        )


def _cost(cost: Mapping[str, Any]) -> Section:
    head = ("a thousand items", "calls", "prompt tokens", "written tokens")
    rows = {"by this committee": cost["committee"]} | {f"by {m} alone, once each": c for m, c in cost["alone"].items()}
    shown = tuple((who, *(f"{n:,.0f}" for n in c.values())) for who, c in rows.items() if c)
    return Section("Cost", "", head, shown)


def people(config: RunConfig, release: Path, files: Sequence[Path]) -> Iterator[str]:
    """How far a release's labels agree with what people say.

    Raises:
        GraError: files that are none, or of other items.
    """
    own: AnnotateConfig = settings_of(config)
    given = of_files(files)
    columns = ["id", "text", "label", "confidence", "how", "annotators"]
    columns += ["second"] if own.kind is Kind.pair else []
    table = parquet.read_table(release / outputs.LABELS, columns)
    labels = Labels.of(own)
    if own.kind is Kind.spans:
        yield from span_people.lines(span_people.beside(table.to_pylist(), labels, given))
        return
    found = Collected.of([_as_stored(table)], labels, tuple(config.committee))
    ids, texts = table["id"].to_pylist(), table["text"].to_pylist()
    seconds = table["second"].to_pylist() if own.kind is Kind.pair else ()
    wanted = [p.of_items(texts, ids, seconds) for p in given]
    final = Final(found.label, found.confidence)
    yield from agreement.lines(agreement.with_people(ids, found, final, wanted))


def _as_stored(table: pa.Table) -> pa.Table:
    """labels.parquet as samples' tables have it."""

    def text(value: Any) -> str:
        return "" if value is None else as_text(frozenset(value) if isinstance(value, list) else value)

    rows = [
        {
            "id": row["id"],
            "label": text(row["label"]),
            "confidence": row["confidence"],
            "how": row["how"] if row["how"] in HOW else "",
            "annotations": [
                {"member": a["member"], "said": text(a["label"]), "margin": None} for a in row["annotators"]
            ],
            "gold": "",
        }
        for row in table.to_pylist()
    ]
    return pa.Table.from_pylist(rows, EMPTY.schema)

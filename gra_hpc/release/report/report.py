"""report.html: one offline page with the run in figures, and samples with their whole review history."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from gra_hpc.release import card, gold, limits
from gra_hpc.release.charts import Bar, Part, Series, area, bars, dots, histogram, number, percent, spark
from gra_hpc.release.diagnostics.measure import Diagnosis
from gra_hpc.release.diagnostics.page import section
from gra_hpc.release.inputs import Inputs
from gra_hpc.release.report import fairness
from gra_hpc.release.report.measures import (
    Distributions,
    Member,
    TimeLine,
    Work,
    choose_shards,
    distributions,
    measure_work,
    time_line,
)
from gra_hpc.release.report.samples import SAMPLES, samples
from gra_hpc.release.schema import OUTCOMES, REASONS
from gra_hpc.release.template_files import template_files
from gra_hpc.run.ledger import Ledger
from gra_hpc.terminal import printable

NAME = "report.html"
CAUSES = 10
"""Reasons shown of each side; the rest is one row."""
_ROLES = ("generator", "reviewer", "adjudicator", "summarizer")


def write(inputs: Inputs, facts: dict[str, Any], diagnosis: Diagnosis, release: Path) -> None:
    """Write the report of a release whose data and rejects lie there already.

    Args:
        facts: the manifest, but for the files.
        diagnosis: what was measured of the rows.
    """
    tables = [t for r in inputs.rounds for t in r.tables()]
    all_tables = [*(inputs.prepared.tables() if inputs.prepared else ()), *tables]
    sampled = choose_shards(tables)
    page = render(
        facts,
        distributions(inputs, sampled),
        measure_work(all_tables, [*sampled, *all_tables[: len(all_tables) - len(tables)]]),
        time_line(all_tables),
        diagnosis,
        {"shards": len(sampled), "of": len(tables)},
        list(samples(release, facts)),
    )
    (release / NAME).write_text(page, encoding="utf-8")


CHANCE = 0.1
"""Agreement below this is hardly more than that of Reviewers who draw their scores."""


def _by_chance(alpha: float | None, d: Distributions) -> list[str]:
    """What agreement that is none means for the scores."""
    if alpha is None or alpha >= CHANCE or d.mean_agreement.units < 10:
        return []
    return [
        f"**The Reviewers agree hardly more than by chance** (alpha {alpha:.2f}, {d.mean_agreement.units:,} samples):"
        " which rows were accepted says little about them."
    ]


def render(
    facts: dict[str, Any],
    d: Distributions,
    w: Work,
    line: TimeLine,
    diagnosis: Diagnosis,
    sampled: dict[str, int],
    shown: Sequence[dict[str, Any]],
) -> str:
    """The page.

    Args:
        d: distributions over the sampled shards.
        w: work of all shards.
        line: answers over time.
        diagnosis: what was measured of the rows.
        sampled: how many `shards` of how many (`of`) the distributions rest on.
        shown: samples, as `samples` gives them.
    """
    ledger = Ledger.from_dict(facts["ledger"])
    rows = sum(s["rows"] for s in facts["splits"].values())
    tokens = [sum(t[i] for t in w.tokens.values()) for i in range(3)]
    method = facts["config"]["method"]
    agreement = {c: d.agreement[c].alpha("ordinal") for c in d.criteria}
    overall = d.mean_agreement.alpha("interval")
    return _template().render(
        facts=facts,
        ledger=ledger,
        rows=rows,
        created=time.strftime("%Y-%m-%d", time.gmtime(facts["created"])),
        limits=[Markup(_bold(x)) for x in (*limits.limits(facts), *_by_chance(overall, d))],
        tiles=[
            (number(rows), "rows released"),
            (percent(rows, ledger.planned), "of the candidates"),
            (number(tokens[0]), "model calls"),
            (number(tokens[2]), "tokens written"),
            (f"{overall:.2f}" if overall is not None else "–", "Reviewers' agreement (alpha)"),
            (number(round(sum(w.hours.values()), 2)) if w.hours else "–", "engine-hours"),
        ],
        ledger_bar=_ledger_bar(ledger),
        funnel=_funnel(facts),
        growth=_growth(facts) if len(facts["rounds"]) > 1 else None,
        members=[_member(m, method) for m in d.members.values()],
        criteria=_criteria(list(d.members.values())),
        criteria_names=d.criteria,
        alpha=dots(
            "Krippendorff's alpha by criterion",
            [*agreement.items(), ("mean of all", overall)],
            [(0.667, ".667"), (0.8, ".8")],
        ),
        units=d.mean_agreement.units,
        bias=fairness.section(d.bias),
        gold=gold.section(facts.get("gold")),
        spread=_spread(d, method),
        domains=_domains(d),
        languages=card.languages(facts),
        lengths=[_lengths(d, name) for name in ("instruction", "response")],
        similarity=_similarity(facts),
        data=section(diagnosis),
        work=_work(w, facts),
        operations=_operations(w, facts),
        throughput=_throughput(line),
        causes=_causes(ledger),
        dropped=_dropped(facts),
        sampled=sampled,
        sample_count=d.samples,
        shown=shown,
        per_outcome=SAMPLES,
        outcomes=[(o, sum(s["outcome"] == o for s in shown)) for o in ("accepted", *OUTCOMES)],
        number=number,
        percent=percent,
        method=method,
    )


def _bold(text: str) -> str:
    """A limit of the card as HTML: `**x**` and backquotes."""
    out = str(Markup.escape(printable(text)))
    for mark, tag in (("**", "strong"), ("`", "code")):
        while out.count(mark) >= 2:
            out = out.replace(mark, f"<{tag}>", 1).replace(mark, f"</{tag}>", 1)
    return out


# ---- charts ----------------------------------------------------------------------------------------------------------


def _ledger_bar(ledger: Ledger) -> Markup:
    parts = [
        Part("accepted", ledger.accepted, "accepted"),
        Part("rejected", ledger.rejected_total, "rejected"),
        Part("failed", ledger.failed_total, "failed"),
        Part("pending", ledger.pending, "pending"),
    ]
    return bars("What became of every candidate", [Bar("", parts)], label=0, note=0, top=ledger.planned)


def _funnel(facts: dict[str, Any]) -> Markup:
    rows, first = [], (facts["funnel"] or [{"entered": 0}])[0]["entered"]
    for f in facts["funnel"]:
        lost = [(k, f[k]) for k in ("rejected", "failed", "dropped") if f[k]]
        words = ", ".join(f"−{number(n)} {k}" for k, n in lost)
        parts = [Part("accepted", f["passed"], "passed"), *(Part(k, n, k) for k, n in lost)]
        rows.append(Bar(f["label"], parts, f"{number(f['passed'])}" + (f" · {words}" if words else "")))
    return bars("Funnel by stage", rows, label=235, note=235, top=first)


def _growth(facts: dict[str, Any]) -> Markup:
    rows, total = [], 0
    for r in facts["rounds"]:
        total += r["survived"]
        lost = r["ledger"]["accepted"] - r["survived"]
        done = r["candidates"] - r["ledger"]["pending"]
        rows.append(
            Bar(
                f"round {r['round']}",
                [Part("accepted", r["survived"], "released"), Part("dropped", lost, "dropped by the merge"),
                 Part("rejected", done - r["ledger"]["accepted"], "not accepted")],
                f"+{number(r['survived'])} = {number(total)} ({percent(r['survived'], done)})",
            )
        )  # fmt: skip
    return bars("Growth by round", rows, label=90, note=200)


def _member(m: Member, method: dict[str, Any]) -> dict[str, Any]:
    at = 2 * method["accept_mean"] - 2 + 0.5
    settled = 2 * method["adjudicate_mean"] - 2 + 0.5

    def cell(counts: list[int], css: str, mark: float) -> dict[str, Any]:
        n = sum(counts)
        mean = sum(i * c for i, c in enumerate(counts)) / 2 / n if n else None
        return {"n": n, "mean": mean, "chart": spark(f"{m.name}: {css}", counts[2:], css, mark) if n else ""}

    return {
        "name": m.name,
        "model": m.model,
        "generated": m.generated,
        "accepted": percent(m.accepted, m.generated),
        "received": cell(m.received, "accent", at),
        "given": cell(m.given, "accent", at),
        "adjudicated": cell(m.adjudicated, "accent", settled),
        "passed": percent(m.passed, m.looked_at),
        "judged": m.judged,
        "overruled": percent(m.too_strict + m.too_lenient, m.judged),
        "bar": bars(
            f"{m.name} overruled",
            [Bar("", [Part("rejected", m.too_strict, "too strict"), Part("accepted", m.too_lenient, "too lenient")])],
            width=150, label=0, note=0, top=max(m.judged, 1),
        ) if m.judged else "",
    }  # fmt: skip


def _criteria(members: Sequence[Member]) -> list[dict[str, Any]]:
    """Mean scores by member and criterion, each with a shade from 0 (the lowest) to 100; a point apart at least."""
    means = {m.name: [total / m.reviews for total in m.criteria] for m in members if m.reviews}
    low = min((v for row in means.values() for v in row), default=0)
    span = max(max((v for row in means.values() for v in row), default=0) - low, 1)
    return [
        {"name": name, "cells": [(f"{v:.2f}", round((v - low) / span * 100)) for v in row]}
        for name, row in means.items()
    ]


def _spread(d: Distributions, method: dict[str, Any]) -> Markup:
    last = max((i for i, n in enumerate(d.sd) if n), default=7) + 1
    return histogram(
        "Standard deviation over Reviewers",
        [Series("accent", "samples", d.sd)],
        [(4 * i, str(i)) for i in range(6)],
        mark=4 * method["accept_sd"],
        mark_text=f"settled above {method['accept_sd']:g}",
        axis="population standard deviation of Reviewers' means",
        limits=(0, min(max(last, math.ceil(4 * method["accept_sd"]) + 1, 8), len(d.sd))),
    )


def _domains(d: Distributions) -> Markup:
    rows = []
    for name, n in d.domains.items():
        if name or sum(n.values()):
            parts = [Part(status, n[status], status) for status in ("accepted", "rejected", "failed")]
            rows.append(
                Bar(name or "(none)", parts, f"{percent(n['accepted'], sum(n.values()))} of {number(sum(n.values()))}")
            )
    return bars("Outcomes by domain", rows, width=1040, label=100, note=150)


def _lengths(d: Distributions, name: str) -> Markup:
    groups = [
        Series("accepted", "accepted", d.lengths[name, "accepted"]),
        Series("rejected", "rejected", d.lengths[name, "rejected"]),
    ]
    used = [i for s in groups for i, n in enumerate(s.counts) if n] or [8, 20]
    return histogram(
        f"Length of the {name}",
        groups,
        [(2 * p, number(2**p)) for p in range(0, 18, 1)],
        axis=f"characters of the {name}",
        shares=True,
        limits=(max(min(used) - 1, 0), max(used) + 2),
    )


def _similarity(facts: dict[str, Any]) -> Markup | None:
    found = [r["similarity"] for r in facts["rounds"] if r["similarity"]]
    if not found:
        return None
    counts = [sum(column) for column in zip(*(f["counts"] for f in found), strict=True)]
    bins, threshold = found[0]["bins"], found[0]["threshold"]
    lowest = next((i for i, n in enumerate(counts) if n), 0)
    return histogram(
        "Similarity to the nearest row kept before",
        [Series("accent", "rows", counts)],
        [(bins * i / 5, f"{i / 5:g}") for i in range(6)],
        mark=min(bins * threshold, bins),
        mark_text=f"dropped from {threshold:g}",
        axis="largest cosine to seeds and better rows",
        limits=(lowest * 5 // bins * bins // 5, bins),
        width=1040,
    )


def _work(w: Work, facts: dict[str, Any]) -> dict[str, Any]:
    """Tokens and hours as a table, roles by models."""
    models = sorted({m for _, m in w.tokens} | set(facts["models"]))
    roles = [r for r in _ROLES if any((r, m) in w.tokens for m in models)]
    roles += sorted({r for r, _ in w.tokens} - set(roles))
    most = max((t[2] for t in w.tokens.values()), default=0) or 1
    table = []
    for role in roles:
        cells = []
        for model in models:
            calls, prompt, completion = w.tokens.get((role, model), [0, 0, 0])
            hours = w.hours.get((role, model))
            cells.append(
                {
                    "calls": calls,
                    "prompt": prompt,
                    "completion": completion,
                    "hours": hours,
                    "shade": round(100 * completion / most),
                }
            )
        totals = [sum(t[i] for (r, _), t in w.tokens.items() if r == role) for i in range(3)]
        table.append((role, cells, totals, sum(h for (r, _), h in w.hours.items() if r == role)))
    return {"models": models, "rows": table, "recorded": bool(w.hours)}


def _operations(w: Work, facts: dict[str, Any]) -> list[tuple[str, str]]:
    c, held, unasked = facts["coverage"], facts["work"], facts.get("unasked")
    lacking = f", without {held['unrecorded']} that left no record" if held["unrecorded"] else ""
    hours = [(f"hours that all attempts ran, lost ones included{lacking}", number(round(held["hours"], 2)))]
    if held["gpu_hours"]:
        hours.append((f"GPU-hours allocated to them{lacking}", number(round(held["gpu_hours"], 2))))
    return [
        *hours,
        ("shards published", f"{c['published']} of {c['expected']}"),
        ("attempts they took", number(w.attempts)),
        *([("questions to Reviewers that were not needed", number(sum(unasked.values())))] if unasked else []),
        ("nodes", number(w.hosts)),
        ("engines restarted after a death", number(w.restarts)),
        ("calls given up (killed their engine twice)", number(w.given_up)),
        *((f"answers of {model} whose thoughts did not end", number(n)) for model, n in sorted(w.endless.items())),
        ("unreadable journal lines", number(w.corrupt)),
        *([("used answers that are not in the calls tables", number(w.lost))] if w.lost else []),
        *(
            (f"turns of {group}: swaps, seconds lost", f"{number(swaps)}, {number(round(lost))}")
            for group, (swaps, lost) in sorted(w.turns.items())
        ),
    ]


def _throughput(line: TimeLine) -> Markup | None:
    if not line.tokens:
        return None
    total = line.step * len(line.tokens)
    unit, name = next((u, n) for u, n in ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
                      if total >= 2 * u or u == 1)  # fmt: skip
    step = next((s for s in (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 25, 50, 100) if total / unit / s <= 10), 200)
    ticks = [(i * step * unit / line.step, f"{i * step:g}") for i in range(int(total / unit / step) + 1)]
    return area(
        "Completion tokens per second over time",
        [t / line.step for t in line.tokens],
        ticks,
        axis=f"{name} since the first answer; completion tokens per second",
    )


def _causes(ledger: Ledger) -> Markup | None:
    rows = []
    for css, counts, total in (
        ("rejected", ledger.rejected, ledger.rejected_total),
        ("failed", ledger.failed, ledger.failed_total),
    ):
        order = sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))
        shown, rest = order[:CAUSES], order[CAUSES:]
        if rest:
            shown.append((f"{len(rest)} more, in the card and manifest.json", sum(n for _, n in rest)))
        for key, n in shown:
            rows.append(Bar(key, [Part(css, n, css)], f"{number(n)} ({percent(n, total)} of {css})"))
    return bars("Reasons", rows, label=400, note=190) if rows else None


def _dropped(facts: dict[str, Any]) -> Markup | None:
    rows = [
        Bar(REASONS.get(step, step), [Part("dropped", n, step)], f"{number(n)} {step}")
        for step, n in facts["dropped"].items()
        if n
    ]
    return bars("Dropped by the merge", rows, label=400, note=190) if rows else None


@cache
def _template() -> jinja2.Template:
    environment = template_files(Path(__file__).parent.parent / "templates")
    return environment.get_template("report.html.j2")

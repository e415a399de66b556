"""The report's section on the data themselves: a table of measures, histograms, and the pictures of seeds and rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from gra_hpc.release.charts import Series, Svg, histogram, number, percent, shorten
from gra_hpc.release.diagnostics.measure import Diagnosis
from gra_hpc.release.diagnostics.sample import Texts

BINS = 50


def section(d: Diagnosis) -> dict[str, Any]:
    """What the report's template needs."""
    f = d.facts
    return {
        "facts": f,
        "rows": list(_table(f)),
        "cosine": _cosine(d.cosines) if d.cosines else None,
        "copied": _copied(d.copied, f["copied"]["ngram"]) if d.copied else None,
        "ifd": _ifd(d) if d.ifd else None,
        "tsne": _picture(d, "tsne", "t-SNE of instructions") if "tsne" in d.points else None,
        "pca": _picture(d, "pca", "Principal components of instructions") if "pca" in d.points else None,
        "shown": (len(d.rows), len(d.seeds)) if d.rows and d.seeds else (0, 0),
        "missing": f.get("missing", []),
    }


def _table(f: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Measure, value of the rows, of the seeds, and what it says."""
    out = []
    if f.get("vendi"):
        words = f"effective number of different instructions, of {number(f['compared'])} each"
        out.append(("Vendi score", _value(f["vendi"]["rows"], 1), _value(f["vendi"]["seeds"], 1), words))
        words = "mean cosine distance between two instructions"
        out.append(("embedding spread", _value(f["spread"]["rows"]), _value(f["spread"]["seeds"]), words))
    for name in ("instructions", "responses"):
        for n in (1, 2, 3):
            x = (f.get("distinct") or {}).get(f"{name}-{n}")
            if x and x["rows"] is not None:
                words = f"different {f'runs of {n} words' if n > 1 else 'words'}, of {number(x['runs'])}"
                out.append((f"distinct-{n}, {name}", _value(x["rows"]), _value(x["seeds"]), words))
    if f.get("coverage") is not None:
        words = "seeds with a row as near as their 5th nearest seed"
        out.append(("coverage of the seeds", percent(f["coverage"], 1), "", words))
    if f.get("nearest_seed"):
        words = f"mean cosine; {percent(f['nearest_seed']['from_0.9'], 1)} of rows from 0.9"
        out.append(("nearest seed", _value(f["nearest_seed"]["mean"]), "", words))
    if f.get("copied"):
        c = f["copied"]
        most = percent(c["half_or_more"], 1)
        words = f"runs of {c['ngram']} words of an instruction that some seed has; half or more in {most} of rows"
        out.append(("words shared with seeds", percent(c["mean"], 1), "", words))
    if f.get("ifd"):
        mine, theirs = f["ifd"].get("rows"), f["ifd"].get("seeds")
        above = " and ".join(percent(x["above_1"], 1) for x in (mine, theirs) if x)
        words = f"loss of the response with over without its instruction, by {f['ifd']['scorer']}; above 1: {above}"
        medians = [_value(x["median"]) if x else "" for x in (mine, theirs)]
        out.append(("IFD, median", medians[0], medians[1], words))
    return out


def _value(x: float | None, digits: int = 3) -> str:
    return "–" if x is None else f"{x:.{digits}f}"


def _counts(values: Sequence[float], low: float, high: float) -> list[int]:
    counts = [0] * BINS
    for v in values:
        counts[min(max(int((v - low) / (high - low) * BINS), 0), BINS - 1)] += 1
    return counts


def _cosine(values: Sequence[float]) -> Markup:
    return histogram(
        "Cosine with the nearest seed",
        [Series("accepted", "rows", _counts(values, 0, 1))],
        [(BINS * i / 5, f"{i / 5:g}") for i in range(6)],
        mark=0.9 * BINS,
        mark_text="0.9",
        axis="cosine of a row's instruction with its nearest seed's",
    )


def _copied(values: Sequence[float], n: int) -> Markup:
    return histogram(
        "Words shared with seeds",
        [Series("accepted", "rows", _counts(values, 0, 1))],
        [(BINS * i / 4, f"{25 * i}%") for i in range(5)],
        axis=f"share of an instruction's runs of {n} words that some seed has",
    )


def _ifd(d: Diagnosis) -> Markup:
    top = 1.5
    return histogram(
        "Instruction-following difficulty",
        [
            Series("accepted", "rows", _counts(d.ifd, 0, top)),
            *([Series("rejected", "seeds", _counts(d.ifd_seeds, 0, top))] if d.ifd_seeds else []),
        ],
        [(BINS * i / 6, f"{top * i / 6:g}") for i in range(7)],
        mark=BINS / top,
        mark_text="1: the instruction does not help",
        axis="loss of the response with its instruction, over that without (the last column: and more)",
        shares=True,
        width=1040,
    )


def _picture(d: Diagnosis, kind: str, title: str) -> Markup:
    """Seeds and rows as dots; drawn in turn, so that neither hides the other."""
    assert d.rows is not None and d.seeds is not None
    size, margin = 508.0, 10.0
    svg = Svg(size, size, title)
    svg.rect(0.5, 0.5, size - 1, size - 1, "frame")
    at = _placed(d.points[kind], size, margin)
    n = len(d.rows)
    dots: list[tuple[float, int, str, Texts, int]] = [
        *(((i + 0.5) / n, i, "dot-row", d.rows, i) for i in range(n)),
        *(((i + 0.5) / len(d.seeds), n + i, "dot-seed", d.seeds, i) for i in range(len(d.seeds))),
    ]
    for _, place, css, texts, i in sorted(dots, key=lambda x: (x[0], x[1])):
        x, y = at[place]
        tip = shorten(" ".join(texts.instructions[i].split()), 90)
        svg.circle(float(x), float(y), 3.2, css, tip)
    return svg.markup()


def _placed(points: np.ndarray, size: float, margin: float) -> np.ndarray:
    """Points in the drawing: one scale for both axes, the outermost hundredth of each side drawn at the rim."""
    low, high = np.quantile(points, 0.01, axis=0), np.quantile(points, 0.99, axis=0)
    middle, span = (low + high) / 2, float((high - low).max()) * 1.06 or 1.0
    inside = (points - middle) / span + 0.5
    return margin + np.clip(inside * [1, -1] + [0, 1], 0, 1) * (size - 2 * margin)

"""Small charts as SVG text. Colours, fonts and line widths are classes of the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from markupsafe import Markup

from gra_hpc.terminal import printable


def shown(value: Any) -> Any:
    """Jinja's `finalize` of our pages: what others wrote turns no direction of writing, and is not hidden."""
    return printable(value, lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value


def _plain(text: str) -> str:
    return escape(printable(text))


def number(value: float) -> str:
    """A figure for people: 950, 12.3k, 4.56M."""
    for bound, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= bound:
            scaled = value / (1e3 if unit == "k" else bound)
            return f"{scaled:.3g}{unit}" if scaled < 1000 else f"{scaled:.0f}{unit}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"


def percent(part: float, whole: float) -> str:
    """`12.3%`; a dash where there is nothing to share out."""
    return f"{100 * part / whole:.1f}%" if whole else "–"


def nice(top: float, steps: int = 4, least: float = 0) -> list[float]:
    """Round tick values from 0 up to at least `top`, no closer than `least`."""
    if top <= 0:
        return [0.0, 1.0]
    raw = max(top / steps, least)
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    count = math.ceil(top / step - 1e-9)
    return [i * step for i in range(count + 1)]


@dataclass
class Part:
    """A segment of a bar."""

    css: str
    value: float
    name: str = ""


@dataclass
class Bar:
    """One bar of a chart."""

    label: str
    parts: Sequence[Part]
    note: str = ""


@dataclass
class Series:
    """Counts over the bins of a histogram."""

    css: str
    name: str
    counts: Sequence[float]


class Svg:
    """A drawing being written."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self._parts: list[str] = []

    def rect(self, x: float, y: float, w: float, h: float, css: str, tip: str = "") -> None:
        inside = f"<title>{_plain(tip)}</title>" if tip else ""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(w, 0):.1f}" height="{max(h, 0):.1f}" class="{css}">'
            f"{inside}</rect>"
        )

    def text(self, x: float, y: float, content: str, css: str = "", anchor: str = "start") -> None:
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{_plain(content)}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        self._parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>')

    def path(self, points: Sequence[tuple[float, float]], css: str, close: bool = False) -> None:
        d = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points) + ("Z" if close else "")
        self._parts.append(f'<path d="{d}" class="{css}"/>')

    def circle(self, x: float, y: float, r: float, css: str, tip: str = "") -> None:
        self._parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" class="{css}"><title>{_plain(tip)}</title></circle>'
        )

    def __html__(self) -> str:
        return str(self.markup())

    def markup(self) -> Markup:
        """The drawing, for a page; safe to insert."""
        body = "".join(self._parts)
        return Markup(
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" width="{self.width:g}" height="{self.height:g}"'
            f' role="img" aria-label="{_plain(self.title)}">{body}</svg>'
        )


def bars(
    title: str,
    rows: Sequence[Bar],
    *,
    width: float = 1040,
    label: float = 190,
    note: float = 150,
    top: float = 0,
    show: Callable[[float], str] = number,
) -> Markup:
    """Horizontal bars of stacked parts, labels left, notes right.

    Args:
        label: width kept for labels.
        note: width kept for notes.
        top: value of a full bar; 0: the longest one's.
    """
    pitch, thick = 26, 16
    svg = Svg(width, pitch * max(len(rows), 1) + 2, title)
    full = top or max((sum(p.value for p in r.parts) for r in rows), default=0) or 1
    room = width - label - note - (16 if note else 0)
    for i, row in enumerate(rows):
        y = i * pitch + 5
        svg.text(label - 10, y + 12.5, shorten(row.label, int(label / 6.4)), "label", "end")
        x = label
        svg.rect(x, y, room, thick, "track")
        for part in row.parts:
            w = room * part.value / full
            if part.value > 0:
                svg.rect(x, y, max(w, 0.8), thick, part.css, f"{part.name or row.label}: {show(part.value)}")
            x += w
        svg.text(label + room + 10, y + 12.5, row.note, "note")
    return svg.markup()


def histogram(
    title: str,
    series: Sequence[Series],
    ticks: Sequence[tuple[float, str]],
    *,
    width: float = 508,
    height: float = 210,
    mark: float | None = None,
    mark_text: str = "",
    axis: str = "",
    shares: bool = False,
    limits: tuple[int, int] | None = None,
) -> Markup:
    """Columns over bins; several series as outlines over the first.

    Args:
        ticks: (bin edge, text).
        mark: bin edge of a vertical line, with `mark_text`.
        axis: what the bins are.
        shares: each series as shares of its own total.
        limits: first and last bin edge shown.
    """
    left, right, bottom, head = 46.0, 22.0, 38.0, 22.0
    svg = Svg(width, height, title)
    count = max((len(s.counts) for s in series), default=1)
    lo, hi = limits or (0, count)
    scaled = [(s, [c / (sum(s.counts) or 1) if shares else c for c in s.counts]) for s in series]
    most = max((max(v[lo:hi], default=0) for _, v in scaled), default=0)
    levels = nice(most, least=0 if shares else 1)
    w, h = width - left - right, height - bottom - head

    def at_x(edge: float) -> float:
        return left + w * (edge - lo) / max(hi - lo, 1)

    def at_y(value: float) -> float:
        return head + h * (1 - value / levels[-1])

    for level in levels:
        svg.line(left, at_y(level), width - right, at_y(level), "grid")
        svg.text(left - 7, at_y(level) + 4, f"{100 * level:g}%" if shares else number(level), "tick", "end")
    for i, (s, values) in enumerate(scaled):
        if i == 0:
            for b in range(lo, hi):
                if values[b]:
                    gap = 0.6 if hi - lo > 30 else 1.2
                    tip = f"{s.name}: {number(s.counts[b])}"
                    svg.rect(
                        at_x(b) + gap / 2, at_y(values[b]), w / (hi - lo) - gap, at_y(0) - at_y(values[b]), s.css, tip
                    )
        else:
            points = [p for b in range(lo, hi) for p in ((at_x(b), at_y(values[b])), (at_x(b + 1), at_y(values[b])))]
            svg.path([(at_x(lo), at_y(0)), *points, (at_x(hi), at_y(0))], f"outline {s.css}-line")
    svg.line(left, at_y(0), width - right, at_y(0), "axis")
    for edge, text in ticks:
        if lo <= edge <= hi:
            svg.line(at_x(edge), at_y(0), at_x(edge), at_y(0) + 4, "axis")
            svg.text(at_x(edge), at_y(0) + 16, text, "tick", "middle")
    svg.text(left + w / 2, height - 5, axis, "tick", "middle")
    if mark is not None and lo <= mark <= hi:
        svg.line(at_x(mark), head - 6, at_x(mark), at_y(0), "mark")
        side = "end" if at_x(mark) > width * 0.6 else "start"
        svg.text(at_x(mark) + (-5 if side == "end" else 5), head - 9, mark_text, "mark-text", side)
    return svg.markup()


def area(
    title: str,
    values: Sequence[float],
    ticks: Sequence[tuple[float, str]],
    *,
    axis: str,
    width: float = 1040,
    height: float = 190,
) -> Markup:
    """One quantity over equal steps of time."""
    left, right, bottom, head = 52.0, 22.0, 38.0, 10.0
    svg = Svg(width, height, title)
    levels = nice(max(values, default=0), 3)
    w, h = width - left - right, height - bottom - head
    n = max(len(values), 1)

    def at_y(value: float) -> float:
        return head + h * (1 - value / levels[-1])

    for level in levels:
        svg.line(left, at_y(level), width - right, at_y(level), "grid")
        svg.text(left - 7, at_y(level) + 4, number(level), "tick", "end")
    steps = [p for i, v in enumerate(values) for p in ((left + w * i / n, at_y(v)), (left + w * (i + 1) / n, at_y(v)))]
    if steps:
        svg.path([(left, at_y(0)), *steps, (width - right, at_y(0))], "fill-area", close=True)
        svg.path(steps, "outline accent-line")
    svg.line(left, at_y(0), width - right, at_y(0), "axis")
    for edge, text in ticks:
        x = left + w * edge / n
        svg.line(x, at_y(0), x, at_y(0) + 4, "axis")
        svg.text(x, at_y(0) + 16, text, "tick", "middle")
    svg.text(left + w / 2, height - 5, axis, "tick", "middle")
    return svg.markup()


def spark(title: str, counts: Sequence[int], css: str, mark: float, width: float = 132, height: float = 30) -> Markup:
    """A histogram for a table's cell, with a line at a threshold.

    Args:
        mark: bin edge of the line.
    """
    svg = Svg(width, height, title)
    most, n = max(counts, default=0) or 1, max(len(counts), 1)
    for i, c in enumerate(counts):
        if c:
            h = max((height - 3) * c / most, 0.7)
            svg.rect(width * i / n, height - 1 - h, width / n - 0.8, h, css, number(c))
    svg.line(0, height - 0.5, width, height - 0.5, "axis")
    svg.line(width * mark / n, 0, width * mark / n, height, "mark")
    return svg.markup()


def dots(
    title: str, rows: Sequence[tuple[str, float | None]], bounds: Sequence[tuple[float, str]], width: float = 508
) -> Markup:
    """One value between -0.2 and 1 per row, with reference lines."""
    label, pitch, head, lo = 150.0, 24.0, 26.0, -0.2
    room = width - label - 60
    svg = Svg(width, head + pitch * len(rows) + 22, title)

    def at(value: float) -> float:
        return label + room * (min(max(value, lo), 1) - lo) / (1 - lo)

    bottom = head + pitch * len(rows)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        svg.line(at(tick), head - 4, at(tick), bottom, "grid")
        svg.text(at(tick), bottom + 15, f"{tick:g}", "tick", "middle")
    for bound, text in bounds:
        svg.line(at(bound), head - 8, at(bound), bottom, "mark")
        svg.text(at(bound), head - 12, text, "mark-text", "middle")
    for i, (name, value) in enumerate(rows):
        y = head + pitch * (i + 0.5)
        svg.text(label - 12, y + 4, name, "label", "end")
        if value is None:
            svg.text(at(0) + 4, y + 4, "not defined", "tick")
            continue
        svg.line(at(0), y, at(value), y, "stem")
        svg.circle(at(value), y, 5, "accent", f"{name}: {value:.3f}")
        svg.text(label + room + 12, y + 4, f"{value:.2f}", "note")
    return svg.markup()


def shorten(text: str, limit: int) -> str:
    """A label that fits."""
    return text if len(text) <= limit else text[: max(limit - 1, 1)].rstrip() + "…"

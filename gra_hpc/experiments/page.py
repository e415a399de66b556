"""table.html: the table of an experiment and a picture of each metric, on one offline page."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from gra_hpc.experiments.table import Line, Table, cells, figure_text, notes
from gra_hpc.release.charts import Svg, nice, shorten
from gra_hpc.release.template_files import template_files


def page(table: Table) -> str:
    """The page."""
    heads, *rows = cells(table, every=True)
    environment = template_files(Path(__file__).parent / "templates")
    return environment.get_template("table.html.j2").render(
        title=table.config.title or "Experiment",
        heads=heads,
        rows=rows,
        notes=list(notes(table)),
        pictures=[(heading(table, m), picture(table, m)) for m in table.metrics if _known(table, m)],
        printed=bool(table.source),
    )


def heading(table: Table, metric: str) -> str:
    """A metric's name; of the compared one also which way is better."""
    if metric != table.config.metric:
        return metric
    return f"{metric} ({'higher' if table.config.higher_is_better else 'lower'} is better)"


def _known(table: Table, metric: str) -> list[Line]:
    return [line for line in table.lines if metric in line.figures and line.figures[metric].values]


def picture(table: Table, metric: str) -> Markup:
    """One metric of all rows that have it: a dot, its interval, every training seed, the printed figure."""
    lines = _known(table, metric)
    label, note, pitch, head = 330.0, 190.0, 28.0, 8.0
    svg = Svg(1040, head + pitch * len(lines) + 26, metric)
    shown = {id(line): line.printed for line in lines if metric == table.config.metric and line.printed is not None}
    values = [
        v
        for line in lines
        for f in (line.figures[metric],)
        for v in (*f.values, f.low, f.high, shown.get(id(line)))
        if v is not None
    ]
    low, ticks = _ticks(min(values), max(values))
    high = ticks[-1]
    room = 1040 - label - note

    def at(v: float) -> float:
        return label + room * (min(max(v, low), high) - low) / ((high - low) or 1)

    bottom = head + pitch * len(lines)
    for tick in ticks:
        svg.line(at(tick), head, at(tick), bottom, "grid")
        svg.text(at(tick), bottom + 16, f"{tick:.6g}", "tick", "middle")
    for i, line in enumerate(lines):
        f, y = line.figures[metric], head + pitch * (i + 0.5)
        name = f"{line.row.seeds} · {line.data} · {line.base}"
        svg.text(label - 14, y + 4, shorten(name, 48), "", "end")
        if f.low is not None and f.high is not None:
            svg.line(at(f.low), y, at(f.high), y, "stem")
        if len(f.values) > 1:
            for v in f.values:
                svg.circle(at(v), y, 3, "one", f"{v:.6g}")
        svg.circle(at(f.mean), y, 5, "dot", f"{name}: {f.mean:.6g}")
        if id(line) in shown:
            x = at(shown[id(line)])
            svg.path([(x - 6, y), (x, y - 6), (x + 6, y), (x, y + 6)], "printed", close=True)
        svg.text(label + room + 14, y + 4, figure_text(f, line), "tick")
    return svg.markup()


def _ticks(low: float, high: float) -> tuple[float, list[float]]:
    """Round values that hold both ends, and the first of them."""
    step = nice(max(high - low, 1e-3 * max(abs(high), 1e-9)), 5)[1]
    first = step * int(low // step)
    out = [first]
    while out[-1] < high:
        out.append(first + step * len(out))
    return first, out

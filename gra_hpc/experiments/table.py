"""The table of an experiment: our figures, over training seeds, beside the printed ones."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gra_hpc.errors import ConfigError
from gra_hpc.experiments.config import ExperimentConfig, Row
from gra_hpc.experiments.directory import ExperimentDir, seeds_of
from gra_hpc.experiments.progress import metrics_of
from gra_hpc.foreign import fits
from gra_hpc.storage import read_object

PRINTED = Path(__file__).with_name("printed.yaml")
LEVEL = 0.95


@dataclass
class Figure:
    """One metric of a row."""

    values: list[float]
    """One per training seed that is done."""
    low: float | None = None
    high: float | None = None
    """95% interval of the mean over training seeds (Student's t), from two on; else the evaluation's own."""
    own: bool = False
    """The interval is the evaluation's own: over questions, not over training seeds."""

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)


@dataclass
class Line:
    """One row of the table."""

    row: Row
    data: str
    base: str
    seeds_done: int
    seeds: int
    rows: int | None
    """Rows of its data."""
    figures: dict[str, Figure] = field(default_factory=dict)
    printed: float | None = None


@dataclass
class Table:
    """The table."""

    config: ExperimentConfig
    lines: list[Line]
    metrics: list[str]
    """The compared one first."""
    source: str = ""
    """Where the printed figures are from."""


@cache
def printed(name: str) -> dict[str, Any]:
    """A table of printed figures.

    Raises:
        ConfigError: no such table.
    """
    tables: dict[str, Any] = yaml.safe_load(PRINTED.read_text(encoding="utf-8"))
    if name not in tables:
        raise ConfigError(f"printed={name}: no such table", f"there are: {', '.join(tables)}")
    return dict(tables[name])


def printed_figure(table: dict[str, Any], row: Row) -> float | None:
    """The printed figure of a row."""
    figures = table["figures"]
    found = figures.get(str(row), figures.get(f"any/{row.data}/{row.base}"))
    return None if found is None else float(found)


def build(made: ExperimentDir, config: ExperimentConfig, rows: Sequence[Row]) -> Table:
    """Read what the evaluations left."""
    source = printed(config.printed) if config.printed else None
    lines, names = [], dict.fromkeys([config.metric])
    for row in rows:
        seeds = seeds_of(config, row)
        files = [made.result(row, s) / "done.json" for s in seeds]
        done = [read_object(f) | {"metrics": metrics_of(f)} for f in files if f.is_file()]
        line = Line(
            row,
            config.data[row.data].label or row.data,
            config.bases[row.base].label or row.base,
            len(done),
            len(seeds),
            _rows(made, row) if config.data[row.data].trained else None,
            printed=printed_figure(source, row) if source else None,
        )
        for metric in dict.fromkeys(m for d in done for m in d["metrics"]):
            line.figures[metric] = _figure(done, metric)
            names.setdefault(metric)
        lines.append(line)
    return Table(config, lines, list(names), source["source"] if source else "")


def _figure(done: Sequence[dict[str, Any]], metric: str) -> Figure:
    values = [float(d["metrics"][metric]) for d in done if metric in d["metrics"]]
    out = Figure(values)
    if len(values) > 1:
        half = half_width(values)
        out.low, out.high = out.mean - half, out.mean + half
    else:
        intervals = done[0].get("intervals") if done else None
        own: Any = intervals.get(metric) if isinstance(intervals, dict) else None
        if fits(own, list[float]) and len(own) == 2:
            (out.low, out.high), out.own = own, True
    return out


def half_width(values: Sequence[float], level: float = LEVEL) -> float:
    """Half the width of Student's interval for the mean of a few values."""
    from scipy.stats import t

    n = len(values)
    mean = math.fsum(values) / n
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return float(t.ppf((1 + level) / 2, n - 1)) * sd / math.sqrt(n)


def _rows(made: ExperimentDir, row: Row) -> int | None:
    manifest = made.data(row).release / "manifest.json"
    if not manifest.is_file():
        return None
    from gra_hpc.release.manifest import read

    return sum(s["rows"] for s in read(manifest.parent).get("splits", {}).values())


def cells(table: Table, every: bool = False) -> Iterator[list[str]]:
    """The table as texts, heads first.

    Args:
        every: also the metrics that are not compared.
    """
    metrics = table.metrics if every else table.metrics[:1]
    compared = any(line.printed is not None for line in table.lines)
    heads = ["seeds", "data", "base", "rows", *metrics]
    yield heads + (["printed", "difference"] if compared else [])
    for line in table.lines:
        out = [line.row.seeds, line.data, line.base, f"{line.rows:,}" if line.rows is not None else "-"]
        out += [figure_text(line.figures.get(m), line) for m in metrics]
        if compared:
            ours = line.figures.get(table.config.metric)
            out.append("-" if line.printed is None else f"{line.printed:.2f}")
            out.append("-" if line.printed is None or ours is None else f"{ours.mean - line.printed:+.2f}")
        yield out


def figure_text(figure: Figure | None, line: Line) -> str:
    """`60.36 [59.8, 61.0]`; with training seeds missing `(2 of 3)` behind it."""
    if figure is None:
        return "-"
    digits = 2 if abs(figure.mean) >= 10 else 4
    out = f"{figure.mean:.{digits}f}"
    if figure.low is not None and figure.high is not None:
        out += f" [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"
    if line.seeds_done < line.seeds:
        out += f" ({line.seeds_done} of {line.seeds})"
    return out


def notes(table: Table) -> Iterator[str]:
    """What a reader has to know of the intervals and of the printed figures."""
    figures = [f for line in table.lines for f in line.figures.values()]
    if any(not f.own and f.low is not None for f in figures):
        yield (
            f"Intervals: {LEVEL:.0%}, Student's t over {len(table.config.training_seeds)} training seeds (and draws of"
            " rows, where rows are drawn)."
        )
    if any(f.own for f in figures):
        yield "Intervals of rows with one training seed: over questions, as the evaluation gives them."
    if table.source:
        yield f"Printed: {table.source}."


def plain(table: Table, every: bool = False) -> Iterator[str]:
    """For a terminal."""
    found = list(cells(table, every))
    widths = [max(len(row[i]) for row in found) for i in range(len(found[0]))]
    for row in found:
        yield "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
    yield from notes(table)


def markdown(table: Table) -> str:
    """As Markdown, all metrics."""
    found = [[c.replace("|", "\\|") for c in row] for row in cells(table, every=True)]
    out = [f"# {table.config.title or 'Experiment'}", "", f"| {' | '.join(found[0])} |", "|---" * len(found[0]) + "|"]
    out += [f"| {' | '.join(row)} |" for row in found[1:]]
    return "\n".join([*out, "", *notes(table), ""])


def comma_separated(table: Table) -> str:
    """One line per row and metric, with every seed's value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["seeds", "data", "base", "metric", "mean", "low", "high", "values", "printed"])
    for line in table.lines:
        for metric, f in line.figures.items():
            shown = line.printed if metric == table.config.metric else None
            values = " ".join(map(str, f.values))
            writer.writerow([*str(line.row).split("/"), metric, f.mean, f.low, f.high, values, shown])
    return out.getvalue()


def to_dict(table: Table) -> dict[str, Any]:
    """For `--json`."""
    return {
        "title": table.config.title,
        "metric": table.config.metric,
        "source": table.source,
        "rows": [
            {
                "row": str(line.row),
                "rows": line.rows,
                "seeds_done": line.seeds_done,
                "printed": line.printed,
                "metrics": {
                    m: {"mean": f.mean, "low": f.low, "high": f.high, "values": f.values}
                    for m, f in line.figures.items()
                },
            }
            for line in table.lines
        ],
    }

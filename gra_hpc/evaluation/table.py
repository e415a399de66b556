"""The merge of an evaluation: all results in one file, and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gra_hpc.errors import IncompleteError
from gra_hpc.evaluation.config import EvaluateConfig
from gra_hpc.evaluation.directory import EvaluateDir, Result
from gra_hpc.once import write_once
from gra_hpc.storage import to_json, write_atomic
from gra_hpc.terminal import word


def remaining(out: EvaluateDir, config: EvaluateConfig) -> list[str]:
    """Benchmarks without a result."""
    return [name for name in config.names if not out.result(name).is_file()]


def merge(out: EvaluateDir, config: EvaluateConfig) -> list[Result]:
    """Write results.json, table.md and, last, done.json.

    Raises:
        IncompleteError: naming the benchmarks without a result.
    """
    missing = remaining(out, config)
    if missing:
        raise IncompleteError(
            f"{out.path}: no result of {', '.join(missing)} (logs: {out.path / 'logs'})",
            f"gra evaluate {word(out.path)}",
        )
    results = [Result.read(out.result(name)) for name in config.names]
    write_atomic(out.results, to_json({r.name: r.to_dict() for r in results}))
    write_atomic(out.table, ("\n".join(markdown(results, config.model.path)) + "\n").encode())
    metrics = {r.name: r.value for r in results}
    average = mean(results)
    if average is not None:
        metrics["mean"] = average
    write_once(
        out.done,
        to_json(
            {
                "kind": "evaluate",
                "fingerprint": config.fingerprint,
                "model": config.model.path,
                "metrics": metrics,
                "intervals": {r.name: [r.low, r.high] for r in results},
                "seconds": round(sum(r.seconds for r in results), 1),
            }
        ),
    )
    return results


def mean(results: Sequence[Result]) -> float | None:
    """Mean over the benchmarks that count; none if none does."""
    values = [r.value for r in results if r.counts]
    return sum(values) / len(values) if values else None


def rows(results: Sequence[Result]) -> Iterator[tuple[str, str, str, str, str]]:
    """Benchmark, value, interval, number of questions, metric; last the mean."""
    for r in results:
        digits = 2 if r.unit == "%" else 4
        interval = f"{r.low:.{digits}f} to {r.high:.{digits}f}"
        yield r.name, f"{r.value:.{digits}f}", interval, str(r.questions), f"{r.metric} ({r.unit})"
    average = mean(results)
    if average is not None:
        yield "mean", f"{average:.2f}", "", "", f"of {sum(r.counts for r in results)}"


HEADS = ("benchmark", "value", "95% interval", "n", "metric")


def markdown(results: Sequence[Result], title: str) -> Iterator[str]:
    """The table as Markdown."""
    yield f"# {title}"
    yield ""
    yield f"| {' | '.join(HEADS)} |"
    yield "|---|---|---|---|---|"
    for row in rows(results):
        yield f"| {' | '.join(row)} |"


def plain(results: Sequence[Result]) -> Iterator[str]:
    """The table for a terminal."""
    lines = [HEADS, *rows(results)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADS))]
    for line in lines:
        yield "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()

"""The loss curve: one line of JSON per step, and a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from gra_hpc.storage import write_atomic


def lines(steps: Sequence[dict[str, Any]]) -> bytes:
    """The steps as JSON lines."""
    return b"".join(orjson.dumps(step) + b"\n" for step in steps)


def smooth(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average, without the bias of its start."""
    out, mean = [], 0.0
    for n, value in enumerate(values, 1):
        mean = weight * mean + (1 - weight) * value
        out.append(mean / (1 - weight**n))
    return out


def plot(steps: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Loss and learning rate over steps, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    x, y = [s["step"] for s in steps], [s["loss"] for s in steps]
    axes.plot(x, y, color="#9ab6d3", linewidth=0.8, label="loss")
    axes.plot(x, smooth(y, 0.9), color="#1f4e79", linewidth=1.6, label="loss, smoothed")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("mean loss per response token (nats)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
    if all("learning_rate" in s for s in steps):
        rate = axes.twinx()
        rate.plot(x, [s["learning_rate"] for s in steps], color="#c08a3e", linewidth=0.8, linestyle=":")
        rate.set_ylabel("learning rate")
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=120, metadata={"Software": None})
    write_atomic(path, held.getvalue())

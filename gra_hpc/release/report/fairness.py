"""The report's section on whether the judges are fair: `bias.Bias` as tables."""

from __future__ import annotations

from typing import Any

from gra_hpc.release.charts import number, percent
from gra_hpc.release.report.bias import Bias, Interval

FEW = 30
"""Below so many observations a figure is shown, but as weak."""
_EVERY = slice(None)
_MEAN = -1
"""Place of the mean among the scales."""


def section(bias: Bias) -> dict[str, Any] | None:
    """What the template `fairness.html.j2` shows; none where nobody reviewed a response."""
    if not bias.judged[0].sum():
        return None
    domains = [d for d in range(len(bias.domains)) if bias.beside.at(_EVERY, d, _MEAN)[0]]
    independent = bias.independent()
    return {
        "models": bias.models,
        "matrix": [
            (writer, [_judged(bias, i, j) for j in range(len(bias.models))])
            for i, writer in enumerate(bias.models)
        ],
        "own": [_own(bias, i) for i in range(len(bias.models)) if bias.own.at(i, 1)[0]],
        "scales": bias.scales,
        "members": [_member(bias, i) for i in range(len(bias.members)) if bias.beside.at(i, _EVERY, _MEAN)[0]],
        "domains": [bias.domains[d] or "(none)" for d in domains],
        "by_domain": [
            {"name": name, "cells": [_beside(bias, i, d, _MEAN) for d in domains]}
            for i, name in enumerate(bias.members)
            if bias.beside.at(i, _EVERY, _MEAN)[0]
        ],
        "length": shown(bias.length.slope(len(bias.members))),
        "independent": f"{independent[1]:.1f} of {independent[0]:.1f}" if independent else "",
        "shared": bool(bias.panels[2]),
    }  # fmt: skip


def _judged(bias: Bias, writer: int, judge: int) -> dict[str, Any]:
    """A cell of the matrix."""
    n, total, passed = (float(x[writer, judge]) for x in bias.judged)
    return {
        "n": number(n) if n else "",
        "mean": f"{total / n:.2f}" if n else "",
        "accepted": percent(passed, n),
        "own": writer == judge,
    }


def _own(bias: Bias, model: int) -> dict[str, Any]:
    """A model on its own writing."""
    found, n = bias.self_preference(model), bias.own.at(model, 1)[0]
    return {
        "model": bias.models[model],
        "value": shown(found),
        "n": number(n),
        "others": number(bias.own.at(model, 0)[0]),
        "says": _says(found, n),
    }


def _says(found: Interval | None, n: float) -> str:
    if found is None or n < FEW:
        return "too few samples to say"
    if found.low > 0:
        return "prefers its own writing"
    return "is harder on its own writing" if found.high < 0 else "no preference found"


def _member(bias: Bias, member: int) -> dict[str, Any]:
    """Severity by scale, reliability, and what length does."""
    r = bias.beside.correlation(member, _EVERY, _MEAN)
    return {
        "name": bias.members[member],
        "cells": [_beside(bias, member, _EVERY, scale) for scale in range(len(bias.scales))],
        "reliability": f"{r:.2f}" if r is not None else "–",
        "length": shown(bias.length.slope(member)),
        "n": number(bias.beside.at(member, _EVERY, _MEAN)[0]),
    }


def _beside(bias: Bias, member: int, domain: int | slice, scale: int) -> dict[str, Any]:
    """One member beside the others: severity, reliability, and a shade by how far it is off."""
    found, r = bias.beside.difference(member, domain, scale), bias.beside.correlation(member, domain, scale)
    return {
        "value": f"{found.value:+.2f}" if found else "–",
        "reliability": f"{r:.2f}" if r is not None else "–",
        "shade": min(100, round(abs(found.value) * 50)) if found and (found.low > 0 or found.high < 0) else 0,
    }


def shown(found: Interval | None) -> str:
    """`+0.42 (0.31 to 0.53)`."""
    return f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f})" if found else "–"

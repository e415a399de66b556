"""A proof's report for people: a table of its pieces, and what to type next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gra_hpc.doctor.prove.outcome import FAILED, NOT_HERE, OK, TITLES
from gra_hpc.terminal import shown, word

INDENT = 19
"""Where what was seen begins."""


def lines(report: dict[str, Any], directory: Path, site: str) -> Iterator[str]:
    """The table.

    Args:
        report: as `proof.read_report` gives it.
        directory: of the proof.
        site: as the user named it; empty: none.
    """
    node = report["node"]
    has = "; ".join(node.get("gpus", [])) or f"{node.get('cpus', '?')} CPUs, no GPU"
    yield f"node {report['host']}: {has}; model {node.get('model', '?')}; {report['seconds'] / 60:.1f} minutes"
    yield f"logs in {shown(directory)}"
    for row in report["pieces"]:
        piece = row["piece"]
        yield f"  {row['state']:8} {row['seconds']:4.0f} s  {TITLES.get(piece, piece)} ({piece}.log)"
        yield f"{' ' * INDENT}{row['what']}"
        if row["state"] != OK and row["then"]:
            yield f"{' ' * INDENT}-> {row['then']}"
    states = [row["state"] for row in report["pieces"]]
    counts = ", ".join(f"{states.count(s)} {s}" for s in (OK, FAILED, NOT_HERE) if s in states)
    yield counts or "no piece ended"
    failed = [row["piece"] for row in report["pieces"] if row["state"] == FAILED]
    if failed:
        again = " ".join(f"--only {p}" for p in failed)
        yield f"once mended: gra doctor{f' {word(site)}' if site else ''} --prove {again}"


def calibration_lines(found: dict[str, Any]) -> Iterator[str]:
    """What was measured, and is kept for later plans."""
    performance = found["performance"]
    if "start_s" in performance:
        yield f"  engine start       {performance['start_s']:.0f} s"
    if "swap_s" in performance:
        yield f"  swap               {performance['swap_s']:.1f} s"
    for model, speed in performance["speed"].items():
        yield f"  speed of {model}: {speed:.2f} of the model's"

"""Report and card of rows with columns of their own: what is true of any run, and what the flow shows of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from gra_hpc.flows.registry import Section, flow_of
from gra_hpc.release.inputs import Inputs, read_slices
from gra_hpc.release.report.measures import Work, measure_work
from gra_hpc.release.template_files import template_files
from gra_hpc.run.ledger import Ledger

_FOLDER = Path(__file__).parent.parent / "templates"


def write(inputs: Inputs, facts: dict[str, Any], limits: Sequence[str], path: Path) -> None:
    """Write the report.

    Args:
        facts: the manifest, but for the files.
        limits: what a reader has to know first.
        path: the file.
    """
    config = inputs.run.config
    columns = [n for n in flow_of(config).schema(inputs.run.plan.thought_out).names if n != "embedding"]
    rows = (t for r in inputs.rounds for t in read_slices(r.file("kept.parquet"), columns))
    sections = [Section(**s) for s in facts.get("added", {}).get("sections", ())]
    sections += flow_of(config).views.report(config, rows)
    tables = [t for r in inputs.rounds for t in r.tables()]
    page = _template("results.html.j2").render(
        facts=facts,
        rows=sum(s["rows"] for s in facts["splits"].values()),
        limits=[limit.replace("**", "") for limit in limits],
        ledger_line=Ledger.from_dict(facts["ledger"]).line(),
        sections=[asdict(s) for s in [_calls(inputs, measure_work(tables, ())), *sections]],
    )
    path.write_text(page, encoding="utf-8")


def _calls(inputs: Inputs, work: Work) -> Section:
    """Calls and tokens by role and model; uses by tool."""
    head = ("role", "model", "calls", "prompt tokens", "written tokens")
    rows = [(role, model, *(f"{n:,}" for n in counts)) for (role, model), counts in sorted(work.tokens.items())]
    rows += [("tool", tool, f"{uses:,}", "", "") for tool, uses in sorted(work.tools.items())]
    return Section("Work", f"{sum(r.ledger.planned for r in inputs.rounds):,} candidates.", head, tuple(rows))


@cache
def _template(name: str) -> jinja2.Template:
    return template_files(_FOLDER).get_template(name)

"""The dataset card, README.md: filled in from the manifest and the first row of the data, and from nothing else."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from gra_hpc.flows.registry import find
from gra_hpc.merge.semantic.semantic import approximate
from gra_hpc.parquet import open_table
from gra_hpc.records import CRITERIA, Rubric
from gra_hpc.release import gold
from gra_hpc.release.limits import limits, millions
from gra_hpc.release.markdown import block, code, markdown
from gra_hpc.release.schema import OUTCOMES, shown_before
from gra_hpc.release.template_files import template_files
from gra_hpc.run.ledger import Ledger
from gra_hpc.terminal import printable
from gra_hpc.text.languages import NAMES, OTHER

NAME = "README.md"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
         (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"))  # fmt: skip
SAMPLE_CHARS = 1200
"""Longest text of the sample in the card."""


def write(facts: dict[str, Any], release: Path) -> None:
    """Write the card of a release whose data lie there already."""
    (release / NAME).write_text(render(facts, first_row(release)), encoding="utf-8")


def render(facts: dict[str, Any], sample: dict[str, Any] | None) -> str:
    """The card's text.

    Args:
        facts: the manifest (`manifest.describe`).
        sample: a row of the data; none if there is no row.
    """
    header = yaml.safe_dump(_shown(metadata(facts)), sort_keys=False, allow_unicode=True)
    body = _result(facts, sample) if "result" in facts else _conversations(facts, sample)
    return f"---\n{header}---\n\n{body.strip()}\n"


def _result(facts: dict[str, Any], sample: dict[str, Any] | None) -> str:
    """Of rows with columns of their own."""
    return _template("results_card.md.j2").render(
        **({"added": {}} | facts),
        rows=sum(s["rows"] for s in facts["splits"].values()),
        method=facts["config"]["method"],
        ledger_line=Ledger.from_dict(facts["ledger"]).line(),
        limits=[Markup(limit) for limit in limits(facts, markdown)],
        sample=json.dumps(sample, ensure_ascii=False, indent=1) if sample else "",
    )


def _conversations(facts: dict[str, Any], sample: dict[str, Any] | None) -> str:
    method, rubric = facts["config"]["method"], Rubric.of(facts["frozen"])
    flow = find(method["flow"])
    return _template("card.md.j2").render(
        flow=flow,
        stages=[s.name for s in flow.stages if s.on(method)],
        made=Markup(flow.views.card(method)),
        **{"decided": None, "unasked": None, **facts},
        golden=gold.section(facts.get("gold")),
        rows=sum(s["rows"] for s in facts["splits"].values()),
        method=facts["config"]["method"],
        merge=facts["config"]["merge"],
        reviewers=reviewers(facts["config"]),
        scored_by=_criteria(
            rubric.response, method.get("criteria", {}), f"{', '.join(CRITERIA[:-1])} and {CRITERIA[-1]}"
        ),
        judged_by=_criteria(rubric.instruction, method.get("instruction_criteria", {}), "reasonable, complete, clear"),
        ledger_line=Ledger.from_dict(facts["ledger"]).line(),
        prepared_line=Ledger.from_dict(facts["prepared"]).line() if facts["prepared"] else "",
        limits=[Markup(limit) for limit in limits(facts, markdown)],
        committee=committee(facts),
        sampling=sampling(facts),
        decontamination=decontamination(facts),
        told=languages(facts),
        thinking=Markup(thoughts(facts, markdown)),
        sample=sample,
        conversation=shown_before(sample) if sample else "",
    )


def _criteria(names: Sequence[str], own: dict[str, str], paper: str) -> str:
    """What Reviewers scored by, with what they were told of it where it is the run's own.

    Args:
        own: meanings, by name.
        paper: what is said of the paper's.
    """
    if not own or set(own) != set(names):
        return paper
    return ", ".join(f"{name} ({own[name]})" if own[name] else name for name in names)


def _shown(value: Any) -> Any:
    """The same, with texts that are safe to look at."""
    if isinstance(value, dict):
        return {k: _shown(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_shown(v) for v in value]
    return printable(value) if isinstance(value, str) else value


def metadata(facts: dict[str, Any]) -> dict[str, Any]:
    """The Hub's YAML header."""
    rows = sum(s["rows"] for s in facts["splits"].values())
    splits = [{"split": s, "path": f"data/{s}-*.parquet"} for s in facts["splits"]]
    configs: list[dict[str, Any]] = [{"config_name": "default", "default": True, "data_files": splits}]
    rejects = [{"split": o, "path": f"rejects/{o}-*.parquet"} for o in OUTCOMES if facts["rejects"][o]]
    if rejects:
        configs.append({"config_name": "rejects", "data_files": rejects})
    licence = facts["config"]["release"]["licence"]
    out: dict[str, Any] = {
        "pretty_name": facts["name"],
        "license": licence.lower() if licence.lower() in _HUB_LICENCES else "other",
    }
    if out["license"] == "other" and licence.lower() != "other":
        out["license_name"] = licence
    if spoken := main_languages(facts["languages"]["rows"] or {}):
        out["language"] = spoken
    own = {"tags": ["gra-hpc", facts["result"]["flow"]]} if "result" in facts else _OF_CONVERSATIONS
    return out | {
        **own,
        "tags": own["tags"] + (["simulated"] if facts["simulated"] else []),
        "size_categories": [next((name for bound, name in SIZES if rows < bound), "100M<n<1B")],
        "configs": configs,
    }


_OF_CONVERSATIONS = {
    "task_categories": ["text-generation"],
    "tags": ["synthetic", "instruction-tuning", "sft", "gra", "gra-hpc"],
}

_HUB_LICENCES = {
    *("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0"),
    *("cc-by-3.0", "odc-by", "odbl", "pddl", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0"),
    *("openrail", "gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "unlicense", "other"),
}
"""Identifiers that the Hub knows, in lower case; others go by `license_name`."""


def main_languages(rows: dict[str, int]) -> list[str]:
    """Codes of the languages that at least a tenth of the rows are in."""
    codes = {name: code for code, name in NAMES.items()}
    return [codes[name] for name, n in rows.items() if name in codes and 10 * n >= sum(rows.values())]


def reviewers(config: dict[str, Any]) -> int:
    """How many Reviewers a sample has: fewer than asked for where the committee is small (`committee.draw_roles`)."""
    method = config["method"]
    if method["policy"] == "fixed":
        return len(method["fixed"]["reviewers"])
    if method["policy"] == "single":
        return int(method["reviewers"])
    members = len(config["committee"]) or len(config["models"])
    return max(1, min(method["reviewers"], members - 1))


def thoughts(facts: dict[str, Any], named: Callable[[str], str] = printable) -> str:
    """What is said of thoughts: whose they are, and whether they are here. Empty: there were none.

    Args:
        named: how the name of a model is shown.
    """
    found = facts["thoughts"]
    released = facts["config"]["release"].get("thoughts", "drop")
    of_seeds = not find(facts["config"]["method"]["flow"]).asks
    if of_seeds and found["seeds"]:
        whose = f"{found['seeds']:,} seeds came with the thoughts behind their responses"
    elif found["models"] and not of_seeds:
        names = ", ".join(map(named, found["models"]))
        whose = f"{names} {'think before they answer' if len(found['models']) > 1 else 'thinks before it answers'}"
    else:
        return ""
    if released == "drop":
        return f"{whose}: the thoughts are not released."
    rows = sum(s["rows"] for s in facts["splits"].values())
    where = f"column `thoughts` holds what led to the response ({found['rows']:,} of {rows:,} rows)"
    inline = "; `messages` and exports have it within `<think>` before the response" if released == "inline" else ""
    return f"{whose}: {where}{inline}."


def source(model: dict[str, Any]) -> str:
    """Where a model comes from: the Hub, a directory, or a server."""
    return f"{model['served']}, asked at {model['endpoint']}" if model.get("served") else str(model["path"])


def languages(facts: dict[str, Any]) -> str:
    """What is said of the rows' languages."""
    rows = facts["languages"]["rows"]
    if rows is None:
        return "Languages of the rows were not counted."
    told = [f"{name or 'not certain (code, formulas, a few words)'} {n:,}" for name, n in rows.items()]
    asked = facts["languages"]["asked"].removeprefix(OTHER).strip()
    of_seeds = not find(facts["config"]["method"]["flow"]).asks or asked == "any"
    wanted = "" if of_seeds else "; each seed's own was asked for" if asked == "auto" else f"; {asked} was asked for"
    return f"Languages of the rows, as fastText's small model tells them: {', '.join(told) or 'none'}{wanted}."


def committee(facts: dict[str, Any]) -> list[dict[str, str]]:
    """The members: name, model, persona, own sampling."""
    return [
        {
            "name": name,
            "model": m["model"],
            "persona": " ".join(m["persona"].split()),
            "sampling": ", ".join(f"{k} {v:g}" for k, v in m["sampling"].items() if v is not None),
        }
        for name, m in facts["config"]["committee"].items()
    ]


def sampling(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Sampling by role, where it differs from that of all roles."""
    method = facts["config"]["method"]
    rows = [("all roles", method["sampling"]), *sorted(method["role_sampling"].items())]
    return [(who, ", ".join(f"{k} {v:g}" for k, v in s.items() if v is not None)) for who, s in rows]


def decontamination(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Benchmarks, what pins them, files of theirs that were not read, and rows that each removed over all rounds."""
    found: dict[str, dict[str, Any]] = {}
    for r in facts["rounds"]:
        for s in (r["steps"]["decontamination"] or {}).get("sources", []):
            pinned = s["revision"] or f"sha256 {s['sha256'][:16]}"
            new = {
                "source": s["source"],
                "pinned": pinned,
                "texts": s["texts"],
                "unread": s.get("unread", []),
                "removed": 0,
            }
            one = found.setdefault(s["source"], new)
            one["removed"] += s["dropped"]
    return [found[s] for s in facts["config"]["merge"]["decontamination"]["sources"] if s in found]


def clip(text: str, limit: int = SAMPLE_CHARS) -> Markup:
    """A text as a code block: cut where it is long. A model's Markdown and HTML are shown, not obeyed."""
    return Markup(block(text if len(text) <= limit else text[:limit].rstrip() + " [...]"))


def first_row(release: Path) -> dict[str, Any] | None:
    """The first row of the data."""
    for path in sorted(release.glob("data/train-*.parquet")):
        with open_table(path) as file:
            for batch in file.iter_batches(1):
                return dict(batch.to_pylist()[0])
    return None


@cache
def _template(name: str) -> jinja2.Template:
    environment = template_files(Path(__file__).parent / "templates", _safe, html=False)
    environment.filters |= {"millions": millions, "clip": clip, "cell": cell, "number": lambda n: f"{n:,}"}
    environment.filters["code"] = lambda text: Markup(code(text))
    environment.filters["word"] = lambda text: Markup(printable(shlex.quote(text)))  # within a code block
    environment.filters["approximate"] = approximate
    environment.filters["source"] = source
    return environment.get_template(name)


def _safe(value: Any) -> Any:
    """What the template puts into the card: whatever is not marked as ours has no meaning as Markdown or HTML."""
    return markdown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def cell(text: object) -> str:
    """A text for a table's cell."""
    return " ".join(str(text).split())

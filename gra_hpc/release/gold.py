"""What a release says of its Reviewers by gold questions (`run/gold.py`): the manifest's figures, the report's table,
the card's limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gra_hpc.errors import ReleaseError
from gra_hpc.labels.marks import Marks, share
from gra_hpc.release.charts import number
from gra_hpc.release.inputs import Inputs, Table
from gra_hpc.run.gold import Counted, GoldQuestions
from gra_hpc.run.shard_manifest import GoldAnswer, gold_answers

SHOWN = 5
"""Questions named that most answers are wrong about."""
_ENOUGH = 3
"""Answers from which a question may be doubted."""


def facts(inputs: Inputs) -> dict[str, Any] | None:
    """Figures for the manifest; none where the run has no gold questions."""
    run = inputs.run
    questions = GoldQuestions.of(run, run.plan)
    if questions is None:
        return None
    answers = [a for r in inputs.rounds for table in r.tables() for a in _answers(table, len(run.plan.rubric.response))]
    found = Counted.of(questions, answers, run.config.method)
    source = {one.id: Path(one.source).name for one in questions.questions}
    doubtful = [(right / n, source[i], right, n) for i, (right, n) in found.questions.items() if n >= _ENOUGH]
    return {
        "questions": run.plan.gold,
        "rate": run.config.method.gold_rate,
        "answers": len(answers),
        "members": {
            name: {
                "kept": [marks.kept, marks.to_keep],
                "rejected": [marks.rejected, marks.to_reject],
                "unanswered": marks.unanswered,
            }
            for name, marks in sorted(found.members.items())
        },
        "doubtful": [[where, right, n] for part, where, right, n in sorted(doubtful)[:SHOWN] if part < 0.5],
    }


def _answers(table: Table, criteria: int) -> tuple[GoldAnswer, ...]:
    try:
        return gold_answers(table.manifest, criteria)
    except ValueError as e:
        raise ReleaseError(f"{table.shard.manifest}: {e}") from None


def marks_of(found: dict[str, Any]) -> dict[str, Marks]:
    """By member, out of the manifest's figures."""
    return {
        name: Marks(m["kept"][0], m["kept"][1], m["rejected"][0], m["rejected"][1], m["unanswered"])
        for name, m in sorted(found.get("members", {}).items())
    }


def section(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the template `gold.html.j2` shows."""
    if not found:
        return None
    return {
        "questions": sum(found["questions"].values()),
        "rate": f"{found['rate']:.2%}".replace(".00", ""),
        "answers": number(found["answers"]),
        "members": [
            {
                "name": name,
                "right": _shown(m.right, m.asked),
                "kept": _shown(m.kept, m.to_keep),
                "rejected": _shown(m.rejected, m.to_reject),
                "unanswered": m.unanswered,
                "says": _says(m),
            }
            for name, m in marks_of(found).items()
        ],
        "doubtful": found["doubtful"],
    }


def _shown(right: int, asked: int) -> str:
    """`92% (85% to 96%) of 104`."""
    if not asked:
        return "–"
    value, low, high = share(right, asked)
    return f"{value:.0%} ({low:.0%} to {high:.0%}) of {number(asked)}"


def _says(m: Marks) -> str:
    if m.few:
        return "too few answers to say"
    return "no better than chance" if m.at_chance else "tells good from bad"


def limits(found: dict[str, Any] | None, named: Callable[[str], str]) -> Iterator[str]:
    """What a reader of the card has to know.

    Args:
        named: how a name is shown.
    """
    by_chance = [named(name) for name, m in marks_of(found or {}).items() if m.at_chance]
    if by_chance:
        yield (
            f"**By gold questions no better than chance: {', '.join(by_chance)}.** Whether a Reviewer's verdict says"
            " anything was asked with records whose verdict is known."
        )

"""`gra plan --prompts`: all that a run asks is shown, as it is asked, before anything is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gra_hpc.config import presets
from gra_hpc.flows.gra.questions import PROMPTS
from gra_hpc.flows.render import templates
from gra_hpc.run import planning
from gra_hpc.run.run import Run
from gra_hpc.views.prompts import rendered

ASKED = {"keywords", "instruction", "review_instruction", "response", "review_response", "adjudicate", "summary"}


def planned(path: Path, *words: str) -> Run:
    """A run whose seeds have neither domain nor keywords: round 0 describes them."""
    seeds = path / "seeds.jsonl"
    seeds.write_text(
        "".join(json.dumps({"instruction": f"Name a {w}.", "response": w}) + "\n" for w in ("bird", "sea"))
    )
    words = (f"seeds.path={seeds}", "engine.kind=simulated", "launch.shards=1", *words)
    return planning.make(path / "run", presets.compose("demo", words))


def shown(run: Run) -> dict[str, str]:
    """Prompts by their template."""
    parts = "\n".join(rendered(run)).split("--- ")[1:]
    return {found[1]: part for part in parts if (found := re.search(r"(\w+)\.j2", part))}


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        ((), {"describe", *ASKED}),
        (("method.review_instruction=false",), {"describe", *ASKED} - {"review_instruction"}),
        (("method.flow=refine",), {"describe", "refine", "review_response", "adjudicate", "summary"}),
        (("method.flow=seeds",), set()),
    ],
)
def test_every_template_that_the_run_asks_with_is_shown(
    tmp_path: Path, words: tuple[str, ...], steps: set[str]
) -> None:
    found = shown(planned(tmp_path, *words))
    assert set(found) == steps
    assert {f"{name}.j2" for name in found} <= set(templates(PROMPTS))
    assert all("[user]" in part for part in found.values())


def test_what_stands_in_them_is_what_will_be_asked(tmp_path: Path) -> None:
    run = planned(tmp_path, *(f"committee.{name}.persona='Be {name}.'" for name in ("ada", "ben", "cyd", "dee", "eve")))
    found = shown(run)
    assert "Name a bird." in found["describe"] and found["describe"].startswith("round 0 (describe), generator")
    assert "round 1, adjudicator" in found["adjudicate"] and "Reviewer 3: " in found["adjudicate"]
    for part in found.values():
        member = part.split(".j2, for ")[1].split(" (")[0]
        assert re.findall(r"^Be (\w+)\.", part, re.MULTILINE) == [member]
    assert found == shown(run), "the same each time"

"""A rubric of the user's own: other names, frozen, asked, counted, released, and decided again."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from gra_hpc.config import presets
from gra_hpc.config.settings import MethodConfig
from gra_hpc.errors import ConfigError, FingerprintError
from gra_hpc.flows import own_templates
from gra_hpc.flows.criteria import rubric_of
from gra_hpc.flows.gra.questions import PROMPTS
from gra_hpc.flows.gra.standing import GOLD
from gra_hpc.flows.registry import find
from gra_hpc.flows.render import render, wording
from gra_hpc.judging import audit
from gra_hpc.judging.again import decide
from gra_hpc.judging.sweep import sweep
from gra_hpc.records import PAPER, Rubric
from gra_hpc.release.inputs import Inputs
from gra_hpc.release.report.measures import choose_shards, distributions
from gra_hpc.release.verify.verify import verify
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json
from gra_hpc.views import roles
from gra_hpc.views.plan import preview
from gra_hpc.views.prompts import rendered
from gra_hpc.views.sample import find_sample, history
from tests.flows.test_gold import done, gold_file
from tests.run.test_plan import make

OWN = ("safety", "style", "factuality")
"""Not in the order of the alphabet: that of the user is kept."""
WORDS = (
    "method.criteria.safety=nobody comes to harm by it",
    "method.criteria.style=plain words; short sentences",
    "method.criteria.factuality=every claim can be looked up",
    "method.instruction_criteria.feasible=an assistant can do it",
    "method.instruction_criteria.clarity=",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of two rounds, made and released."""
    path = tmp_path_factory.mktemp("criteria")
    made = make(
        path,
        *WORDS,
        "method.policy=performance",
        "method.rounds=2",
        "method.samples_per_seed=8",
        "launch.shards=2",
        f"method.gold={gold_file(path / 'gold.jsonl')}",
        "method.gold_rate=0.25",
    )
    return done(made)


def samples(run: Run) -> list[dict[str, Any]]:
    files = sorted(run.path.glob("rounds/0[1-9]/shards/*/samples-*.parquet"))
    return [row for f in files for row in pq.read_table(f).to_pylist()]


def test_samples_have_the_scores_of_the_rubric_and_are_decided_by_them(run: Run) -> None:
    found = samples(run)
    assert run.plan.rubric == rubric_of(run.config.method) == Rubric(OWN, ("feasible", "clarity"))
    for row in found:
        for review in row["instruction_reviews"]:
            assert list(review) == ["member", "comment", "feasible", "clarity"]
        for review in (*row["reviews"], *([row["verdict"]] if row["verdict"] else [])):
            assert list(review) == ["member", "comment", *OWN] and all(1 <= review[c] <= 10 for c in OWN)
        if row["mean"] is not None:
            means = [sum(r[c] for c in OWN) / 3 for r in row["reviews"]]
            assert row["mean"] == pytest.approx(sum(means) / len(means))
        if row["verdict"]:
            assert row["score"] == pytest.approx(sum(row["verdict"][c] for c in OWN) / 3)
    assert any(row["verdict"] for row in found) and len({row["status"] for row in found}) > 1
    reasons = {row["reason"] for row in found if row["stage"] == "instruction_review"}
    assert {"zero for feasible", "zero for clarity"} & reasons


def test_a_plan_lists_ones_own_domains_and_criteria_and_an_empty_map_takes_a_presets_away(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("include: [demo]\nmethod: {criteria: {safety: x, style: y}, domains: {law: statutes, other: ''}}\n")

    def said(*words: str) -> list[str]:
        return list(find("synthesize").views.plan(presets.compose(str(mine), words)))

    assert "domains      law, other" in said()
    one_and_two = "method.criteria={one: x, two: y}"
    assert "criteria     safety, style, one, two" in said(one_and_two)
    assert "criteria     one, two" in said("method.criteria={}", one_and_two)
    with pytest.raises(ConfigError, match=r"2 to 12 .*method.criteria=\{\} before them takes away the preset's"):
        said("method.criteria={}", "method.criteria={one: x}")


def test_prompts_ask_for_the_rubric_and_for_nothing_else(run: Run) -> None:
    said = "\n".join(rendered(run))
    assert '- "safety": nobody comes to harm by it;\n- "style": plain words; short sentences;\n- "factuality": ' in said
    assert '"safety": 7, "style": 9, "factuality": 6}' in said
    assert "on safety, style and factuality." in said and "Reviewer 1: safety " in said
    assert '- "feasible": an assistant can do it;\n- "clarity": it says plainly what is wanted.' in said
    assert '"feasible": 1, "clarity": 1}' in said
    assert not re.search("correctness|ethicality|coherence|relevance|reasonableness", said)
    assert "criteria     safety, style, factuality" in "\n".join(preview(run, None))


def test_standings_count_gold_by_the_rubric(run: Run) -> None:
    counts = roles.standings(run)[2]["counts"]
    assert sum(n for by in counts[GOLD].values() for _, n in by.values()) > 0
    assert sum(n for by in counts["reviewer"].values() for _, n in by.values()) > 0
    by_row = Counter(row["reviews"][0]["member"] for row in samples(run) if row["reviews"])
    assert set(by_row) <= set(run.config.committee)
    assert any(line.startswith("gold") for line in roles.lines(run))


def test_a_release_has_the_rubric_everywhere(run: Run) -> None:
    assert verify(run.release) == []
    kinds = {pq.read_schema(f).field("reviews").type.value_type for f in run.release.glob("*/*-*.parquet")}
    assert [[f.name for f in kind] for kind in kinds] == [["member", "model", "comment", *OWN]]
    card, report = (run.release / "README.md").read_text(), (run.release / "report.html").read_text()
    assert "for safety (nobody comes to harm by it), style (plain words; short sentences), factuality (" in card
    assert "feasible (an assistant can do it), clarity: one zero" in card
    assert not re.search("correctness|ethicality|coherence", card + report)
    assert all(f'<th style="text-align:center">{c}</th>' in report for c in OWN)
    inputs = Inputs.of_run(run)
    d = distributions(inputs, choose_shards([t for r in inputs.rounds for t in r.tables()]))
    assert set(d.agreement) == set(OWN) and d.mean_agreement.alpha("interval") is not None
    assert d.bias.scales == (*OWN, "mean")
    for m in d.members.values():
        given = [r for row in samples(run) for r in row["reviews"] if r["member"] == m.name]
        assert m.criteria == [sum(r[c] for r in given) for c in OWN] and sum(m.given) == len(given)


def test_a_release_with_other_columns_is_no_release_of_it(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "release"
    for file in run.release.rglob("*"):
        if file.is_file():
            (copy / file.relative_to(run.release)).parent.mkdir(parents=True, exist_ok=True)
            (copy / file.relative_to(run.release)).write_bytes(file.read_bytes())
    facts = read_json(copy / "manifest.json")
    facts["frozen"]["rubric"]["response"].reverse()
    (copy / "manifest.json").write_text(json.dumps(facts))
    assert any("other columns" in problem for problem in verify(copy))


def test_samples_are_shown_with_the_scores_of_the_rubric(run: Run) -> None:
    row, _, calls = find_sample(run, status="accepted")
    assert re.search(r"review by \w+: safety \d+, style \d+, factuality \d+  ", "\n".join(history(row, calls)))


def test_a_run_with_a_rubric_is_decided_again_and_audited(run: Run, tmp_path: Path) -> None:
    accepted = {line.accept_mean: line.accepted for line in sweep(run, [])}
    for bound, n in accepted.items():
        means = [
            [sum(r[c] for c in OWN) / 3 for r in row["reviews"]] for row in samples(run) if row["mean"] is not None
        ]
        assert n <= sum(sum(m) / len(m) >= bound - 1e-9 for m in means)
    assert len(set(accepted.values())) > 1
    again = decide(run, ["accept_mean=6"], tmp_path / "again")
    assert verify(again.release) == [] and again.plan.rubric.response == OWN
    for row in samples(again):
        if row["mean"] is not None and row["mean"] < 6:
            assert row["status"] == "rejected"
    drawn = audit.draw(run, 10)
    assert len(drawn.ids) == 10 and audit.page(run, drawn)


def test_names_meanings_and_order_are_frozen(tmp_path: Path) -> None:
    run = make(tmp_path, *WORDS)
    assert run.plan.frozen["method"]["criteria"]["safety"] == "nobody comes to harm by it"
    assert run.plan.frozen["rubric"] == {"response": list(OWN), "instruction": ["feasible", "clarity"]}
    Run.open(run.path)
    for words in (
        (WORDS[1], WORDS[0], *WORDS[2:]),
        WORDS[:3],
        (*WORDS[:2], "method.criteria.factuality=true", *WORDS[3:]),
    ):
        with pytest.raises(FingerprintError, match=r"criteria|rubric"):
            make(tmp_path, *words)


def test_a_rubric_left_out_is_the_papers_and_not_frozen(tmp_path: Path) -> None:
    frozen = make(tmp_path).plan.frozen
    assert "rubric" not in frozen and not {"criteria", "instruction_criteria"} & set(frozen["method"])
    assert rubric_of(MethodConfig()) == PAPER == Rubric.of({}) and wording(MethodConfig()) == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method.criteria.safety=x"], "2 to 12"),
        ([f"method.criteria.c{i}=x" for i in range(13)], "2 to 12"),
        (["method.criteria.safety=x", "method.criteria.style="], "method.criteria.style"),
        (["method.criteria.safety=x", "method.criteria.Style=y"], "small letters"),
        (["method.criteria.safety=x", "method.criteria.1st=y"], "small letters"),
        (["method.criteria.safety=x", f"method.criteria.{25 * 'a'}=y"], "at most 24"),
        (["method.criteria.safety=x", "method.criteria.member=y"], "none of member"),
        (["method.criteria.safety=x", "method.criteria.comment=y"], "none of member"),
        (["method.criteria.safety=x", "method.criteria.mean=y"], "none of member"),
        (["method.instruction_criteria.scores=x"], "none of member"),
        (["method.instruction_criteria.relevance="], "method.instruction_criteria.relevance"),
        ([f"method.instruction_criteria.c{i}=x" for i in range(13)], "1 to 12"),
    ],
)
def test_a_rubric_that_cannot_be_asked_for_is_refused(tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        make(tmp_path, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("step", "text", "names"),
    [
        ("review_instruction", "{{ instruction }}", ("feasible", "clarity")),
        ("review_response", "{{ instruction }} {{ response }}", OWN),
        ("adjudicate", "{{ instruction }} {{ response }} {{ reviews | length }}", OWN),
    ],
)
def test_a_template_names_all_that_it_asks_scores_for(
    tmp_path: Path, step: str, text: str, names: tuple[str, ...]
) -> None:
    method = MethodConfig(criteria=dict.fromkeys(OWN, "x"), instruction_criteria={"feasible": "x", "clarity": "x"})
    flow, file = find("synthesize"), tmp_path / f"{step}.j2"
    file.write_text(f'{{{{ turn("user") }}}}{text} {", ".join(names)}')
    assert own_templates.read(str(tmp_path), flow, wording(method))
    with pytest.raises(ConfigError, match=f"{step}.j2: does not name the criterion "):
        own_templates.read(str(tmp_path), flow)  # of the paper's
    file.write_text(f'{{{{ turn("user") }}}}{text} {", ".join(names[:-1])}, un{names[-1]}')
    with pytest.raises(ConfigError, match=f"does not name the criterion {names[-1]}"):
        own_templates.read(str(tmp_path), flow, wording(method))


def test_a_template_may_pick_single_scores_of_the_rubric_and_no_others(tmp_path: Path) -> None:
    said, flow = wording(MethodConfig(criteria=dict.fromkeys(OWN, "x"))), find("synthesize")
    text = '{{ turn("user") }}{{ instruction }} {{ response }} {{ reviews[0].scores.%s }} {{ criteria | join(", ") }}'
    (tmp_path / "adjudicate.j2").write_text(text % "style")
    assert own_templates.read(str(tmp_path), flow, said)
    with pytest.raises(ConfigError, match="cannot be rendered"):
        own_templates.read(str(tmp_path), flow)
    (tmp_path / "adjudicate.j2").write_text(text % "correctness")
    with pytest.raises(ConfigError, match="cannot be rendered"):
        own_templates.read(str(tmp_path), flow, said)


@pytest.mark.parametrize("own", [False, True])
def test_another_language_is_asked_for_beside_any_rubric(own: bool) -> None:
    method = MethodConfig(criteria=dict.fromkeys(OWN, "x"), instruction_criteria={"feasible": "x"})
    given = (wording(method) if own else {}) | {"language": "German"}
    task, response = (
        render(step, find("synthesize").trial(step) | given, PROMPTS)[0]["content"]
        for step in ("review_instruction", "review_response")
    )
    if own:
        assert task.endswith('- "feasible": x.\nThe task should be in German: give 0 where it is not.')
        assert "It should be in German, unless the instruction asks for another language.\nScale" in response
    else:
        assert task.endswith('- "clarity": it says plainly what is wanted, in German.')
        assert "unless the instruction asks for another language: else it is not relevant.\nScale" in response

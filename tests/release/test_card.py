"""The card says what the manifest says, and says it plainly where the data deserve no trust."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from gra_hpc.release.card import first_row, main_languages, metadata, render
from gra_hpc.release.limits import limits, millions
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json


@pytest.fixture
def facts(built: Run) -> dict[str, Any]:
    return copy.deepcopy(read_json(built.release / "manifest.json"))


def test_the_card_follows_from_manifest_and_data(built: Run, facts: dict[str, Any]) -> None:
    assert (built.release / "README.md").read_text() == render(facts, first_row(built.release))


def test_the_header_names_the_languages_of_a_tenth_of_the_rows() -> None:
    assert main_languages({"German": 90, "Japanese": 10, "English": 9, "": 0}) == ["de"]
    assert main_languages({"Japanese": 1, "": 9}) == ["ja"] and main_languages({}) == main_languages({"": 3}) == []


def test_the_hub_can_read_its_header(built: Run, facts: dict[str, Any]) -> None:
    from huggingface_hub import DatasetCard

    header = DatasetCard((built.release / "README.md").read_text()).data.to_dict()
    assert header == metadata(facts)
    assert header["license"] == "cc0-1.0" and header["size_categories"] == ["n<1K"]
    assert header.get("language", []) == main_languages(facts["languages"]["rows"] or {})
    assert [c["config_name"] for c in header["configs"]] == ["default", "rejects"]


def test_ledger_funnel_benchmarks_and_commands_are_there(facts: dict[str, Any]) -> None:
    text = render(facts, None)
    assert Ledger.from_dict(facts["ledger"]).line() in text
    for row in facts["funnel"]:
        assert f"`{row['stage']}`" in text
    removed = facts["dropped"]["contaminated"]
    assert removed and re.search(rf"bench\.txt \| sha256 [0-9a-f]{{16}} \| 1 \| {removed} \|", text)
    assert "gra plan runs/two-rounds-again --preset RELEASE/run.yaml" in text and facts["fingerprint"] in text
    assert "2504.12322" in text and "A sample" not in text
    assert "You are \\| strict." in text, "a bar in a text does not break a table"


def test_an_approximate_semantic_step_is_stated(facts: dict[str, Any]) -> None:
    """Also where its recall could not be measured."""
    assert "approximate" not in render(facts, None)
    step = {"method": "clusters", "recall": 0.9951, "recall_pairs": 1234, "recall_low": 0.9712, "sampled": 9000}
    facts["rounds"][0]["steps"]["semantic"] = step
    said = "Round 1: the semantic step was approximate, measured recall 0.9951 (1,234 pairs, 95% interval from 0.9712)."
    assert said in render(facts, None)
    step |= {"recall": None, "recall_pairs": 1, "recall_low": None}
    said = "semantic step was approximate, its recall not measurable: 1 such pair of 9,000 sampled rows."
    assert said in render(facts, None)


def test_pending_candidates_are_not_said_to_be_in_the_rejects(facts: dict[str, Any]) -> None:
    assert "Every sample that is not in the data is in `rejects/`" in render(facts, None)
    facts["ledger"]["planned"] += 1200
    facts["ledger"]["pending"] = 1200
    text = render(facts, None)
    assert "Every sample that is not in the data" not in text and "every sample that is not" not in text
    assert "1,200 candidates are pending" in text
    assert any("pending" in x for x in limits(facts))


def test_files_of_benchmarks_that_were_not_read_are_named(facts: dict[str, Any]) -> None:
    assert "could not be read" not in render(facts, None)
    for r in facts["rounds"]:
        r["steps"]["decontamination"]["sources"][0]["unread"] = [f"data/{i}.zip" for i in range(22)]
    assert "**not** compared: data/0.zip, data/1.zip" in render(facts, None)
    assert "data/19.zip and 2 more (`manifest.json` names them)." in render(facts, None)


def test_without_benchmarks_it_says_none(facts: dict[str, Any]) -> None:
    facts["config"]["merge"]["decontamination"]["sources"] = []
    assert "None: the rows were not compared with any benchmark." in render(facts, None)
    assert any("any benchmark" in x for x in limits(facts))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"simulated": True}, "The answers are simulated"),
        ({"accept_mean": 5.0}, "`accept_mean` 5 (paper: 8)"),
        ({"accept_sd": 2.0}, "`accept_sd` 2 (paper: 1.5)"),
        ({"adjudicate_mean": 6.5}, "`adjudicate_mean` 6.5 (paper: 8)"),
        ({"review_response": False}, "not reviewed"),
        ({"settle": "majority"}, "their majority decided"),
        ({"parameters": 134_515_008}, "ant (135M)"),
        ({"parameters": None}, "How large some models are is not known**: ant."),
        ({"target": 1000}, "short of the target"),
        ({"one_model": True}, "All seats of the committee are one model"),
    ],
)
def test_limits_are_stated(facts: dict[str, Any], change: dict[str, Any], said: str) -> None:
    for key, value in change.items():
        if key == "parameters":
            facts["models"]["ant"]["parameters"] = value
        elif key == "target":
            facts["rounds"][0]["target"] = value
        elif key == "one_model":
            for member in facts["config"]["committee"].values():
                member["model"] = "ant"
        elif key in facts["config"]["method"]:
            facts["config"]["method"][key] = value
        else:
            facts[key] = value
    assert any(said in x for x in limits(facts)), limits(facts)
    assert said in render(facts, None)


def test_the_papers_settings_with_large_models_need_no_such_warning(facts: dict[str, Any]) -> None:
    for m in facts["models"].values():
        m["parameters"] = 8_030_000_000
    text = " ".join(limits(facts))
    assert "looser" not in text and "billion" not in text and "simulated" not in text
    stricter = facts["config"]["method"] | {"accept_mean": 9.0, "accept_sd": 1.0}
    facts["config"]["method"] = stricter
    assert "looser" not in " ".join(limits(facts))


def test_other_licences_go_by_name(facts: dict[str, Any]) -> None:
    facts["config"]["release"]["licence"] = "My Terms"
    assert metadata(facts)["license"] == "other" and metadata(facts)["license_name"] == "My Terms"
    facts["config"]["release"]["licence"] = "other"
    assert "license_name" not in metadata(facts)


def test_refine_is_described_as_what_it_is(facts: dict[str, Any]) -> None:
    facts["config"]["method"]["flow"] = "refine"
    text = render(facts, None)
    assert "rewrites the response" in text and "new keywords" not in text


@pytest.mark.parametrize(
    ("method", "members", "count"),
    [
        ({"policy": "random", "reviewers": 3}, 5, 3),
        ({"policy": "random", "reviewers": 3}, 3, 2),
        ({"policy": "random", "reviewers": 3}, 1, 1),
        ({"policy": "single", "reviewers": 3}, 1, 3),
        ({"policy": "fixed", "reviewers": 3, "fixed": {"reviewers": ["a", "b"]}}, 5, 2),
    ],
)
def test_the_card_counts_the_reviewers_that_there_were(
    facts: dict[str, Any], method: dict[str, Any], members: int, count: int
) -> None:
    facts["config"]["method"] |= method
    (one, *_) = facts["config"]["committee"].values()
    facts["config"]["committee"] = {str(i): one for i in range(members)}
    assert f"| reviewers | {count} | 3 |" in render(facts, None)


@pytest.mark.parametrize(("n", "text"), [(None, "unknown"), (134_515_008, "135M"), (8.03e9, "8.0B")])
def test_sizes(n: int | None, text: str) -> None:
    assert millions(n) == text

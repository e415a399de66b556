"""What a plan says that its owner may not mean; what is ignored is counted."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from gra_hpc.config.presets import compose
from gra_hpc.config.settings import MemberConfig, MethodConfig, Policy, RunConfig
from gra_hpc.config.site import Executor
from gra_hpc.flows.registry import GRA_SETTINGS
from gra_hpc.run.run import Run
from gra_hpc.sources.seeds import load
from gra_hpc.views.notes import notes
from gra_hpc.views.plan import preview
from tools.faults.faults import make_run

TWO = {"a": MemberConfig("big"), "b": MemberConfig("small")}
THREE = TWO | {"c": MemberConfig("big")}
FIVE = THREE | {"d": MemberConfig("small"), "e": MemberConfig("big")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Run:
    return make_run(tmp_path_factory.mktemp("notes") / "run", 4, ["launch.shards=2"])


def said(run: Run, config: RunConfig, candidates: int = 4, **plan: int) -> str:
    return "\n".join(notes(config, replace(run.plan, **plan), candidates))


def seated(committee: dict[str, MemberConfig], **method: object) -> RunConfig:
    config = RunConfig()
    config.committee = dict(committee)
    for key, value in method.items():
        setattr(config.method, key, value)
    return config


@pytest.mark.parametrize(
    ("config", "note"),
    [
        (seated(TWO), "one Reviewer a sample: the deviation is always 0, and nothing is adjudicated"),
        (seated(FIVE, reviewers=1), "one Reviewer a sample"),
        (seated(THREE), "3 members: 2 Reviewers a sample in place of 3\nno member is left to adjudicate"),
        (seated(FIVE, policy=Policy.single), "one member has every seat"),
        (seated({"a": MemberConfig("big")}), "one member has every seat"),
        (seated(dict.fromkeys("abcde", MemberConfig("big"))), "one model (big) has every seat"),
    ],
)
def test_committees_that_cannot_disagree(run: Run, config: RunConfig, note: str) -> None:
    assert said(run, config).startswith(note)


def test_a_plain_committee_says_nothing(run: Run) -> None:
    assert said(run, seated(FIVE)) == ""


def test_settings_that_the_flow_has_no_use_for_are_named(run: Run) -> None:
    """Those of GRA alone, where they are others than the usual ones: a number of tries is every flow's."""
    config = compose("annotate", ["method.accept_mean=6", "method.settle=majority", "method.reviewers=2"])
    assert said(run, config).splitlines()[-1] == (
        "method.flow=annotate does not read method.reviewers, method.accept_mean, which are set"
    )
    assert set(GRA_SETTINGS) <= {f.name for f in fields(MethodConfig)}
    assert "does not read" not in said(run, seated(FIVE, accept_mean=6.0, examples_max=3))


def test_seeds_without_response_and_seeds_that_no_round_needs(run: Run) -> None:
    text = said(run, seated(FIVE), candidates=3, seed_unanswered=2, undescribed=4)
    assert "2 of 4 seeds have no response" in text
    assert "1 of 4 seeds are in no round" in text and "round 0 describes them all" in text
    assert "in no round" not in said(run, seated(FIVE, rounds=2), candidates=3)


@pytest.mark.parametrize("line", ["conda activate gra", "source /opt/venv/bin/activate", "micromamba activate x"])
def test_an_environment_that_the_jobs_do_not_use(run: Run, line: str) -> None:
    config = seated(FIVE)
    config.site.executor, config.site.setup = Executor.slurm, [line]
    assert "chooses no Python" in said(run, config)
    config.site.python = "/opt/python"
    assert said(run, config) == ""
    config.site.python, config.site.setup = "", ["export A=1", "source /opt/env.sh"]
    assert said(run, config) == ""


def test_domains_that_are_none_are_counted_and_named(tmp_path: Path) -> None:
    rows = [{"instruction": f"Ask {i}.", "response": "Yes.", "domain": d} for i, d in
            enumerate(["history", "history", "cooking", "coding", "", "Role Play", "law", "tides"])]  # fmt: skip
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    config = RunConfig().seeds
    config.path = str(tmp_path / "seeds.jsonl")
    assert load(config).aside == {"domains that are none of the method's (history, cooking, law, ...)": 5}


def test_the_plan_shows_them(run: Run) -> None:
    config = compose(str(run.path.with_name("run.preset.yaml")), [])
    config.committee = dict(list(config.committee.items())[:2])
    text = "\n".join(preview(Run(run.path, run.plan, lambda: config), None))
    assert "note         one Reviewer a sample" in text


def test_unknown_languages_are_said_with_what_follows(run: Run) -> None:
    for language, said in (("auto", True), ("any", False), ("German", False)):
        config = compose(str(run.path.with_name("run.preset.yaml")), [f"method.language={language}"])
        plan = replace(run.plan, seed_languages={}, language="")
        text = "\n".join(preview(Run(run.path, plan, lambda c=config: c), None))  # type: ignore[misc]
        assert ("no prompt asks for the seeds' own language" in text and "method.language=German" in text) == said


def test_samples_per_seed_beside_a_target_is_not_read_and_said_so(run: Run) -> None:
    assert "method.samples_per_seed=5 is not read" in said(run, seated(FIVE, samples_per_seed=5, target_accepted=40))
    assert said(run, seated(FIVE, samples_per_seed=5)) == said(run, seated(FIVE, target_accepted=40)) == ""


def test_what_lies_beyond_a_target_is_said_beforehand(tmp_path: Path, tiny_llama: Path) -> None:
    words = ["launch.shards=2", "method.target_accepted=40", "method.rounds=2"]
    lines = list(preview(make_run(tmp_path / "run", 4, words), None))
    (line,) = (x for x in lines if x.startswith("target"))
    assert line.startswith("target       40 rows a round, 80 in all, at an acceptance of 30%; 27% more candidates are")
    assert "surplus" in line

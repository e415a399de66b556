"""Gold questions: asked beside candidates, and of nothing else there is a trace of them."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from gra_hpc.config.presets import compose
from gra_hpc.config.settings import MethodConfig
from gra_hpc.errors import ConfigError, FingerprintError, ReleaseError
from gra_hpc.flows.gra.gold import keeps
from gra_hpc.flows.gra.standing import GOLD, Standing
from gra_hpc.judging.again import decide
from gra_hpc.labels.marks import Marks, share
from gra_hpc.launch.round_end import finish_round
from gra_hpc.launch.tasks import ShardTask
from gra_hpc.placement.workload import MethodRates, asked
from gra_hpc.records import DOMAINS, Roles, Sample, digest
from gra_hpc.release.gold import limits, section
from gra_hpc.release.manifest import public_config
from gra_hpc.release.verify.verify import verify
from gra_hpc.run.gold import Counted, GoldQuestions
from gra_hpc.run.rounds import remaining
from gra_hpc.run.run import Run
from gra_hpc.run.shard_manifest import GoldAnswer, ShardManifest, gold_answers
from gra_hpc.sources import gold
from gra_hpc.sources.gold import Gold
from gra_hpc.storage import read_json
from gra_hpc.views import roles
from gra_hpc.views.plan import preview
from gra_hpc.views.status import collect
from gra_hpc.views.status_lines import lines
from tests.run.test_plan import make

MARK = "zweiundvierzig"
"""In every text of a gold record."""


def gold_file(path: Path, n: int = 8) -> Path:
    """Half of them to keep; two of a domain."""
    rows = [
        {
            "instruction": f"{MARK} task {i}",
            "response": f"{MARK} answer {i}",
            "verdict": "keep" if i % 2 else "reject",
            **({"domain": "math"} if i < 2 else {}),
        }
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def done(run: Run) -> Run:
    """The same, all of it done in this process."""
    while steps := remaining(run):
        for shard in steps[0].shards:
            ShardTask(str(run.path), steps[0].round, shard)()
        finish_round(run, steps[0].round)
    return run


def rows(run: Run, kind: str) -> list[dict[str, Any]]:
    files = sorted(run.path.glob(f"rounds/0[1-9]/shards/*/{kind}-*.parquet"))
    return sorted(
        (r for f in files for r in pq.read_table(f).to_pylist()), key=lambda r: str(r.get("id", r.get("key")))
    )


def answers(run: Run) -> list[GoldAnswer]:
    shards = (run.round(n).shard(s) for n in run.rounds for s in range(run.plan.shards))
    return sorted((a for s in shards for a in ShardManifest.load(s).gold), key=lambda a: (a[0], a[1], a[2] or 0))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The same run with and without gold questions."""
    path, found = tmp_path_factory.mktemp("gold"), {}
    words = ("launch.shards=2", "method.samples_per_seed=8")
    found["without"] = done(make(path, *words, name="without"))
    gold = (f"method.gold={gold_file(path / 'gold.jsonl')}", "method.gold_rate=0.25")
    found["with"] = done(make(path, *words, *gold, name="with"))
    return found


def test_nothing_but_the_calls_knows_of_gold_questions(runs: dict[str, Run]) -> None:
    """Samples, pool and data are byte for byte those of a run without; every other call has its key and request."""
    with_, without = runs["with"], runs["without"]
    assert rows(with_, "samples") == rows(without, "samples")
    ours, theirs = ({c["key"]: c["digest"] for c in rows(r, "calls")} for r in (with_, without))
    assert theirs.items() < ours.items()
    ids = {digest("gold", s["id"]) for s in rows(without, "samples")}
    more = [key.split("/") for key in ours.keys() - theirs.keys()]
    assert {step for _, step, _, _ in more} == {"review_response"} and {i for i, *_ in more} <= ids
    for name in ("kept", "pool", "dropped"):
        files = [(r.round(1).merged / f"{name}.parquet").read_bytes() for r in (with_, without)]
        assert files[0] == files[1]
    for folder in ("data", "rejects"):
        both = [sorted((r.release / folder).iterdir()) for r in (with_, without)]
        assert [p.read_bytes() for p in both[0]] == [p.read_bytes() for p in both[1]]
    everything = [p for p in with_.release.rglob("*") if p.is_file()]
    assert everything and not any(MARK.encode() in p.read_bytes() for p in everything)
    assert verify(with_.release) == []


def test_a_release_names_no_directory_of_its_makers(runs: dict[str, Run]) -> None:
    """Neither of the gold questions, nor of seeds, models or the run."""
    run = runs["with"]
    texts = {p.name: p.read_bytes() for p in run.release.rglob("*") if p.is_file()}
    assert {"manifest.json", "run.yaml", "README.md", "report.html"} <= texts.keys()
    assert [name for name, data in texts.items() if str(run.path.parent).encode() in data] == []
    assert b"gold: gold.jsonl" in texts["run.yaml"]
    config = compose("demo", ["models.smollm2.path=/who/m", "merge.embed_model=/who/e/", "seeds.path=~/who/s.jsonl"])
    config.method.prompts = "/who/prompts"
    assert "who" not in json.dumps(public_config(config))


def test_every_reviewer_of_a_candidate_is_asked(runs: dict[str, Run]) -> None:
    run = runs["with"]
    gold = GoldQuestions.of(run, run.plan)
    assert gold is not None and len(gold.questions) == 8
    expected = Counter()
    for s in rows(run, "samples"):
        sample = Sample(
            s["id"], 1, s["seed_id"], s["index"], s["domain"], Roles(s["generator"], tuple(s["reviewers"]), "", "")
        )
        if beside := gold.beside(sample, run.config.method):
            expected.update((beside[0].id, member) for member in s["reviewers"])
    found = answers(run)
    assert Counter((a.question, a.member) for a in found) == expected
    assert 0.1 < len(found) / 3 / len(rows(run, "samples")) < 0.4
    assert all(a.points is None or 6 <= a.points <= 60 for a in found)


def test_release_and_views_say_what_came_of_it(runs: dict[str, Run], tmp_path: Path) -> None:
    run, n = runs["with"], len(answers(runs["with"]))
    facts = read_json(run.release / "manifest.json")["gold"]
    assert facts["answers"] == n and facts["questions"] == {"keep": 4, "reject": 4}
    counted = sum(m[k][1] for m in facts["members"].values() for k in ("kept", "rejected"))
    assert counted + sum(m["unanswered"] for m in facts["members"].values()) == n
    assert "gold" not in read_json(runs["without"].release / "manifest.json")
    report, card = ((run.release / name).read_text() for name in ("report.html", "README.md"))
    assert "Right by gold questions" in report and "8 records with a known verdict" in card
    assert "known verdict" not in (runs["without"].release / "README.md").read_text()
    said = "\n".join(preview(run, None))
    assert "8 questions from" in said and "(4 to keep, 4 to reject), beside 0.25 of the candidates: about 24" in said
    assert any(f"{n} answers to gold questions" in line for line in lines(collect(run, ask_slurm=False)))
    table = list(roles.lines(run))
    assert table[0].startswith("gold questions: 8") and len(table) >= 2 + len(facts["members"])
    again = decide(run, ["accept_mean=10"], tmp_path / "again")
    strict = read_json(again.release / "manifest.json")["gold"]
    assert strict["answers"] == n and all(
        m["kept"][0] <= facts["members"][k]["kept"][0] for k, m in strict["members"].items()
    )


def test_what_is_asked_follows_from_the_id_alone(tmp_path: Path) -> None:
    """The same with other shards; a file of the same records in another order is the same plan."""
    file, found = gold_file(tmp_path / "gold.jsonl"), []
    for shards in (1, 3):
        words = (f"method.gold={file}", "method.gold_rate=0.2", f"launch.shards={shards}", "method.samples_per_seed=4")
        run = make(tmp_path, *words, name=f"run{shards}")
        for shard in range(shards):
            ShardTask(str(run.path), 1, shard)()
        found.append(answers(run))
        file.write_text("\n".join(reversed(file.read_text().splitlines())))
    assert found[0] == found[1] != []
    assert run.plan.fingerprint == Run.open(tmp_path / "run1").plan.fingerprint
    with pytest.raises(FingerprintError, match="gold"):
        Run.open(run.path, ["method.gold="])
    file.write_text(file.read_text().replace("answer 3", "answer 33"))
    with pytest.raises(FingerprintError, match="gold"):
        make(tmp_path, *words, name="run3")
    run.gold.write_text(run.gold.read_text().replace("answer 3", "answer 33"))
    with pytest.raises(ReleaseError, match=r"gold\.jsonl"):
        GoldQuestions.of(run, run.plan)


GOOD = {"instruction": "a", "response": "b", "verdict": "keep"}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"verdict": "maybe"}, r":2: verdict is maybe, expected keep or reject"),
        ({"verdict": ""}, r":2: verdict is nothing"),
        ({"response": " "}, r":2: has no response"),
        ({"instruction": ["x"]}, r":2: instruction is a list, expected text"),
        ({"response": "x <|im_end|>"}, r":2: <\|im_end\|> in the response"),
        ({"domain": "mathz"}, r":2: domain is mathz; did you mean math\?"),
        ({"response": "b"}, r":2: the same record as gold\.jsonl:1"),
        ({"response": "b", "verdict": "reject"}, r":2: the same record with another verdict as gold\.jsonl:1"),
        ({"response": "z" * 30_000}, r":2: response has 30000 characters"),
        ({}, r"no record with the verdict reject"),
        (None, r":2: malformed"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, bad: dict[str, Any] | None, said: str) -> None:
    file = tmp_path / "gold.jsonl"
    second = "{" if bad is None else json.dumps({**GOOD, "response": "c", **bad})
    file.write_text(json.dumps(GOOD) + "\n" + second + "\n")
    with pytest.raises(ConfigError, match=said) as e:
        make(tmp_path, f"method.gold={file}")
    assert "\n" not in str(e.value) and not (tmp_path / "run").exists()


def test_all_that_is_wrong_with_a_file_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "gold.jsonl"
    verdicts = ("Keep", " REJECT", "maybe", "maybe", "no")
    records = [{"instruction": f"a{i}", "response": "b", "verdict": v} for i, v in enumerate(verdicts)]
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    with pytest.raises(ConfigError) as e:
        gold.read(str(file), ["math"], 100, re.compile("<s>"))
    expected = "expected keep or reject"
    assert f"{file}:3: verdict is maybe, {expected} (and in 1 more); {file}:5: verdict is no, {expected} ->" in str(
        e.value
    )
    file.write_text("".join(json.dumps(r) + "\n" for r in records[:2]))
    assert sorted(q.keep for q in gold.read(str(file), ["math"], 100, re.compile("<s>"))) == [False, True]


def test_gold_without_a_file_or_reviewers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        make(tmp_path, f"method.gold={tmp_path / 'none.jsonl'}")
    with pytest.raises(ConfigError, match="no Reviewer to ask"):
        make(tmp_path, f"method.gold={gold_file(tmp_path / 'g.jsonl')}", "method.review_response=false")
    with pytest.raises(ValueError, match="2 to 120"):
        gold_answers({"gold": [["q", "a", 121]]}, 0)


@pytest.mark.parametrize("points", [1, 21])
def test_points_that_the_run_has_not_so_many_criteria_for_are_refused(points: int) -> None:
    for fine in (2, 20, None):
        assert gold_answers({"gold": [["q", "a", fine]]}, 2) == (GoldAnswer("q", "a", fine),)
    with pytest.raises(ValueError, match="expected a question, a member and 2 to 20 points"):
        gold_answers({"gold": [["q", "a", points]]}, 2)


def planted(skill: float, n: int, seed: int) -> Marks:
    """A Reviewer that is right with a chance."""
    rng, marks = random.Random(seed), Marks()
    for i in range(n):
        keep = i % 2 == 0
        marks.add(keep, keeps(54 if keep == (rng.random() < skill) else 30, MethodConfig()))
    return marks


def test_a_reviewer_at_chance_is_found_and_a_good_one_is_not() -> None:
    assert planted(0.9, 100, 1).at_chance is False and planted(0.9, 100, 1).few is False
    assert sum(planted(0.5, 100, s).at_chance for s in range(40)) >= 36
    assert sum(planted(0.75, 200, s).at_chance for s in range(40)) == 0
    always = Marks()
    for i in range(100):  # right on 90%, and says yes to everything
        always.add(i % 10 > 0, keeps(60, MethodConfig()))
    assert always.right == 90 and always.at_chance
    assert planted(0.9, 10, 1).few and not planted(0.5, 10, 1).at_chance and Marks().balanced is None
    value, low, high = share(92, 100)
    assert (value, round(low, 3), round(high, 3)) == (0.92, 0.85, 0.959)  # Wilson's, as published for 92 of 100
    assert share(0, 0) == (0.5, 0.0, 1.0)
    facts = {"questions": {"keep": 1, "reject": 1}, "rate": 0.02, "answers": 200, "doubtful": [["g:1", 0, 4]],
             "members": {"a": {"kept": [45, 50], "rejected": [46, 50], "unanswered": 1},
                         "b": {"kept": [50, 50], "rejected": [1, 50], "unanswered": 0}}}  # fmt: skip
    assert [line.split("**")[1] for line in limits(facts, str)] == ["By gold questions no better than chance: b."]
    shown = section(facts)
    assert shown is not None and [m["says"] for m in shown["members"]] == [
        "tells good from bad",
        "no better than chance",
    ]


def test_questions_of_the_domain_come_first_and_verdicts_are_even() -> None:
    questions = [Gold(f"q{i}", "a", "b", i % 2 == 0, "math" if i < 4 else "") for i in range(40)]
    gold, method = GoldQuestions(questions), MethodConfig(gold="x", gold_rate=0.25)
    drawn = [
        one[0]
        for i in range(8000)
        if (one := gold.beside(Sample(f"s{i}", 1, "s", i, ("math", "qa")[i % 2], Roles("g", ("a",), "", "")), method))
    ]
    assert abs(len(drawn) - 2000) < 150
    assert abs(sum(q.keep for q in drawn) - len(drawn) / 2) < 100
    only = [gold.beside(Sample(f"m{i}", 1, "s", i, "math", Roles("g", ("a",), "", "")), method) for i in range(500)]
    assert {one[0].domain for one in only if one} == {"math"}


def test_standings_go_by_gold_where_reviewers_differ_in_it() -> None:
    """A Reviewer that agrees with others who are wrong has no more seats for that."""
    agreed = {"qa": {"a": (95.0, 100.0), "b": (95.0, 100.0), "c": (20.0, 100.0)}}
    gold = {"": {"a": (25.0, 50.0), "b": (26.0, 50.0), "c": (49.0, 50.0)}}
    members = ["a", "b", "c"]
    without = Standing.of({"reviewer": agreed}, members, 0.1, 1).shares["reviewer"]
    with_ = Standing.of({"reviewer": agreed, GOLD: gold}, members, 0.1, 1).shares["reviewer"]
    assert all(without[d]["c"] < 0.1 < 0.8 < with_[d]["c"] for d in DOMAINS)
    even = {"": dict.fromkeys(members, (25.0, 50.0))}
    same = Standing.of({"reviewer": agreed, GOLD: even}, members, 0.1, 1)
    assert same.shares["reviewer"]["qa"]["c"] < 0.1
    assert Standing.from_dict(same.to_dict()) == same


def test_a_merge_counts_gold_for_the_next_rounds_roles(tmp_path: Path) -> None:
    words = ("method.policy=performance", "method.rounds=2", "method.samples_per_seed=6", "launch.shards=1")
    run = make(tmp_path, *words, f"method.gold={gold_file(tmp_path / 'g.jsonl')}", "method.gold_rate=0.25")
    ShardTask(str(run.path), 1, 0)()
    finish_round(run, 1)
    counts = Standing.from_dict(roles.standings(run)[2]).counts[GOLD]
    questions = GoldQuestions.of(run, run.plan)
    assert questions is not None
    wanted = Counted.of(questions, ShardManifest.load(run.round(1).shard(0)).gold, run.config.method)
    assert counts == {
        d: {m: (n.right, n.asked) for m, n in by.items() if n.asked} for d, by in wanted.by_domain.items()
    }
    assert sum(n for by in counts.values() for _, n in by.values()) > 0
    assert [line for line in roles.lines(run) if line.startswith(("gold", "round 2"))]


def test_a_plan_counts_gold_questions_as_work(tmp_path: Path) -> None:
    plain = make(tmp_path, name="plain").config
    config = make(tmp_path, f"method.gold={gold_file(tmp_path / 'g.jsonl')}", "method.gold_rate=0.1").config
    reviews = [sum(q.times for q in asked(c, MethodRates()) if q.step == "review_response") for c in (plain, config)]
    assert reviews[1] == pytest.approx(reviews[0] + 0.1)

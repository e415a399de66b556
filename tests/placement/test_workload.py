"""Expected calls and tokens by model, role and sample."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from gra_hpc.config.settings import (
    FixedRolesConfig,
    MemberConfig,
    MethodConfig,
    ModelConfig,
    Policy,
    RunConfig,
    SamplingConfig,
    SelfReview,
    Settle,
)
from gra_hpc.errors import ConfigError
from gra_hpc.flows.domains import DOMAIN_NAMES
from gra_hpc.flows.gra.committee import draw_roles
from gra_hpc.flows.gra.load import seats
from gra_hpc.flows.gra.questions import PROMPTS
from gra_hpc.flows.registry import find
from gra_hpc.flows.render import render
from gra_hpc.placement.workload import (
    MethodRates,
    StepSize,
    calls_per_sample,
    embedding_load,
    method_load,
    read_calibration,
    sizes,
    usual_load,
)
from gra_hpc.records import CRITERIA, Record, Review


def config(models: int = 5, **method: Any) -> RunConfig:
    names = "abcdefgh"[:models]
    return RunConfig(
        models={n: ModelConfig(path=n) for n in names},
        committee={n: MemberConfig(model=n) for n in names},
        method=MethodConfig(**method),
    )


def calls(run: RunConfig, rates: MethodRates | None = None) -> dict[str, float]:
    """Calls per sample by role, over all models."""
    total: Counter[str] = Counter()
    for load in method_load(run, rates).values():
        for role, part in load.roles.items():
            total[role] += part.calls
    return dict(total)


def test_thoughts_are_written_before_every_answer_and_bounded() -> None:
    """By the models that think alone; all of their calls take longer, so that more are in flight at once."""
    run = config(models=2)
    plain, loads = method_load(run), method_load(run, thinking=["a"])
    assert loads["b"] == plain["b"]
    for role, work in loads["a"].roles.items():
        assert work.thought_tokens == pytest.approx(700 * work.calls)
        assert work.completion_tokens - work.thought_tokens == pytest.approx(plain["a"].roles[role].completion_tokens)
        assert (work.calls, work.prompt_tokens) == (plain["a"].roles[role].calls, plain["a"].roles[role].prompt_tokens)
    run.method.sampling.thinking_tokens = 100
    run.method.role_sampling["reviewer"] = SamplingConfig(thinking_tokens=50)
    roles = method_load(run, thinking=["a"])["a"].roles
    assert roles["reviewer"].thought_tokens == pytest.approx(50 * roles["reviewer"].calls)
    assert roles["generator"].thought_tokens == pytest.approx(100 * roles["generator"].calls)
    assert (
        calls_per_sample(config(), thinking="abcde")
        > calls_per_sample(config(), thinking="a")
        > calls_per_sample(config())
    )
    measured = MethodRates().calibrated({"steps": {"response": {"thought_tokens": 1500.0}}})
    more = method_load(config(), measured, thinking=["a"])["a"].roles["generator"]
    usual = method_load(config(), thinking=["a"])["a"].roles["generator"]
    assert more.thought_tokens > usual.thought_tokens > 0
    described = method_load(config(), stage="prepare", thinking=["a"])["a"].roles["generator"]
    assert described.thought_tokens == pytest.approx(700 * described.calls)


def test_reviewers_are_asked_at_once() -> None:
    """Calls in flight per sample: by answer tokens, three Reviewers beside each other and all else in a row."""
    size = StepSize(100, 50)
    rates = MethodRates(instruction_pass=1.0, acceptance=1.0, adjudicated=0.0, steps=dict.fromkeys(sizes(), size))
    # keywords, instruction, review x 3, response, review x 3, summary: 10 calls in the time of 6
    assert calls_per_sample(config(), rates) == pytest.approx(10 / 6)
    assert calls_per_sample(config(reviewers=1), rates) == pytest.approx(1.0)
    assert 1.3 < calls_per_sample(config()) < 1.6


def test_a_sample_of_the_paper() -> None:
    rates = MethodRates(acceptance=0.4, instruction_pass=0.8, adjudicated=0.1)
    rates = replace(rates, steps={k: replace(v, tries=1.0) for k, v in sizes().items()})
    assert calls(config(), rates) == pytest.approx(
        {
            "generator": 1 + 1 + 0.8,  # keywords, instruction, response
            "reviewer": 3 + 3 * 0.8,
            "adjudicator": 0.8 * 0.1,
            "summarizer": 0.4,
        }
    )


def test_random_roles_load_all_models_alike() -> None:
    loads = list(method_load(config()).values())
    assert all(load == loads[0] for load in loads)
    assert loads[0].completion_tokens > 0


def test_seats_where_no_model_judges_its_own_writing() -> None:
    run = config(5)
    run.method.self_review = SelfReview.avoid
    for name, model in zip(run.committee, ("x", "x", "x", "y", "z"), strict=True):
        run.committee[name].model = model
    models = {name: m.model for name, m in run.committee.items()}
    rng, drawn, trials = Random(0), Counter[str](), 4000
    for _ in range(trials):
        drawn.update(draw_roles(list(run.committee), run.method, rng, models).reviewers)
    assert seats(run)["reviewer"] == pytest.approx({k: drawn[k] / trials for k in run.committee}, abs=0.05)


@pytest.mark.parametrize("members", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("policy", list(Policy))
def test_seats_are_what_the_committee_draws(members: int, policy: Policy) -> None:
    fixed = FixedRolesConfig("a", ["b", "c", "b"][: max(1, members - 1)] if members > 2 else ["a"], "a")
    run = config(members, policy=policy, fixed=fixed)
    rng, drawn = (Random(0), {role: Counter[str]() for role in ("generator", "reviewer", "adjudicator", "summarizer")})
    trials = 4000
    for _ in range(trials):
        roles = draw_roles(list(run.committee), run.method, rng)
        drawn["generator"][roles.generator] += 1
        drawn["reviewer"].update(roles.reviewers)
        drawn["summarizer"][roles.summarizer] += 1
        if roles.adjudicator:
            drawn["adjudicator"][roles.adjudicator] += 1
    expected = seats(run)
    for role in ("generator", "reviewer", "summarizer"):
        assert {k: v for k, v in expected[role].items() if v} == pytest.approx(
            {k: v / trials for k, v in drawn[role].items()}, abs=0.05
        )
    if drawn["adjudicator"].total() == trials and sum(expected["adjudicator"].values()):
        assert expected["adjudicator"] == pytest.approx(
            {k: v / trials for k, v in drawn["adjudicator"].items()}, abs=0.05
        )


def test_fixed_roles_load_models_by_what_they_do() -> None:
    run = config(policy=Policy.fixed, fixed=FixedRolesConfig("a", ["b", "c", "d"], "e"))
    loads = method_load(run)
    assert set(loads["a"].roles) == {"generator", "summarizer"}
    assert set(loads["b"].roles) == {"reviewer", "summarizer"}
    assert set(loads["e"].roles) == {"adjudicator", "summarizer"}
    assert loads["b"] == loads["c"] == loads["d"]
    assert loads["e"].calls < loads["b"].calls


def test_one_model_in_all_roles_leaves_the_others_idle_and_reuses_prompts() -> None:
    loads = method_load(config(policy=Policy.single))
    assert loads["b"].calls == 0
    reviews = loads["a"].roles["reviewer"]
    assert reviews.cached_tokens == pytest.approx(reviews.prompt_tokens * 2 / 3)


def test_personas_on_one_model_share_a_prefix_now_and_then() -> None:
    run = RunConfig(
        models={"x": ModelConfig(path="x"), "y": ModelConfig(path="y")},
        committee={
            "x1": MemberConfig(model="x", persona="You are strict. " * 10),
            "x2": MemberConfig(model="x"),
            "x3": MemberConfig(model="x"),
            "y1": MemberConfig(model="y"),
            "y2": MemberConfig(model="y"),
        },
    )
    loads = method_load(run)
    # All three seats of x are drawn as Reviewers in 1 of 10 samples, two in 6 of 10: 0.8 repeats of 1.8 seats.
    reviews = loads["x"].roles["reviewer"]
    asked = reviews.prompt_tokens / 1.8
    assert reviews.cached_tokens == pytest.approx(0.8 * asked, rel=0.05)
    assert loads["x"].prompt_tokens > 1.5 * loads["y"].prompt_tokens


@pytest.mark.parametrize(
    ("method", "roles"),
    [
        ({"review_instruction": False}, {"generator", "reviewer", "adjudicator", "summarizer"}),
        ({"review_response": False}, {"generator", "reviewer", "summarizer"}),
        ({"review_response": False, "review_instruction": False}, {"generator", "summarizer"}),
        ({"settle": Settle.majority}, {"generator", "reviewer", "summarizer"}),
        ({"reviewers": 1}, {"generator", "reviewer", "summarizer"}),
        ({"flow": "refine"}, {"generator", "reviewer", "adjudicator", "summarizer"}),
    ],
)
def test_ablations_leave_steps_out(method: dict[str, Any], roles: set[str]) -> None:
    assert {r for r, n in calls(config(**method)).items() if n} == roles


def test_refining_asks_the_generator_once() -> None:
    assert calls(config(flow="refine"))["generator"] == pytest.approx(sizes()["refine"].tries)


def test_without_reviews_every_sample_is_summed_up() -> None:
    assert calls(config(review_response=False, review_instruction=False))["summarizer"] == pytest.approx(1.0)


def test_nothing_is_accepted_that_did_not_pass_the_first_review() -> None:
    rates = MethodRates(acceptance=0.9, instruction_pass=0.5)
    assert calls(config(), rates)["summarizer"] == pytest.approx(0.9)


def test_answers_are_no_longer_than_sampling_allows() -> None:
    short = config(sampling=SamplingConfig(0.2, 0.9, 50), max_tries=1)
    long = config(max_tries=1)
    assert method_load(short)["a"].completion_tokens < 0.6 * method_load(long)["a"].completion_tokens


def test_stage_0_asks_those_who_generate() -> None:
    loads = method_load(config(), stage="prepare")
    assert [load.calls for load in loads.values()] == pytest.approx([0.2] * 5)
    loads = method_load(config(policy=Policy.single), stage="prepare")
    assert [load.calls for load in loads.values()] == pytest.approx([1.0, 0, 0, 0, 0])


def test_the_stated_prompt_sizes_are_those_of_the_templates() -> None:
    text = "Explain in plain language how a binary search tree keeps its keys in order and why lookups are fast"
    words = text.split()
    instruction, response = " ".join((words * 3)[:48]), " ".join(words * 40)[:1760]
    examples = [Record("i", instruction, response, "coding", ("trees", "search", "lookup"), " ".join(words[:20]))] * 3
    reviews = [Review(m, dict.fromkeys(CRITERIA, 8), " ".join((words * 2)[:27])) for m in "abc"]
    variables: dict[str, dict[str, Any]] = {
        "describe": {
            "instruction": instruction,
            "context": "",
            "response": response[:880],
            "keywords": 3,
            "summary_words": 30,
        },
        "keywords": {"domain_name": DOMAIN_NAMES["coding"], "examples": examples, "keywords": 3},
        "instruction": {"domain_name": DOMAIN_NAMES["coding"], "examples": examples, "keywords": ("a b", "c d", "e f")},
        "response": {"instruction": instruction},
        "refine": {"instruction": instruction, "context": "", "response": response[:880]},
        "review_instruction": {"instruction": instruction},
        "review_response": {"instruction": instruction, "context": "", "response": response},
        "adjudicate": {"instruction": instruction, "context": "", "response": response, "reviews": reviews},
        "summary": {"instruction": instruction, "context": "", "summary_words": 30},
    }
    assert {*variables} == set(find("synthesize").sizes)
    for step, given in variables.items():
        messages = render(step, given, PROMPTS)
        tokens = sum(len(m["content"]) for m in messages) / 4.4 + 8 * len(messages)
        assert sizes()[step].prompt_tokens == pytest.approx(tokens, rel=0.25), step


def test_embeddings_are_asked_for_accepted_samples() -> None:
    load = embedding_load(config(expected_acceptance=0.25))
    assert load.calls == 0.25
    assert load.completion_tokens == 0


def test_the_usual_load_is_a_member_of_five() -> None:
    assert usual_load() == method_load(config())["a"]
    assert usual_load(embedder=True).completion_tokens == 0


def test_a_calibration_replaces_defaults(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_bytes(
        orjson.dumps(
            {
                "method": {"acceptance": 0.5, "steps": {"response": {"completion_tokens": 800, "tries": 1.5}}},
                "performance": {"compute_efficiency": 0.4},
            }
        )
    )
    rates, performance = read_calibration(file)
    assert rates.acceptance == 0.5
    assert rates.steps["response"].completion_tokens == 800
    assert rates.steps["response"].prompt_tokens == sizes()["response"].prompt_tokens
    assert rates.steps["summary"] == sizes()["summary"]
    assert performance == {"compute_efficiency": 0.4}
    more, usual = method_load(config(), rates), method_load(config())
    assert more["a"].completion_tokens > usual["a"].completion_tokens


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected an object"),
        ('{"method": 3}', "expected an object"),
        ('{"method": {"accept": 0.5}}', "method.accept"),
        ('{"method": {"acceptance": "half"}}', "method.acceptance"),
        ('{"method": {"steps": {"respond": {}}}}', "method.steps.respond"),
        ('{"method": {"steps": {"response": {"tokens": 3}}}}', "method.steps.response"),
    ],
)
def test_a_broken_calibration_says_where(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_calibration(file)


def test_a_missing_calibration_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gra calibrate"):
        read_calibration(tmp_path / "no.json")


@pytest.mark.parametrize("flow", ["refine", "synthesize"])
def test_contexts_count_where_prompts_carry_them(flow: str) -> None:
    """Conversations are answered anew, judged and summed up with the turns before their last exchange; what is made
    from examples has none."""
    run = config(flow=flow)
    found = find(flow)
    asked = {a.step: a.context for a in [*found.expect_prepare, *found.expect(run, MethodRates())]}
    carries = {step: "context" in (PROMPTS / f"{step}.j2").read_text(encoding="utf-8") for step in asked}
    assert asked == (carries if flow == "refine" else {step: step == "describe" for step in asked})
    for stage in ("samples", "prepare") if found.expect_prepare else ("samples",):
        plain, longer = (method_load(run, stage=stage, context_tokens=n) for n in (0.0, 500.0))
        assert plain == method_load(run, stage=stage)
        for name, load in plain.items():
            for role, work in load.roles.items():
                more = longer[name].roles[role]
                carried = 500 * work.calls if flow == "refine" or stage == "prepare" else 0
                assert more.prompt_tokens - work.prompt_tokens == pytest.approx(carried)
                assert (more.calls, more.completion_tokens) == (work.calls, work.completion_tokens)


@pytest.mark.parametrize("count", [2, 6, 12])
def test_each_criterion_makes_verdicts_longer(count: int) -> None:
    """In proportion, by the stated defaults; a measured length has them already. Nothing else grows."""
    own = config(criteria={f"aspect_{i}": "it is good" for i in range(count)})
    more = 5.0 * (count - 6)
    roles = ("generator", "reviewer", "adjudicator", "summarizer")
    written = {
        run: {r: sum(x.roles[r].completion_tokens for x in load.values()) for r in roles}
        for run, load in (("paper", method_load(config())), ("own", method_load(own)))
    }
    responses = calls(own)["reviewer"] - 3.0  # three instructions' reviews are of criteria of their own
    assert written["own"]["reviewer"] == pytest.approx(written["paper"]["reviewer"] + responses * more)
    assert written["own"]["adjudicator"] == pytest.approx(written["paper"]["adjudicator"] * (80 + more) / 80)
    assert all(written["own"][r] == written["paper"][r] for r in ("generator", "summarizer"))
    rates = MethodRates().calibrated({"steps": {"adjudicate": {"completion_tokens": 90.0}}})
    found = sum(x.roles["adjudicator"].completion_tokens for x in method_load(own, rates).values())
    assert found == pytest.approx(written["paper"]["adjudicator"] * 90 / 80)


def test_criteria_of_instructions_count_for_theirs() -> None:
    own = config(instruction_criteria={"doable": "it can be done", "plain": "it is plain"})
    answers = [sum(x.roles["reviewer"].completion_tokens for x in method_load(c).values()) for c in (config(), own)]
    assert answers[0] - answers[1] == pytest.approx(3 * 5.0)

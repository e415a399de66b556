"""What a run says in its prompts: the language asked for, domains, criteria and templates of the user's own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from test_flows import OTHER, ROLES, SEED, Script, changed, run, scores, usual

from gra_hpc.config.settings import MemberConfig, MethodConfig
from gra_hpc.errors import ConfigError
from gra_hpc.flows import own_templates
from gra_hpc.flows.ask import Asker
from gra_hpc.flows.gra.prepare import prepare
from gra_hpc.flows.gra.questions import PROMPTS
from gra_hpc.flows.gra.refine import refine
from gra_hpc.flows.gra.synthesize import synthesize
from gra_hpc.flows.registry import find
from gra_hpc.flows.render import Own, prompts_digest, templates
from gra_hpc.records import CRITERIA, Record, Sample

PAPER = find("synthesize")
STEPS = {p.stem for p in PROMPTS.glob("*.j2")}


def asked(
    method: MethodConfig | None = None, language: str = "", own: Own = (), domain: str = "math"
) -> dict[str, str]:
    """Every question of the three flows, as text, by step; the Reviewers disagree."""
    method = method or MethodConfig()
    script = Script(changed(review_response__reviewer_1=scores(10), review_response__reviewer_2=scores(5)))
    asker = Asker(
        {m: MemberConfig(model=m) for m in "gabcj"},
        {m: f"id-{m}" for m in "gabcj"},
        method,
        script,
        script,
        lambda role, call, fresh: None,
        own=own,
        languages=lambda seed: language if seed == "s1" else "Klingon",
    )

    async def all_flows() -> None:
        for flow in ("prepare", "refine", "synthesize"):
            sample = Sample(f"{flow:_<32}", 1, "s1", 0, domain, ROLES, examples=("s1", "s2"))
            ask = asker.for_sample(sample)
            if flow == "prepare":
                await prepare(sample, Record("s", "Add.", "4"), ask, method)
            elif flow == "refine":
                await refine(sample, SEED, ask, method)
            else:
                await synthesize(sample, [SEED, OTHER], ask, method)

    asyncio.run(all_flows())
    steps = [key.split("/")[1] for key in script.keys]
    texts = ["\n".join(m["content"] for m in r.messages) for r in script.requests]
    return dict(zip(steps, texts, strict=True))


def test_the_seeds_language_is_asked_for_in_every_question() -> None:
    plain, german = asked(MethodConfig(accept_mean=6)), asked(MethodConfig(accept_mean=6), "German")
    assert set(plain) == set(german) == STEPS
    for step in STEPS:
        assert "German" in german[step] and "German" not in plain[step]
        assert "Klingon" not in german[step]


def test_seeds_in_english_are_asked_as_ever() -> None:
    _, script = run(usual)
    plain = asked()
    assert plain["keywords"] == "\n".join(m["content"] for m in script.requests[0].messages)
    assert (
        plain["review_response"].count('- "') == 6
        and 'ethicality": it is harmless and fair.\nScale:' in plain["review_response"]
    )


def test_domains_of_ones_own() -> None:
    method = MethodConfig(domains={"law": "statutes and cases", "math": "sums"}, accept_mean=6)
    said = asked(method, domain="law")
    assert "in the domain law (statutes and cases)" in said["keywords"]
    assert "the one that fits best of law (statutes and cases), math (sums);" in said["describe"]
    assert "coding" not in said["describe"]


def test_a_described_domain_is_one_of_the_runs() -> None:
    law = '{"domain": "law", "keywords": ["x"], "summary": "S."}'
    for domains, status in (({}, "failed"), ({"law": "cases", "art": ""}, "accepted")):
        sample, script = run(changed(describe=law), MethodConfig(domains=dict(domains)), "prepare")
        assert sample.status == status
        schema = script.requests[0].schema
        assert schema and ("law" in schema["properties"]["domain"]["enum"]) == bool(domains)


def test_criteria_of_ones_own() -> None:
    own = dict.fromkeys(CRITERIA, "") | {"clarity": "a child can follow it"}
    said = asked(MethodConfig(criteria=own, accept_mean=6))
    assert '- "clarity": a child can follow it;\n- "completeness": it covers' in said["review_response"]
    assert '- "clarity": a child can follow it;\n- "completeness"' in said["adjudicate"]
    assert all(f'"{c}"' in said["review_response"] for c in CRITERIA)


SUMMARY = '{{ turn("user") }}\nKürze: {{ instruction }} ({{ summary_words }})'


def own(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        (tmp_path / f"{name}.j2").write_text(text)
    return tmp_path


def test_templates_of_ones_own_replace_single_ones(tmp_path: Path) -> None:
    found = own_templates.read(str(own(tmp_path, summary=SUMMARY)), PAPER)
    said, plain = asked(MethodConfig(accept_mean=6), own=found), asked(MethodConfig(accept_mean=6))
    assert said["summary"].startswith("Kürze: Prove that") and said["summary"].endswith("(30)")
    assert {s for s in STEPS if said[s] != plain[s]} == {"summary"}
    assert (
        prompts_digest(PROMPTS, found) != prompts_digest(PROMPTS) and templates(PROMPTS, found)["summary.j2"] == SUMMARY
    )
    assert own_templates.read("", PAPER) == ()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("summary", '{{ turn("user") }}{{ summary_words }}', "summary.j2: lacks the variable instruction"),
        ("response", '{{ turn("user") }}hello', "response.j2: lacks the variable instruction"),
        ("response", '{{ turn("user") }}{{ instruction }} {{ colour }}', "response.j2: uses colour"),
        ("response", '{{ turn("user") }}\n{% if instruction %}', "response.j2:2: "),
        ("response", "{{ instruction }}", "its messages are none"),
        ("response", '{{ turn("assistant") }}{{ instruction }}', "its messages are assistant"),
        ("response", '{{ turn("user") }}{{ instruction.nothing.more }}', "cannot be rendered"),
        ("response", '{{ turn("user") }}{{ instruction.__class__.__mro__ }}', "cannot be rendered"),
        ("reply", SUMMARY, "no question has a template of this name"),
    ],
)
def test_a_template_that_cannot_be_used_says_what_is_wrong(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as e:
        own_templates.read(str(own(tmp_path, **{name: text})), PAPER)
    assert said in str(e.value), str(e.value)


def test_the_papers_templates_are_good_templates(tmp_path: Path) -> None:
    copies = {p.stem: p.read_text() for p in PROMPTS.glob("*.j2")}
    assert dict(own_templates.read(str(own(tmp_path, **copies)), PAPER)) == copies


def test_directories_that_hold_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for directory in ("nowhere", "empty"):
        with pytest.raises(ConfigError):
            own_templates.read(str(tmp_path / directory), PAPER)

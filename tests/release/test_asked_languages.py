"""A run on seeds of another language, or with words of its own: its plan, prompts, rows, card and report say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up_runs import Maker

from gra_hpc.config.settings import RunConfig
from gra_hpc.errors import FingerprintError
from gra_hpc.release import card
from gra_hpc.release.build import build
from gra_hpc.release.verify.verify import verify
from gra_hpc.run import planning
from gra_hpc.run.plan import Plan
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json
from gra_hpc.text import languages
from gra_hpc.views.plan import preview
from gra_hpc.views.prompts import rendered

needs_model = pytest.mark.skipif(not languages.can_tell(), reason=languages.MISSING)

GERMAN = ["den Fluss", "die alte Brücke", "das Haus am See", "den Leuchtturm", "die Schule", "den Garten"]
JAPANESE = ["琵琶湖", "富士山", "京都の寺", "東京の駅", "桜の花", "北海道の冬"]


def config_of(maker: Maker, seeds: list[tuple[str, str]], **method: object) -> RunConfig:
    """Seeds that are described already, in a file of their own."""
    path = maker.path / "seeds.jsonl"
    words = {"domain": "qa", "keywords": ["k1", "k2", "k3"], "summary": "S."}
    path.write_text("".join(json.dumps({"instruction": a, "response": b, **words}) + "\n" for a, b in seeds))
    config = maker.config(simulated=True)
    config.seeds.path, config.launch.shards, config.method.samples_per_seed = str(path), 1, 2
    for key, value in method.items():
        setattr(config.method, key, value)
    return config


def german() -> list[tuple[str, str]]:
    seeds = [(f"Beschreibe {thing} in zwei Sätzen.", f"Hier sieht man {thing} bei schönem Wetter.") for thing in GERMAN]
    return [*seeds, ("2 + 2 = ?", "4"), ("Describe the river in two short sentences.", "It is long and blue.")]


def shown(run: Run) -> str:
    return "\n".join([*preview(run, None), *rendered(run)])


@needs_model
def test_german_seeds_are_asked_in_german(maker: Maker) -> None:
    run = planning.make(maker.path / "run", config_of(maker, german()))
    plan = Plan.load(run)
    assert (plan.language, plan.seed_languages) == ("German", {"German": 7, "English": 1})
    seed = next(iter(plan.languages[""]))
    assert plan.language_of()(seed) == "" and plan.language_of()("another") == "German"
    said = shown(run)
    assert "languages    of the seeds: German 7, English 1; each seed's own is asked for" in said
    assert "You write in German." in said and "It should be in German" in said


@needs_model
def test_rows_and_card_say_the_language(maker: Maker) -> None:
    seeds = [(f"{thing}について二文で説明してください。", f"{thing}はとても有名です。") for thing in JAPANESE]
    run = maker.make("run", config_of(maker, seeds))
    build(run)
    facts = read_json(run.release / "manifest.json")
    assert facts["languages"]["seeds"] == {"Japanese": 6}
    assert sum(facts["languages"]["rows"].values()) == sum(s["rows"] for s in facts["splits"].values()) > 0
    said = card.languages(facts)
    assert said in (run.release / "README.md").read_text() and "each seed's own was asked for" in said
    assert "Languages of the rows" in (run.release / "report.html").read_text()
    assert verify(run.release) == []


@needs_model
def test_a_language_may_be_named_or_left_open(maker: Maker) -> None:
    one = planning.make(maker.path / "one", config_of(maker, german(), language="Dutch"))
    assert "You write in Dutch." in shown(one) and one.plan.seed_languages == {}
    none = planning.make(maker.path / "none", config_of(maker, german(), language="any"))
    assert "You write in" not in shown(none) and none.plan.fingerprint != one.plan.fingerprint


def test_seeds_in_english_are_planned_as_ever(maker: Maker) -> None:
    run = planning.make(maker.path / "run", maker.config(simulated=True))
    assert (run.plan.language, run.plan.languages, run.plan.prompts) == ("", {}, {})
    assert not {"language", "domains", "criteria", "prompts"} & set(run.plan.frozen["method"])
    assert "You write in" not in shown(run)


def test_words_of_ones_own_are_frozen(maker: Maker, tmp_path: Path) -> None:
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "summary.j2").write_text('{{ turn("user") }}\nIn short: {{ instruction }} {{ summary_words }}')
    config = maker.config(simulated=True)
    config.method.prompts = str(templates)
    config.method.domains = {"law": "statutes and cases", "qa": ""}
    config.method.criteria = {"clarity": "a child can follow it", "relevance": ""}
    run = planning.make(maker.path / "run", config)
    plan = Plan.load(run)
    assert plan.frozen["method"]["domains"] == {"law": "statutes and cases", "qa": ""}
    assert plan.own_templates[0][0] == "summary" and "prompts" not in plan.frozen["method"]
    assert "prompts      of your own: summary.j2" in shown(run) and "law (statutes and cases), qa;" in shown(run)
    assert "a child can follow it" in shown(run)
    assert 0 < plan.undescribed < plan.seeds, "seeds of domains that the run does not have are described anew"
    (templates / "summary.j2").write_text('{{ turn("user") }}\nShort: {{ instruction }} {{ summary_words }}')
    Run.open(run.path)
    with pytest.raises(FingerprintError, match="prompts"):
        planning.make(maker.path / "run", config)


def test_a_run_with_domains_of_its_own_is_released(maker: Maker) -> None:
    config = maker.config(simulated=True)
    config.method.domains = {"qa": "facts", "coding": "programs", "law": "cases"}
    run = maker.make("run", config)
    build(run)
    assert verify(run.release) == []
    assert "Outcomes by domain" in (run.release / "report.html").read_text()

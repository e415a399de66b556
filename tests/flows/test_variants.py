"""The method's variants as whole runs: what each one asks of whom, and what its release holds."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from gra_hpc.config import presets
from gra_hpc.config.frozen import fingerprinted
from gra_hpc.config.rules import check
from gra_hpc.config.settings import RunConfig
from gra_hpc.errors import ConfigError
from gra_hpc.launch.round_end import finish_round
from gra_hpc.launch.tasks import ShardTask
from gra_hpc.models import embedder
from gra_hpc.release.verify.verify import verify
from gra_hpc.run import planning
from gra_hpc.run.plan import Plan
from gra_hpc.run.rounds import remaining
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json
from gra_hpc.views.plan import preview
from tests.run.test_plan import make, seeds_file


def released(run: Run) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Do all that is left of a run; its manifest and rows."""
    while steps := remaining(run):
        for shard in steps[0].shards:
            ShardTask(str(run.path), steps[0].round, shard)()
        finish_round(run, steps[0].round)
    assert verify(run.release) == []
    rows = [r for f in sorted(run.release.glob("data/*.parquet")) for r in pq.read_table(f).to_pylist()]
    return read_json(run.release / "manifest.json"), rows


def calls(run: Run) -> set[str]:
    """`step member` of every call of a run's first round."""
    found = set()
    for manifest in run.round(1).shards.glob("*/manifest.json"):
        table = pq.read_table(next(manifest.parent.glob("calls-*.parquet")), columns=["key", "member"])
        found |= {f"{c['key'].split('/')[1]} {c['member']}" for c in table.to_pylist()}
    return found


def test_the_seeds_alone_are_a_release(tmp_path: Path) -> None:
    """Nobody is asked, no model is needed, and nothing is lost but what has no response."""
    file = seeds_file(tmp_path / "seeds.jsonl", 9, described=False)
    with file.open("a") as f:
        f.write(json.dumps({"instruction": "Say nothing."}) + "\n")
    preset = tmp_path / "seeds.yaml"
    preset.write_text(f"seeds: {{path: {file}}}\nmethod: {{flow: seeds}}\nlaunch: {{shards: 2}}\n")
    run = planning.make(tmp_path / "run", presets.compose(str(preset), ["merge.semantic=false"]))
    assert Plan.load(run).undescribed == 0
    said = "\n".join(preview(run, None))
    assert "none: nobody is asked" in said and "thresholds" not in said
    manifest, rows = released(run)
    assert manifest["ledger"]["failed"] == {"response: the seed has no response": 1}
    assert {(r["instruction"], r["response"]) for r in rows} == {(f"Do task {i}.", f"Done {i}.") for i in range(9)}
    assert rows[0]["messages"][1]["role"] == "assistant"
    card = (run.release / "README.md").read_text()
    assert "the seeds themselves" in card and "committee" not in card.split("## Settings")[0]
    assert "Scores are opinions" not in card


def test_refined_responses_are_not_dropped_for_their_own_seeds(
    tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their instructions are the seeds': against the seeds, every one would be a duplicate. (Embeddings: made up, equal
    for equal texts; real ones: merge/test_vectors.py.)"""

    def made_up(texts: Sequence[str], model_dir: Path, **_: object) -> np.ndarray:
        rows = [np.random.default_rng(zlib.crc32(t.encode())).normal(size=64) for t in texts]
        return np.array([r / np.linalg.norm(r) for r in rows], "<f2").reshape(len(texts), 64)

    monkeypatch.setattr(embedder, "encode", made_up)
    words = ["method.flow=refine", "method.accept_mean=1", "method.accept_sd=9", "launch.shards=1"]
    run = make(tmp_path, *words, f"merge.embed_model={minilm}", "merge.semantic=true", "merge.fuzzy=false")
    manifest, rows = released(run)
    assert manifest["ledger"]["accepted"] == 12 == len(rows) + sum(manifest["dropped"].values())
    assert {r["instruction"] for r in rows} <= {f"Do task {i}." for i in range(12)}
    assert len(rows) >= 10, manifest["dropped"]
    assert not any(r["response"].startswith("Done") for r in rows)


NO_REVIEW = ["method.review_instruction=false", "method.review_response=false"]
VARIANTS = {
    "gra": ([], {"keywords", "instruction", "review_instruction", "response", "review_response"}),
    "refine": (["method.flow=refine"], {"refine", "review_response"}),
    "distilled": (
        ["committee={ada: {model: smollm2}}", "method.policy=single", *NO_REVIEW],
        {"keywords", "instruction", "response", "summary"},
    ),
    "no-review": (NO_REVIEW, {"keywords", "instruction", "response", "summary"}),
    "one-reviewer": (["method.reviewers=1"], None),
    "majority": (["method.settle=majority", "method.accept_sd=0"], None),
    "fixed": (
        ["method.policy=fixed", "method.fixed={generator: ada, reviewers: [ben, cyd, dee], adjudicator: eve}"],
        None,
    ),
    "single": (["method.policy=single", "method.fixed.generator=cyd"], None),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_asks_what_it_should(tmp_path: Path, name: str) -> None:
    words, steps = VARIANTS[name]
    run = make(tmp_path, "launch.shards=1", "method.accept_mean=1", *words)
    ShardTask(str(run.path), 1, 0)()
    asked = calls(run)
    seen = {a.split()[0] for a in asked}
    if steps:
        assert steps <= seen and seen - steps <= {"summary", "adjudicate"}
    if name == "distilled":
        assert {a.split()[1] for a in asked} == {"ada"} and seen == steps
    if name == "no-review":
        assert seen == steps and {a.split()[1] for a in asked} > {"ada", "ben"}
    if name == "one-reviewer":
        manifest = read_json(run.round(1).shard(0).manifest)
        table = pq.read_table(run.round(1).shard(0).path / manifest["samples"]["file"])
        assert {len(r) for r in table["reviewers"].to_pylist()} == {1}
    if name == "majority":
        assert "adjudicate" not in seen and "review_response" in seen
    if name == "fixed":
        assert {a for a in asked if a.startswith(("keywords", "response "))} == {"keywords ada", "response ada"}
        assert {a.split()[1] for a in asked if a.startswith("review")} == {"ben", "cyd", "dee"}
    if name == "single":
        assert {a.split()[1] for a in asked} == {"cyd"}


def test_every_variant_has_a_fingerprint_of_its_own() -> None:
    prints = set()
    for words, _ in [*VARIANTS.values(), (["method.flow=seeds"], None)]:
        config = presets.compose("demo", words)
        prints.add(json.dumps(fingerprinted(config), sort_keys=True))
    assert len(prints) == len(VARIANTS) + 1


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["method.flow=refine", "method.rounds=2"], "method.rounds=2"),
        (["method.flow=seeds", "method.samples_per_seed=2"], "method.samples_per_seed=2"),
        (["method.flow=seeds", "method.target_accepted=5"], "method.target_accepted=5"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        presets.compose("demo", words)
    with pytest.raises(ConfigError, match="at least one model"):
        check(RunConfig())

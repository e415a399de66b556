"""Diagnostics: measures against their definitions, and the report's section on a real release."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from gra_hpc.config import presets
from gra_hpc.launch.round_end import finish_round
from gra_hpc.launch.tasks import ShardTask
from gra_hpc.release.diagnostics import texts, vectors
from gra_hpc.release.diagnostics.difficulty import difficulty
from gra_hpc.release.diagnostics.measure import Diagnosis, measure
from gra_hpc.release.diagnostics.page import section
from gra_hpc.release.inputs import Inputs
from gra_hpc.release.verify.verify import verify
from gra_hpc.run import planning
from gra_hpc.run.rounds import remaining
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json

RNG = np.random.default_rng(0)


def unit(n: int, d: int = 16) -> np.ndarray:
    x = RNG.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def test_distinct_counts_different_runs() -> None:
    assert texts.distinct(["A b, a B!"], 1, 100) == 2 / 4
    assert texts.distinct(["A b, a B!"], 2, 100) == 2 / 3  # ab ba ab
    assert texts.distinct(["a b", "b a"], 2, 100) == 1, "runs do not cross texts"
    assert texts.distinct(["a b c d"] * 9, 1, 4) == 1, "only so much is counted"
    assert texts.distinct([""], 1, 10) is None
    assert texts.runs_in(["a b c", "d"], 2) == 2


def test_shares_of_copied_runs() -> None:
    known = texts.grams_of(["one two three four five"], 4)
    assert texts.shares(["One, two three four!", "two three four five six", "one two three"], known, 4) == [1, 0.5, 0]


def test_vendi_is_the_effective_number_of_rows() -> None:
    assert vectors.vendi(np.eye(7)) == pytest.approx(7)
    assert vectors.vendi(np.ones((9, 3))) == pytest.approx(1)
    twice = np.repeat(np.eye(5), 2, axis=0)
    assert vectors.vendi(twice) == pytest.approx(5)
    x = unit(40)
    kernel = (x.astype("f8") / np.linalg.norm(x.astype("f8"), axis=1, keepdims=True)) @ (
        x.astype("f8") / np.linalg.norm(x.astype("f8"), axis=1, keepdims=True)
    ).T
    values = np.linalg.eigvalsh(kernel / 40)
    values = values[values > 1e-12]
    assert vectors.vendi(x) == pytest.approx(math.exp(-(values * np.log(values)).sum()), rel=1e-6)


def test_spread_nearest_and_coverage_agree_with_brute_force() -> None:
    a, b = unit(30), unit(25)
    cosines = a.astype("f8") @ b.astype("f8").T
    where, best = vectors.nearest(a, b)
    assert (where == cosines.argmax(axis=1)).all() and np.allclose(best, cosines.max(axis=1), atol=1e-3)
    own = a.astype("f8") @ a.astype("f8").T
    pairs = [own[i, j] for i in range(30) for j in range(30) if i != j]
    assert vectors.spread(a) == pytest.approx(1 - np.mean(pairs), abs=1e-6)
    covered = 0
    among = b.astype("f8") @ b.astype("f8").T
    for i in range(25):
        radius = sorted((among[i, j] for j in range(25) if j != i), reverse=True)[4]
        covered += bool(cosines[:, i].max() >= radius)
    assert vectors.coverage(a, b) == pytest.approx(covered / 25)
    assert vectors.coverage(b, b) == 1 and vectors.coverage(a, b[:3]) is None


def test_pictures_are_repeatable() -> None:
    pytest.importorskip("sklearn")
    x = np.concatenate([unit(40, 64) + 2, unit(40, 64)])
    points, variance = vectors.pca(x)
    assert points.shape == (80, 2) and variance[0] > 0.5 and variance[0] >= variance[1]
    one, two = vectors.tsne(x, 3), vectors.tsne(x, 3)
    assert one.shape == (80, 2) and (one == two).all()
    assert abs(one[:40].mean(axis=0) - one[40:].mean(axis=0)).max() > 5, "two groups lie apart"


def simulated(tmp_path: Path, smollm2: Path, minilm: Path) -> Run:
    """A release of a simulated run over the demo's seeds, with real embeddings."""
    words = ["engine.kind=simulated", "method.accept_mean=1", "method.accept_sd=5", "launch.shards=1"]
    words.append("merge.fuzzy=false")
    words += [f"models.smollm2.path={smollm2}", f"merge.embed_model={minilm}"]
    run = planning.make(tmp_path / "run", presets.compose("demo", words))
    while steps := remaining(run):
        for shard in steps[0].shards:
            ShardTask(str(run.path), steps[0].round, shard)()
        finish_round(run, steps[0].round)
    return run


def test_a_release_is_diagnosed_the_same_way_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2: Path, minilm: Path
) -> None:
    run = simulated(tmp_path, smollm2, minilm)
    assert verify(run.release) == []
    facts = read_json(run.release / "manifest.json")["diagnostics"]
    assert facts["rows"] == facts["rows_of"] > 10 and facts["seeds"] == 42
    assert 0 < facts["nearest_seed"]["mean"] < 0.9 and 1 < facts["vendi"]["rows"] <= facts["compared"]
    assert facts["missing"] == [
        "instruction-following difficulty: no scorer is set -> gra merge RUN release.diagnostics.scorer=MODEL"
    ]
    page = (run.release / "report.html").read_text()
    assert page.count('class="dot-row"') == 2 * facts["rows"] and page.count('class="dot-seed"') == 84
    again = measure(Inputs.of_run(run))
    assert again.facts == facts
    assert (again.points["tsne"] == measure(Inputs.of_run(run)).points["tsne"]).all()

    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    without = measure(Inputs.of_run(run))
    assert "tsne" not in without.points and "pca" in without.points
    assert [m for m in without.facts["missing"] if "gra-hpc[cpu]" in m and "t-SNE" in m]


def test_without_embeddings_the_texts_are_still_measured(built: Run) -> None:
    d = measure(Inputs.of_run(built))
    assert d.facts["distinct"]["instructions-2"]["rows"] > 0 and "vendi" not in d.facts
    assert "merge.semantic=true" in " ".join(d.facts["missing"])
    assert section(Diagnosis({"missing": ["x"]}))["missing"] == ["x"]
    page = (built.release / "report.html").read_text()
    assert "distinct-2, responses" in page and "Not measured:" in page


@pytest.mark.slow
def test_ifd_tells_help_from_none(smollm2: Path) -> None:
    pytest.importorskip("torch")
    model = smollm2
    repeat = ("Repeat after me: purple elephants dance on Tuesdays.", "Purple elephants dance on Tuesdays.")
    foreign = ("Name a colour.", "The mitochondrion is the powerhouse of the cell.")
    scores = difficulty([repeat, foreign, ("Say nothing.", "")], model)
    assert scores[2] is None and scores[0] is not None and scores[1] is not None
    assert scores[0] < 0.6 < scores[1]
    assert difficulty([foreign], model)[0] == pytest.approx(scores[1], rel=1e-4), "batches do not matter"


def test_login_nodes_stay_light() -> None:
    """Nothing of the diagnostics loads torch or scikit-learn when imported."""
    before = set(sys.modules)
    importlib.import_module("gra_hpc.release.diagnostics.page")
    assert not {"torch", "sklearn"} & (set(sys.modules) - before)

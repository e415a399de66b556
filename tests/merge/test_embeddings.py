"""Embeddings: from shards, from earlier rounds, from what was computed before, and computed by the real model."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fabricate import make_run, publish_shard, rows, sample, seed, tables

from gra_hpc import storage
from gra_hpc.config import flow_sections
from gra_hpc.errors import GraError, ReleaseError
from gra_hpc.flows.registry import find
from gra_hpc.merge.round import merge_round
from gra_hpc.merge.semantic import embedding_column
from gra_hpc.models import embedder
from gra_hpc.run.run import Run


def test_no_texts_need_no_model() -> None:
    assert len(embedder.encode([], "nowhere")) == 0


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(GraError, match=str(tmp_path)):
        embedder.encode(["text"], tmp_path)


def test_missing_embeddings_are_computed_once(tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds have none, nor has this shard: the merge computes them, and a second merge and round use them again."""
    question = "Which planet of our solar system has the most moons?"
    run = make_run(tmp_path / "run", [seed(0, question)], shards=1, rounds=2, embed=str(minilm))
    samples = [
        sample(0, "Of all planets in our solar system, which one has the most moons?"),  # the seed in other words
        sample(1, "Explain how photosynthesis turns light into chemical energy.", score=8.5),
        sample(2, "Explain how photosynthesis turns light into chemical energy!!", score=9.5),
        sample(3, "Write a haiku about a snowy morning."),
    ]
    publish_shard(run, 1, 0, samples)
    summary = merge_round(run, 1)
    assert summary.dropped["semantic"] == 2
    assert {(r["id"], r["winner"]) for r in rows(run.round(1).dropped)} == {
        (samples[0].id, seed(0, question).id), (samples[1].id, samples[2].id)
    }  # fmt: skip
    assert all(r["similarity"] >= 0.9 for r in rows(run.round(1).dropped))
    steps = storage.read_json(run.round(1).manifest)
    assert steps["steps"]["semantic"]["embedded_here"] == 5
    assert sum(steps["similarity"]["counts"]) == 4
    _, found = embedding_column.to_matrix(pq.read_table(run.round(1).kept)["embedding"])
    assert (found.shape, found.dtype) == ((2, 384), np.float16)
    assert np.allclose(np.linalg.norm(found.astype(float), axis=1), 1, atol=2e-3)
    assert "sentence_transformers" not in sys.modules, "a worker process has it"
    before = tables(run)
    shutil.rmtree(run.round(1).merged)
    monkeypatch.setattr(embedder, "encode", None)  # nothing is left to compute
    merge_round(run, 1)
    assert tables(run) == before
    stored = rows(run.round(1).kept)[0]
    twin = sample(9, "Something else entirely", round_=2)
    publish_shard(run, 2, 0, [twin], [stored["embedding"]])
    summary = merge_round(run, 2)
    assert summary.dropped["semantic"] == 1
    assert rows(run.round(2).dropped)[0]["winner"] == stored["id"]


def with_embeddings(tmp_path: Path, lengths: list[int]) -> Run:
    run = make_run(tmp_path / "run", [], shards=1, embed="nowhere")
    rng = np.random.default_rng(0)
    given = [rng.normal(size=n).astype("<f2").tobytes() for n in lengths]
    publish_shard(run, 1, 0, [sample(i) for i in range(len(lengths))], given)
    return run


def test_embeddings_of_the_shards_need_no_model(tmp_path: Path) -> None:
    run = with_embeddings(tmp_path, [16] * 5)
    assert merge_round(run, 1).kept == 5
    assert all(len(r["embedding"]) == 32 for r in rows(run.round(1).kept))


def test_embeddings_of_different_models_are_named(tmp_path: Path) -> None:
    run = with_embeddings(tmp_path, [16, 16, 8])
    with pytest.raises(ReleaseError, match="different lengths"):
        merge_round(run, 1)


@pytest.mark.parametrize(("flow", "pools"), [("pooling", True), ("beside", False)])
def test_rows_of_earlier_rounds_are_compared_where_seeds_are_no_rivals(
    tmp_path: Path, flow: str, pools: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their text and by their own vectors, in the pool as beside it; the seeds' vectors are not asked for."""
    monkeypatch.setitem(flow_sections.ours(), flow, replace(find("refine"), name=flow, pools=pools))
    run = make_run(tmp_path / "run", [seed(i) for i in range(3)], shards=1, rounds=2, embed="nowhere")
    run.config.method.flow = flow
    run.save()
    vectors = [v.tobytes() for v in np.eye(16, dtype="<f2")]
    first = [sample(i, score=9 - i / 10) for i in range(4)]
    publish_shard(run, 1, 0, first, vectors[3::-1])
    assert merge_round(run, 1).kept == 4
    other, like, same = (
        [sample(i, round_=2) for i in range(4)],
        sample(4, round_=2),
        sample(5, first[2].instruction, first[2].response, round_=2),
    )
    publish_shard(run, 2, 0, [*other, like, same], [*vectors[4:8], vectors[2], vectors[8]])
    assert merge_round(run, 2).kept == 4
    assert {(r["id"], r["step"], r["winner"]) for r in rows(run.round(2).dropped)} == {
        (like.id, "semantic", first[1].id), (same.id, "exact", first[2].id)
    }  # fmt: skip
    given = dict(zip((s.id for s in other), vectors[4:8], strict=True))
    assert {r["id"]: r["embedding"] for r in rows(run.round(2).kept)} == given

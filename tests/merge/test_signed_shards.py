"""What a merge needs of texts, made in the shards: its results are those of a merge that makes everything itself."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fabricate import change, configure, make_run, publish_shard, rows, sample, seed, tables, text

from gra_hpc import conversation, storage
from gra_hpc.errors import ReleaseError
from gra_hpc.merge import signatures
from gra_hpc.merge.round import merge_round
from gra_hpc.records import REJECTED, Sample
from gra_hpc.run.publish import sweep
from gra_hpc.run.run import Run
from gra_hpc.run.shard_manifest import ShardManifest
from gra_hpc.sources.seeds import write_records

SHARDS = 4


def planned(path: Path, rounds: int = 1, **merge: object) -> Run:
    """A run of four seeds, one benchmark."""
    bench = path.parent / "bench.txt"
    rng = random.Random("bench")
    bench.write_text(f"{text(rng, 30)}\nWhat is the capital of Atlantis?\n")
    seeds = [seed(i) for i in range(3)] + [seed(3, "Sort it.", "x = sorted(A)  # In place", domain="coding")]
    return make_run(path, seeds, SHARDS, rounds, decontamination__sources=[str(bench)], **merge)


def family(shard: int, round_: int = 1) -> list[Sample]:
    """Rows of one shard: some like those of others and of seeds, some of a benchmark, some with code."""
    rng = random.Random("bench")
    benchmark, twin, first = text(rng, 30), sample(0, round_=1), 100 * shard
    close = change(seed(0).response, [29])
    rows_ = [
        sample(first, round_=round_),
        sample(first + 1, twin.instruction.upper(), twin.response, 9 - shard / 10, round_=round_),
        sample(first + 2, seed(0).instruction, close, 8.5, round_=round_),
        sample(first + 3, twin.instruction, change(twin.response, [29], f"by{shard}"), 9.5, round_=round_),
        sample(first + 4, f"Please: {benchmark}", round_=round_),
        sample(first + 5, "Never accepted.", status=REJECTED, round_=round_),
        sample(first + 6, "Sort it.", f"x = sorted({'Aa'[shard % 2]})  # In place", round_=round_),
        sample(first + 7, "Pick `A[0]`", f"It is `A[{shard % 2}]`, the capital of Atlantis", round_=round_),
        sample(first + 8, "What is the capital of Atlantis", round_=round_),
    ]
    rows_[6].domain = "coding"
    return rows_


def result(run: Run, round_: int = 1) -> tuple[dict[str, bytes], dict[str, Any]]:
    """A merge's tables and what its manifest says of them, and of steps and drops."""
    manifest = storage.read_json(run.round(round_).manifest)
    return tables(run, round_), {k: manifest[k] for k in ("counts", "steps", "files", "survived", "ledger")}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each merge has signed."""
    counts: list[int] = []
    real = signatures.run

    def noted(*given: Any) -> signatures.Suspects:
        found = real(*given)
        counts.append(found.made)
        return found

    monkeypatch.setattr(signatures, "run", noted)
    return counts


@pytest.mark.parametrize("signed", [range(SHARDS), (0, 2), ()])
def test_signed_shards_give_the_same_merge_to_the_byte(tmp_path: Path, signed: Sequence[int], made: list[int]) -> None:
    alone, run = planned(tmp_path / "alone"), planned(tmp_path / "run")
    for n in range(SHARDS):
        publish_shard(alone, 1, n, family(n))
        publish_shard(run, 1, n, family(n), signed=n in signed)
        assert run.round(1).shard(n).signatures("a1").is_file() == (n in signed)
    assert str(merge_round(alone, 1)).split("; ")[:2] == str(merge_round(run, 1)).split("; ")[:2]
    assert result(alone) == result(run)
    dropped = {row["step"] for row in rows(run.round(1).dropped)}
    assert dropped == {"contaminated", "exact", "fuzzy"}
    accepted = len(family(0)) - 1
    assert made == [4 + SHARDS * accepted, 4 + (SHARDS - len(signed)) * accepted]


@pytest.mark.parametrize("setting", ["shingle", "fuzzy_threshold", "decontamination__ngram", "code"])
def test_what_another_rule_made_is_made_anew(
    tmp_path: Path, setting: str, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, run = planned(tmp_path / "alone"), planned(tmp_path / "run")
    for n in range(SHARDS):
        publish_shard(alone, 1, n, family(n))
        publish_shard(run, 1, n, family(n), signed=True)
    if setting == "code":
        monkeypatch.setattr("gra_hpc.run.signing.signing_digest", lambda: "of another version")
    else:
        for one in (alone, run):
            configure(one, **{setting: {"fuzzy_threshold": 0.6}.get(setting, 6)})
    merge_round(alone, 1)
    merge_round(run, 1)
    assert result(alone) == result(run)
    assert made[0] == made[1]  # all rows lack a part


def test_a_rule_that_asks_for_less_reads_what_is_there(tmp_path: Path, made: list[int]) -> None:
    run = planned(tmp_path / "run")
    for n in range(SHARDS):
        publish_shard(run, 1, n, family(n), signed=True)
    configure(run, fuzzy=False, decontamination__sources=[])
    summary = merge_round(run, 1)
    assert made == [4] and summary.dropped["exact"] and not summary.dropped["fuzzy"]


def test_pools_are_signed_once(tmp_path: Path, made: list[int]) -> None:
    runs = [planned(tmp_path / name, 2) for name in ("kept", "gone")]
    accepted = SHARDS * (len(family(0)) - 1)
    for run in runs:
        for n in range(SHARDS):
            publish_shard(run, 1, n, family(n), signed=True)
        merge_round(run, 1)
        for n in range(SHARDS):
            publish_shard(run, 2, n, family(n, 2), signed=True)
    pool = storage.read_json(runs[0].round(1).manifest)["counts"]["pool"]
    runs[1].round(1).signatures.unlink()  # made again
    for run in runs:
        assert merge_round(run, 2).accepted == accepted
    assert result(runs[0], 2) == result(runs[1], 2)
    assert made == [4, 4, 0, pool]
    assert not runs[0].round(2).signatures.exists()  # no round follows


def test_contexts_are_signed_as_the_merge_signs_them(tmp_path: Path, made: list[int]) -> None:
    run, alone = planned(tmp_path / "run"), planned(tmp_path / "alone")
    before = [{"role": "user", "content": text(random.Random(n), 20)} for n in (1, 2)]
    contexts = [conversation.pack([before[k], {"role": "user", "content": "Go on."}]) for k in (0, 0, 1)]
    some = [replace(sample(i, "Go on.", "Then it ends."), context=c) for i, c in enumerate(contexts)]
    for one, signed in ((run, True), (alone, False)):
        object.__setattr__(one.plan, "seed_contexts", 1)
        write_records(one.seeds, [seed(i) for i in range(4)], context=True)
        for n in range(SHARDS):
            publish_shard(one, 1, n, some if n == 0 else [], signed=signed, context=True)
        merge_round(one, 1)
    assert result(run) == result(alone)
    assert made == [4, 4 + len(some)]


def test_a_changed_table_of_signatures_is_named_and_made_again_once_it_is_gone(tmp_path: Path, made: list[int]) -> None:
    run = planned(tmp_path / "run")
    for n in range(SHARDS):
        publish_shard(run, 1, n, family(n), signed=True)
    path = run.round(1).shard(2).signatures("a1")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ReleaseError, match=r"rounds/01/shards/00002/signatures-a1\.parquet: changed") as e:
        merge_round(run, 1)
    assert e.value.then == f"move {path} away, then gra merge {run.path}: what is missing is made again"
    other = run.round(1).shard(1).signatures("a1")
    whole = other.read_bytes()
    other.write_bytes(whole[:100])
    with pytest.raises(ReleaseError, match="changed") as e:
        merge_round(run, 1)
    merge = f"then gra merge {run.path}: what is missing is made again"
    assert e.value.then == f"move {other} and {path} away, {merge}"
    manifest = run.round(1).shard(0).manifest
    kept = manifest.read_bytes()
    manifest.write_bytes(kept[:100])
    with pytest.raises(ReleaseError, match=r"00000/manifest\.json: .*; .*00001/signatures.*; .*00002/signatures") as e:
        merge_round(run, 1)
    assert e.value.then == f"move {manifest} away, then gra resume {run.path}; move {other} and {path} away, {merge}"
    manifest.write_bytes(kept)
    other.write_bytes(whole)
    shutil.move(path, tmp_path / "away")
    merge_round(run, 1)
    assert made == [4 + len(family(2)) - 1]


def test_signatures_of_another_table_do_not_count(tmp_path: Path, made: list[int]) -> None:
    """A shard whose samples were decided again keeps its old manifest's other entries."""
    run = planned(tmp_path / "run")
    for n in range(SHARDS):
        publish_shard(run, 1, n, family(n), signed=True)
    shard = run.round(1).shard(1)
    manifest = storage.unsealed(json.loads(shard.manifest.read_bytes()))
    manifest["signatures"]["of"] = "0" * 64
    shard.manifest.write_bytes(storage.sealed(manifest))
    merge_round(run, 1)
    assert made == [4 + len(family(1)) - 1]


def test_meetings_are_left_to_the_merge_where_the_benchmarks_cannot_be_read(
    tmp_path: Path, made: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    run = planned(tmp_path / "run")
    bench = tmp_path / "bench.txt"
    bench.rename(tmp_path / "elsewhere")
    for n in range(SHARDS):
        publish_shard(run, 1, n, family(n), signed=True)
    assert "what rows share with benchmarks is left to the merge" in caplog.text
    found = ShardManifest.load(run.round(1).shard(0)).signatures
    assert found and set(found.parts) == {"digests", "bands"}
    (tmp_path / "elsewhere").rename(bench)
    assert merge_round(run, 1).dropped["contaminated"] == 2 * SHARDS
    assert made == [4 + SHARDS * (len(family(0)) - 1)]


def test_signatures_of_an_attempt_that_lost_are_removed(tmp_path: Path) -> None:
    run = planned(tmp_path / "run")
    shard = run.round(1).shard(0)
    publish_shard(run, 1, 0, family(0), signed=True)
    shard.attempt("killed").path.mkdir(parents=True)
    left = [shard.signatures("killed"), shard.path / ".signatures-killed.parquet.tmp"]
    for file in left:
        file.write_bytes(b"half")
    sweep(shard)
    assert not any(file.exists() for file in left) and shard.signatures("a1").is_file()

"""Embeddings kept beside the run: parts that are written once, read in one pass."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from gra_hpc.merge.semantic import embedding_column
from gra_hpc.merge.semantic.embedding_store import Store
from tests.conftest import SteadyClock


def ids(*numbers: int) -> np.ndarray:
    return np.array([f"id{n}".encode() for n in numbers], "S32")


def found(store: Store, wanted: np.ndarray) -> dict[bytes, float]:
    """First number of each embedding, by id; every id comes once."""
    pairs = [(wanted[p], float(v[0])) for at, some in store.find(wanted) for p, v in zip(at, some, strict=True)]
    assert len(dict(pairs)) == len(pairs)
    return {bytes(k): v for k, v in pairs}


def vectors(*numbers: float) -> np.ndarray:
    return np.repeat(np.array(numbers, np.float16)[:, None], 4, axis=1)


def test_each_block_is_a_part_of_its_own(tmp_path: Path) -> None:
    """What is there is neither held nor written again."""
    store = Store(tmp_path / "embeddings", "m")
    assert found(store, ids(1)) == {}
    store.add(ids(1, 2), vectors(1, 2))
    (first,) = store.path.iterdir()
    before = (first.stat().st_ino, first.stat().st_mtime_ns)
    store.add(ids(3), vectors(3))
    assert sorted(p.name.split("-")[0] for p in store.path.iterdir()) == ["00000", "00001"]
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == before
    assert found(Store(store.path, "m"), ids(3, 9, 1)) == {b"id3": 3, b"id1": 1}
    assert found(Store(store.path, "another model"), ids(1)) == {}


def test_two_merges_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are about to write the same part: none is lost, and of a row of both one number counts, always the same."""
    store = Store(tmp_path / "embeddings", "m")
    monkeypatch.setattr(Store, "_parts", lambda _: [])
    store.add(ids(1, 2), vectors(1, 2))
    store.add(ids(2, 3), vectors(20, 3))
    store.add(ids(2, 3), vectors(20, 3))
    monkeypatch.undo()
    assert len(list(store.path.iterdir())) == 2
    both = found(store, ids(1, 2, 3))
    assert both in ({b"id1": 1, b"id2": 2, b"id3": 3}, {b"id1": 1, b"id2": 20, b"id3": 3})
    assert found(store, ids(1, 2, 3)) == both


@pytest.mark.parametrize("age", [-960, 960])
def test_a_part_that_is_being_written_stays(tmp_path: Path, steady: SteadyClock, age: int) -> None:
    """Whatever clock its time is of; what was seen not to change for long goes."""
    store, writing = Store(tmp_path / "embeddings", "m"), tmp_path / "embeddings" / ".00007.parquet.1.n.tmp"
    store.path.mkdir()
    for size in range(3):
        writing.write_bytes(b"x" * size)
        os.utime(writing, (time.time() - age, time.time() - age))
        store.add(ids(size), vectors(size))
        assert writing.exists()
        steady.now += 800
    steady.now += 100
    store.add(ids(7), vectors(7))
    assert not writing.exists()


def damaged(data: bytearray, what: str) -> bytes:
    """Torn, or with one bit of the values changed (a page whose length and encoding stay as they were)."""
    if what == "torn":
        return bytes(data[: len(data) // 2])
    data[len(data) // 3] ^= 4
    return bytes(data)


@pytest.mark.parametrize("what", ["torn", "flipped"])
def test_a_part_that_is_not_what_was_written_is_computed_again(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / "embeddings", "m")
    store.add(ids(1), vectors(1))
    store.add(ids(2), vectors(2))
    first = min(store.path.iterdir())
    first.write_bytes(damaged(bytearray(first.read_bytes()), what))
    assert found(store, ids(1, 2)) == {b"id2": 2}
    assert f"{first.name}: changed since it was written; computed again" in caplog.text
    store.add(ids(1), vectors(1))
    assert found(store, ids(1, 2)) == {b"id2": 2, b"id1": 1}


def test_columns_and_matrices() -> None:
    v = np.arange(12, dtype=np.float16).reshape(3, 4)
    there, back = embedding_column.to_matrix(embedding_column.to_column(v))
    assert there.tolist() == [0, 1, 2]
    assert (back == v).all()


def test_a_column_that_its_offsets_cannot_reach_is_refused() -> None:
    """2,796,202 embeddings of 384 numbers fit; one more went to a negative place."""
    with pytest.raises(OverflowError, match="2796203 embeddings of 768 bytes"):
        embedding_column.to_column(np.broadcast_to(np.zeros((1, 384), np.float16), (2_796_203, 384)))

"""A shard's manifest that somebody has damaged: the other shards are still shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from gra_hpc.run.run import Run
from gra_hpc.views.status import collect
from gra_hpc.views.status_lines import failure_lines
from tools.faults.faults import make_run, undisturbed


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Run:
    return undisturbed(make_run(tmp_path_factory.mktemp("damaged") / "run", 4, ["launch.shards=2"]))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"ledger": {"planned": "x"}}', b"one bit"])
def test_it_is_named_and_the_rest_is_shown(done: Run, content: bytes) -> None:
    manifest = done.round(1).shard(0).manifest
    before = manifest.read_bytes()
    manifest.write_bytes(before.replace(b'"planned": 2', b'"planned": 3') if content == b"one bit" else content)
    assert manifest.read_bytes() != before
    try:
        status = collect(done)
    finally:
        manifest.write_bytes(before)
    assert [s.state for s in status.rounds[0].shards] == ["failed", "published"]
    (line,) = failure_lines(status)
    assert str(manifest) in line and "move it away" in line

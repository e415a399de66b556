"""A shard that somebody has damaged: the others are still shown, and what is said makes it again."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.engines import simulated
from gra_hpc.errors import ReleaseError
from gra_hpc.launch.submit import submit
from gra_hpc.release.inputs import Inputs
from gra_hpc.run.merged import made_again
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json
from gra_hpc.views import shard_status
from gra_hpc.views.sample import find_sample
from gra_hpc.views.shard_status import ShardStatus, look
from gra_hpc.views.status import collect
from gra_hpc.views.status_lines import failure_lines, lines, next_command
from tools.faults.faults import make_run, release_of, sample_rows, undisturbed


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Run:
    return undisturbed(make_run(tmp_path_factory.mktemp("damaged") / "run", 4, ["launch.shards=2", "method.rounds=2"]))


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
    assert f"bring it back, or move {manifest} and {done.path}/rounds/{{01,02}}/merged away, then gra resume" in line


def test_a_shard_that_is_published_while_it_is_looked_at_is_not_damaged(
    done: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the read that found no manifest, and the question whether there is one."""
    shard = done.round(1).shard(0)
    away = shard.manifest.rename(tmp_path / "manifest.json")

    def read_a_moment_early(path: Path) -> Any:
        try:
            return read_json(path)
        finally:
            if away.exists():
                away.rename(path)

    monkeypatch.setattr(shard_status, "read_json", read_a_moment_early)
    found = look(shard)
    assert isinstance(found, ShardStatus) and found.state == "published"


def typed(advice: str) -> None:
    """Move away what is to be moved, as a shell reads it."""
    words = re.sub(" and ", " ", re.search(r"move (.+) away, then gra resume /", advice)[1])  # type: ignore[index]
    subprocess.run(["bash", "-c", f'for f in {words}; do mv "$f" "$f.away" || exit 1; done'], check=True)


@pytest.mark.parametrize("first_gone", [False, True])
def test_a_merged_shard_is_made_again_by_what_is_printed(
    done: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], first_gone: bool
) -> None:
    """Its manifest alone was moved away before, as somebody does who has not read on, or not."""
    shutil.copytree(done.path, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    shard = run.round(1).shard(0)
    rows, released = sample_rows(shard), release_of(run)
    (table,) = shard.path.glob("samples-*")
    table.write_bytes(table.read_bytes()[:200])
    if first_gone:
        shard.manifest.rename(tmp_path / "manifest.json")
        gone = f"{shard.manifest}: gone, though round 1 was merged with it"
        submit(run, resume=True)
        said = " ".join(capsys.readouterr().out.split())
        status = collect(run)
        assert gone in said and next_command(status) in said
        assert gone in " ".join(" ".join(lines(status)).split())
        with pytest.raises(ReleaseError, match="gone, though round 1") as e:
            list(Inputs.of_run(run).rounds[0].tables())
        assert e.value.then == next_command(status)
    else:
        with pytest.raises(ReleaseError, match=r"200 bytes, .* were recorded") as e:
            find_sample(run, "no such sample")
    typed(e.value.then)
    assert next_command(collect(run)) == f"gra resume {run.path}"
    undisturbed(run)
    assert sample_rows(shard) == rows and release_of(run) == released
    assert next_command(collect(run)).startswith("gra inspect")


def test_a_shard_that_no_merge_has_counted_is_moved_alone(done: Run, tmp_path: Path) -> None:
    shutil.copytree(done.path, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    shutil.rmtree(run.round(2).merged)
    shard = run.round(2).shard(1)
    shard.manifest.write_text("{}")
    with pytest.raises(ReleaseError, match="not a shard manifest") as e:
        undisturbed(run)
    assert e.value.then == f"move {shard.manifest} away, then gra resume {run.path}"
    typed(e.value.then)
    undisturbed(run)
    assert release_of(run) == release_of(done)


def test_a_shard_that_comes_back_with_other_rows_takes_along_what_was_drawn_from_them(
    done: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines do not say the same twice: the simulated one draws from other bytes here."""
    shutil.copytree(done.path, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    shard = run.round(1).shard(0)
    rows, drawn = sample_rows(shard), sample_rows(run.round(2).shard(0))
    typed(made_again(shard))
    draw = simulated._Draw
    monkeypatch.setattr(simulated, "_Draw", lambda raw: draw(raw[1:] + raw[:1]))
    with pytest.raises(ReleaseError, match="drawn from another pool than that of round 1's merge") as e:
        undisturbed(run)
    typed(e.value.then)
    assert not any(run.round(2).shard(number).manifest.exists() for number in (0, 1))
    undisturbed(run)
    assert sample_rows(shard) != rows and sample_rows(run.round(2).shard(0)) != drawn
    assert next_command(collect(run)).startswith("gra inspect")

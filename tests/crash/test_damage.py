"""Journals that are torn, corrupt or empty: what is whole is served, what is not is asked again and reported."""

from __future__ import annotations

import os
import random
import signal
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from gra_hpc.run.directory import ShardDir
from gra_hpc.run.run import Run
from gra_hpc.run.shard_manifest import ShardManifest
from gra_hpc.storage import read_json
from gra_hpc.views.status import collect
from gra_hpc.views.status_lines import journal_lines
from tools.faults.faults import SYNTHESIZE, Audit, check_shard

MakeRun = Callable[..., Run]
JOB = (0, "--round", 1)


def killed_at(run: Run, nursery, log: Path, write: int) -> tuple[ShardDir, Path, Audit]:
    """A shard whose attempt died after some answers, its journal, and what is known to be in it."""
    shard = run.round(1).shard(0)
    audit = Audit(shard)
    audit.starting()
    dead = nursery.start(SYNTHESIZE, run.path, *JOB, log=log, below=run.path, only="write", at=write)
    assert dead.wait() == -signal.SIGKILL
    audit.stopped()
    (journal,) = shard.attempts.glob("*/journal.log")
    assert len(audit.answered) == write - 1
    return shard, journal, audit


def tear(data: bytearray, draw: random.Random) -> bytearray:
    """The last line loses its end."""
    start = data[:-1].rfind(b"\n") + 1
    return data[: draw.randrange(start + 1, len(data))]


def one_byte(data: bytearray, draw: random.Random) -> bytearray:
    at = draw.randrange(len(data) // 3, 2 * len(data) // 3)
    data[at] ^= 1 << draw.randrange(8)
    return data


def lost_break(data: bytearray, _: random.Random) -> bytearray:
    """Two lines run into one."""
    data[data.find(b"\n", len(data) // 2)] = 0
    return data


def zeros(data: bytearray, _: random.Random) -> bytearray:
    """A page that never reached the disk, and a tail of zeros: what a power loss leaves."""
    data[4096:8192] = bytes(4096)
    return data + bytes(5000)


@pytest.mark.parametrize("damage", [tear, one_byte, lost_break, zeros])
def test_damage_costs_what_it_touched(
    damage: Callable[[bytearray, random.Random], bytearray],
    new_run: MakeRun,
    reference: Run,
    nursery,
    tmp_path: Path,
) -> None:
    run = new_run()
    shard, journal, audit = killed_at(run, nursery, tmp_path / "log", 40)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(damage(bytearray(b"".join(lines)), random.Random(5)))
    audit.hurt()
    assert 1 <= audit.damaged <= (1 if damage is not zeros else 4096 // min(map(len, lines)) + 2)
    audit.starting()
    process = nursery.start(SYNTHESIZE, run.path, *JOB, log=tmp_path / "log")
    assert process.wait() == 0, process.tail()
    assert audit.published()[1] == audit.reasked == 0
    check_shard(shard, reference.round(1).shard(0))
    manifest = read_json(shard.manifest)
    (seen,) = manifest["journals"]
    assert seen["attempt"] == journal.parent.name
    assert seen["calls"] == 39 - audit.damaged
    if damage is tear:
        assert seen["torn_bytes"] > 0
        assert manifest["corrupt_journal_lines"] == 0
    else:
        assert manifest["corrupt_journal_lines"] == len(seen["corrupt_at"]) == 1
        assert f"byte {seen['corrupt_at'][0]}: corrupt line skipped" in process.tail(10_000)


def test_empty_and_foreign_journals(new_run: MakeRun, reference: Run, nursery, tmp_path: Path) -> None:
    """An attempt that died before its first answer, and a file that is no journal at all."""
    run = new_run()
    shard, _, audit = killed_at(run, nursery, tmp_path / "log", 20)
    for name, data in (("20000101T000000-empty", b""), ("20000101T000001-noise", os.urandom(20_000))):
        (shard.attempts / name).mkdir()
        (shard.attempts / name / "journal.log").write_bytes(data)
    audit.starting()
    process = nursery.start(SYNTHESIZE, run.path, *JOB, log=tmp_path / "log")
    assert process.wait() == 0, process.tail()
    assert audit.published()[1] == audit.reasked == 0
    check_shard(shard, reference.round(1).shard(0))
    assert [j["calls"] for j in read_json(shard.manifest)["journals"]] == [0, 0, 19]


def test_answers_to_other_questions_are_not_served(new_run: MakeRun, reference: Run, nursery, tmp_path: Path) -> None:
    """A journal whose calls carry another request's digest is as good as none."""
    from gra_hpc.run.journal import Scan, decode, encode, scan

    run = new_run()
    shard, journal, audit = killed_at(run, nursery, tmp_path / "log", 20)
    data = journal.read_bytes()
    calls = [decode(data[at : at + size]) for _, at, size, _ in scan(journal, Scan(journal))]
    other = [encode(type(c)(c.key, "0" * 32, *(getattr(c, k) for k in c.__slots__[2:]))) for c in calls]
    journal.write_bytes(b"".join(other))
    audit.hurt()
    assert audit.damaged == 19
    process = nursery.start(SYNTHESIZE, run.path, *JOB, log=tmp_path / "log")
    assert process.wait() == 0, process.tail()
    check_shard(shard, reference.round(1).shard(0))
    (own,) = [a for a in read_json(shard.manifest)["attempts"] if a["phase"] == "publishing"]
    assert own["replayed"] == 0


def test_foreign_things_among_attempts_end_none(new_run: MakeRun, reference: Run, nursery, tmp_path: Path) -> None:
    """Lines that are whole and hold other things than calls, a directory of a journal's name, a file among attempts, a
    name that no attempt has: counted in manifest and status, the rest is used."""
    run = new_run()
    shard, journal, audit = killed_at(run, nursery, tmp_path / "log", 20)
    attempts, body = shard.attempts, b"%s [1, 2]" % (b"0" * 32)
    with journal.open("ab") as file:
        file.write(b"%08x %s\n" % (zlib.crc32(body), body))
    (attempts / "20000101T000000-directory" / "journal.log").mkdir(parents=True)
    (attempts / "20000101T000001-fifo").mkdir()
    os.mkfifo(attempts / "20000101T000001-fifo" / "journal.log")
    (attempts / "20000101T000002-file").write_text("no directory")
    (attempts / "a copy\x1b[2J").mkdir()
    (attempts / "a copy\x1b[2J" / "journal.log").write_bytes(journal.read_bytes())
    audit.starting()
    process = nursery.start(SYNTHESIZE, run.path, *JOB, log=tmp_path / "log")
    assert process.wait() == 0, process.tail()
    assert audit.published()[1] == audit.reasked == 0
    check_shard(shard, reference.round(1).shard(0))
    manifest = read_json(shard.manifest)
    assert (manifest["corrupt_journal_lines"], manifest["unread_journals"], manifest["lost_calls"]) == (1, 2, 0)
    assert [(j["corrupt"], bool(j["problem"])) for j in manifest["journals"]] == [(0, True), (0, True), (1, False)]
    assert ShardManifest.load(shard).attempts[0] == "20000101T000000-directory"
    (seen, _) = collect(run).rounds[0].shards
    assert (seen.state, seen.corrupt, seen.lost) == ("published", 3, 0)
    assert any("3 lines of journals, or whole ones, could not be used" in x for x in journal_lines(collect(run)))

"""Flows of other shapes than ours, in a few lines each: the seam carries them as they are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gra_hpc.errors import ReleaseError, StorageError
from gra_hpc.launch.tasks import ShardTask
from gra_hpc.records import Call
from gra_hpc.run import journal
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json
from gra_hpc.training.examples import read_examples
from tests.flows.foreign.brought import brought
from tests.flows.test_conversation_run import run_of
from tests.flows.test_variants import released


def calls_of(run: Run, round_: int) -> list[dict[str, str]]:
    shards = [run.round(round_).shard(n) for n in range(run.plan.shards)]
    return [c for s in shards for c in pq.read_table(s.calls(read_json(s.manifest)["attempt"])).to_pylist()]


def test_a_round_may_ask_nobody_and_go_by_what_the_round_before_has_found(tmp_path: Path) -> None:
    """As extract does: documents x attributes, and a round that only adds up."""
    records = [{"instruction": f"A red house, number {n}."} for n in range(12)]
    words = ["method.flow=tally", "method.rounds=2", "method.samples_per_seed=2"]
    with brought("tally"):
        manifest, rows = released(run := run_of(tmp_path, *words, records=records))
        assert len(calls_of(run, 1)) == 24 and calls_of(run, 2) == []
        with pytest.raises(ReleaseError, match=r"rows are no chats \(no column messages\): those of method.flow=tally"):
            read_examples(str(run.path))
    assert len(rows) == 48 and manifest["ledger"]["accepted"] == 48
    for attribute in ("colour", "size"):
        first, second = ([r["value"] for r in rows if (r["attribute"], r["round"]) == (attribute, n)] for n in (1, 2))
        counts = Counter(first)
        assert second == [max(sorted(counts), key=counts.__getitem__)] * 12 and len(counts) > 1


def test_a_candidate_may_take_many_turns_and_resumes_in_the_midst_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As converse does: each turn rests on all before; a killed attempt's turns are not asked again."""
    records = [{"instruction": f"Bees, part {n}."} for n in range(4)]
    words = ["method.flow=talk", "talk.turns=5", "launch.shards=1"]
    kept, answered = journal.Journal.append, [list[str]()]

    def append(self: journal.Journal, call: Call) -> None:
        kept(self, call)
        answered[-1].append(call.key)
        if len(answered) == 1 and call.key.endswith("/speaker-3/0"):
            raise StorageError("the disk is full", "make room")

    with brought("talk"):
        run = run_of(tmp_path, *words, records=records)
        monkeypatch.setattr(journal.Journal, "append", append)
        with pytest.raises(StorageError):
            ShardTask(str(run.path), 1, 0)()
        answered.append([])
        _, rows = released(run)
        calls = calls_of(run, 1)
    first, second = map(set, answered)
    assert len(first) >= 3 and not first & second and len(first | second) == len(calls) == 20 and len(rows) == 4
    for row in rows:
        said = [t["text"] for t in row["turns"]]
        mine = sorted((c for c in calls if c["key"].startswith(row["id"])), key=lambda c: c["key"])
        assert [c["text"] for c in mine] == said and [c["member"] for c in mine] == [t["member"] for t in row["turns"]]
        assert [t["member"] for t in row["turns"]] == [row["seats"][0]["members"][n % 2] for n in range(5)]

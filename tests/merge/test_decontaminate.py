"""Rows that hold a benchmark's text: found in a merge, named with the benchmark and the span."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fabricate import make_run, publish_shard, rows, sample, seed, text

from gra_hpc.errors import ConfigError
from gra_hpc.merge.round import merge_round
from gra_hpc.signatures.decontaminate import Benchmarks
from gra_hpc.sources import benchmarks as benchmark_files
from gra_hpc.text.normal_form import normalise


def test_planted_benchmark_questions_are_found(tmp_path: Path) -> None:
    bench = tmp_path / "bench.jsonl"
    rng = random.Random(3)
    question, short = text(rng, 25), "What is the capital of Atlantis?"
    lines = [{"question": text(rng, 40)}, {"question": question, "choices": ["a", "b"]}, {"question": short}]
    bench.write_text("".join(json.dumps(x) + "\n" for x in lines))
    run = make_run(tmp_path / "run", [seed(0)], shards=1, decontamination__sources=[str(bench)])
    publish_shard(run, 1, 0, [
        sample(0, f"Please answer: {question.upper()}"),
        sample(1, response=f"As they say, {' '.join(question.split()[3:18])} and so on"),
        sample(2, "what is the  capital of atlantis"),
        sample(3, f"{short} Tell me more."),  # only shares a short text
        sample(4, response=" ".join(question.split()[:12])),  # one word short of a run
        sample(5),
    ])  # fmt: skip
    summary = merge_round(run, 1)
    assert summary.dropped["contaminated"] == 3
    lost = {r["id"]: r for r in rows(run.round(1).dropped)}
    assert set(lost) == {sample(i).id for i in (0, 1, 2)}
    assert lost[sample(0).id]["detail"].startswith("bench.jsonl:2 instruction words 3-27: ")
    assert lost[sample(1).id]["detail"].startswith("bench.jsonl:2 response words 4-18: ")
    assert lost[sample(2).id]["detail"] == 'bench.jsonl:3 instruction words 1-6: "what is the capital of atlantis"'
    step = summary.manifest["steps"]["decontamination"]
    assert (step["ngram"], step["dropped"]) == (13, 3)
    (source,) = step["sources"]
    assert (source["source"], source["texts"], source["dropped"]) == (str(bench), 5, 3)
    assert len(source["sha256"]) == 64 and not source["revision"]


def test_benchmarks_meet_rows_across_the_border_as_wholes_and_each_for_itself(tmp_path: Path) -> None:
    rng = random.Random(5)
    shared, answered, long = (text(rng, 30), text(rng, 24), "Which is 12+34, 7 * (8-9), or x != y? " + text(rng, 9))
    benches = [tmp_path / "a.txt", tmp_path / "b.jsonl"]
    short = "Name seven wonders of the ancient world."
    benches[0].write_text(f"{shared}\n{answered}\n{short}\nyes\nWhat is 3 + 4 = 7\n")
    benches[1].write_text(json.dumps({"q": f"First of all: {shared}"}) + "\n" + json.dumps({"q": long}) + "\n")
    run = make_run(tmp_path / "run", [seed(0)], shards=1, decontamination__sources=[*map(str, benches)])
    words = answered.split()
    publish_shard(run, 1, 0, [
        sample(0, f"Tell me: {shared}"),
        sample(1, f"Go on: {' '.join(words[:8])}", f"{' '.join(words[8:16])}, and that is all."),
        sample(2, long.replace("12+34", "12 + 34").replace("7 * (8-9)", "7*(8 - 9)").upper()),
        sample(3, response=short.lower()),
        sample(4, "What is 3+4 =", "7"),
        sample(5, response="Yes!"),
        sample(6, f"Go on: {' '.join(words[:8])}", f"{' '.join(words[12:20])}, and that is all."),
    ])  # fmt: skip
    summary = merge_round(run, 1)
    lost = {r["id"]: r["detail"] for r in rows(run.round(1).dropped)}
    assert set(lost) == {sample(i).id for i in range(5)}
    first, second = lost[sample(0).id].split("; ")
    assert first.startswith("a.txt:1 instruction words 3-32: ")
    assert second.startswith("b.jsonl:1 instruction words 3-32: ")
    assert lost[sample(1).id].startswith("a.txt:2 instruction and response words 3-18: ")
    assert lost[sample(2).id].startswith("b.jsonl:2 instruction words 1-")
    assert lost[sample(3).id].startswith("a.txt:3 response words 1-7: ")
    assert lost[sample(4).id] == 'a.txt:5 instruction and response words 1-5: "what is 3 +4 =7"'
    step = summary.manifest["steps"]["decontamination"]
    assert [s["dropped"] for s in step["sources"]] == [4, 2] and step["dropped"] == 5


def lines_run(work: Callable[[], object]) -> int:
    """Lines of Python that something runs: its steps, the same on every machine."""
    count = 0

    def trace(_: object, event: str, __: object) -> object:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_long_contamination_takes_steps_by_its_length(tmp_path: Path) -> None:
    """Twice the words, twice the steps: also of what repeats itself, where each word begins many runs."""
    steps: list[tuple[int, int]] = []
    for words in (5_000, 10_000, 20_000):
        long = text(random.Random(6), words)
        (tmp_path / "b.txt").write_text(f"{long}\n" + "again and " * (words // 4))
        source = str(tmp_path / "b.txt")
        benchmarks = Benchmarks({source: benchmark_files.find(source)}, 13)
        ask, answer = normalise([b"Repeat:", long.encode()])
        (match,) = benchmarks.match(ask, answer)
        assert (match.field, match.begin, match.end) == ("response", 0, words)
        again = b"and again " * (words // 2)
        (match,) = benchmarks.match(b"repeat", again)
        assert match.end - match.begin >= words // 2 - 2
        steps.append(
            (
                lines_run(lambda ask=ask, answer=answer, known=benchmarks: known.match(ask, answer)),  # type: ignore[misc]
                lines_run(lambda again=again, known=benchmarks: known.match(b"repeat", again)),  # type: ignore[misc]
            )
        )
    for kind in zip(*steps, strict=True):
        assert kind[2] <= 2.5 * kind[1] <= 2.5 * 2.5 * kind[0], steps


def test_rows_that_differ_in_a_sign_or_an_operator_are_other_rows(tmp_path: Path) -> None:
    bench = tmp_path / "b.txt"
    bench.write_text("Compute 3-5.\nWhat is 12 + 34?\n")
    different = ["the square of -3?", "the square of 3?", "Is 2.1 greater?", "Is 21 greater?", "x != y", "x = y",
                 "a - b", "a & b", "12/4*1", "12-4*1", "Compute 35."]  # fmt: skip
    same = [("Compute 7 * (8+9)", "compute 7*(8 + 9)."), ("Is x>=2?", "is x ≥ 2")]
    run = make_run(tmp_path / "run", [seed(0)], shards=1, decontamination__sources=[str(bench)])
    asked = [*different, *(t for pair in same for t in pair), "COMPUTE 3 - 5", "what is 12+34"]
    publish_shard(run, 1, 0, [sample(i, t, "So be it.") for i, t in enumerate(asked)])
    assert merge_round(run, 1).dropped == {
        "contaminated": 2, "exact": 2, "fuzzy": 0, "semantic": 0, "surplus": 0,
    }  # fmt: skip
    assert set(different) < {r["instruction"] for r in rows(run.round(1).kept)}


def test_a_benchmark_that_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    bench.mkdir()
    (bench / "a.txt").write_text("What is the meaning of life?\n")
    run = make_run(tmp_path / "run", [seed(0)], shards=1, decontamination__sources=[str(bench)])
    publish_shard(run, 1, 0, [sample(0)])
    (bench / "b.txt").write_text("And of death?\n")
    with pytest.raises(ConfigError, match="not the files that the run was planned with"):
        merge_round(run, 1)
    (bench / "b.txt").unlink()
    bench.rename(tmp_path / "away")
    with pytest.raises(ConfigError, match="no longer at"):
        merge_round(run, 1)
    (tmp_path / "away").rename(bench)
    assert merge_round(run, 1).kept == 1


def test_a_contaminated_row_beats_nobody(tmp_path: Path) -> None:
    bench = tmp_path / "b.txt"
    rng = random.Random(4)
    bench.write_text("What is the meaning of life then?\n")
    answer = text(rng, 80)
    run = make_run(tmp_path / "run", [seed(0)], shards=1, decontamination__sources=[str(bench)])
    publish_shard(run, 1, 0, [sample(0, "What is the meaning of life then", answer, 10.0),
                              sample(1, "What is the meaning of life now", answer, 8.0)])  # fmt: skip
    assert merge_round(run, 1).dropped | {"contaminated": 0} == dict.fromkeys(
        ("contaminated", "exact", "fuzzy", "semantic", "surplus"), 0
    )
    assert [r["id"] for r in rows(run.round(1).kept)] == [sample(1).id]

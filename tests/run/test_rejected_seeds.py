"""Most records are rejected: that, and what mends it, is said before what follows from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gra_hpc.config import presets
from gra_hpc.errors import SeedError
from gra_hpc.run import planning
from gra_hpc.run.run import Run
from gra_hpc.sources import rejected
from gra_hpc.views.plan import preview

DESCRIBED = {"domain": "qa", "keywords": ["a", "b", "c"], "summary": "A task."}


def latin(tmp_path: Path, plain: int, others: int, *words: str) -> Run:
    """Plan with a file in Latin-1, some records of which are ASCII all the same."""
    rows = [
        {"instruction": f"Do {i}{' für mich' if i >= plain else ''}.", "response": "Ja."} for i in range(plain + others)
    ]
    text = "".join(json.dumps(row | DESCRIBED, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "seeds.jsonl").write_bytes(text.encode("latin-1"))
    path = f"seeds.path={tmp_path / 'seeds.jsonl'}"
    return planning.make(
        tmp_path / "run", presets.compose("demo", [path, "merge.semantic=false", "engine.kind=simulated", *words])
    )


def test_too_few_seeds_are_told_by_what_became_of_the_others(tmp_path: Path, smollm2: Path) -> None:
    with pytest.raises(SeedError) as e:
        latin(tmp_path, 1, 29)
    assert "29 of 30 records rejected (29 encoding), the first at seeds.jsonl line 2: not UTF-8" in e.value.what
    assert f"iconv -f WINDOWS-1252 -t UTF-8 {tmp_path / 'seeds.jsonl'} > new.jsonl" in e.value.then
    assert "launch.shards=1" not in str(e.value) and not (tmp_path / "run").exists()


def test_a_plan_from_which_most_records_are_missing_says_so_loudly(tmp_path: Path, smollm2: Path) -> None:
    text = "\n".join(preview(latin(tmp_path, 2, 3), None))
    assert "MOST RECORDS ARE NO SEEDS: 3 of 5 records rejected (3 encoding); if they are in Latin-1" in text
    (tmp_path / "run").rename(tmp_path / "other")
    assert "MOST RECORDS" not in "\n".join(preview(latin(tmp_path, 3, 2), None))


def test_without_any_seed_the_reasons_are_counted(tmp_path: Path, smollm2: Path) -> None:
    with pytest.raises(SeedError, match=r"no usable record; 2 rejected \(2 encoding\).* -> if they are in Latin-1"):
        latin(tmp_path, 0, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"instruction": "a"}]', "is a list in JSON, not an object a line: name it seeds.json"),
        ('[\n  {"instruction": "a"}\n]\n', "name it seeds.json"),
        ('[{"instruction": "a"},\n{"instruction": "b"}]', "name it seeds.json"),
        ('instruction,output\n"a, b",c\n', "is CSV, not JSON: name it seeds.csv"),
        ("instruction\toutput\na\tc\n", "name it seeds.tsv"),
        ("[1]\n[2]\n", "otherwise"),
        ("Say hello, please.\nThen go.\n", "otherwise"),
        ('{"a": 1, b}\n{"a": 2, c}\n', "otherwise"),
    ],
)
def test_text_of_another_kind_than_its_name_says(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "seeds.jsonl").write_text(text)
    for path in (tmp_path / "seeds.jsonl", tmp_path):
        assert words in rejected.remedy(str(path), {"malformed": 2}, "otherwise")
    assert "\n" not in words


def test_each_reason_has_its_remedy() -> None:
    assert rejected.most(5, {"malformed": 5}) == ""
    assert rejected.most(1, {"duplicate": 2, "malformed": 3}) == "5 of 6 records rejected (3 malformed, 2 duplicate)"
    assert rejected.remedy("s.jsonl", {"duplicate": 2, "malformed": 3}, "mend them") == "mend them"
    assert "seeds.max_chars" in rejected.remedy("s.jsonl", {"oversized": 2}, "")

"""What the merge takes for the same text, or nearly, in every script and in code: small files of rows, merged."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from fabricate import make_run, publish_shard, rows, sample, seed

from gra_hpc.merge.round import merge_round

CASES = Path(__file__).parents[1] / "cases"


def kept(tmp_path: Path, pairs: list[tuple[str, str]], domain: str = "qa", threshold: float = 0.8) -> list[int]:
    """Places of the rows that a merge keeps; the first are the best."""
    run = make_run(tmp_path / "run", [seed(0)], 1, fuzzy_threshold=threshold)
    samples = [sample(i, a, b, score=9 - i / 1000) for i, (a, b) in enumerate(pairs)]
    for s in samples:
        s.domain = domain
    publish_shard(run, 1, 0, samples)
    merge_round(run, 1)
    place = {s.id: i for i, s in enumerate(samples)}
    return sorted(place[row["id"]] for row in rows(run.round(1).merged / "kept.parquet"))


def case(name: str) -> list[tuple[str, str]]:
    found = [json.loads(line) for line in (CASES / name).read_text().splitlines()]
    return [(r["instruction"], r.get("response", "x")) for r in found]


def test_code_is_compared_as_code(tmp_path: Path) -> None:
    pairs = case("code.jsonl")
    assert kept(tmp_path, pairs) == list(range(len(pairs)))


def test_superscripts_and_fractions_keep_their_value(tmp_path: Path) -> None:
    assert kept(tmp_path, case("superscripts.jsonl")) == [0, 1, 2, 3, 4, 5]


def test_of_a_chain_a_row_goes_only_for_one_that_stays(tmp_path: Path) -> None:
    left = kept(tmp_path, case("chain.jsonl"))
    assert len(left) >= 15 and left[0] == 0 and max(b - a for a, b in pairwise(left)) <= 4


def test_near_duplicates_are_found_in_every_script(tmp_path: Path) -> None:
    pairs = case("scripts.jsonl")
    names = [a for a, _ in pairs]
    left = [names[i] for i in kept(tmp_path / "a", pairs)]
    assert left == [*dict.fromkeys(names)], "the Chinese rows share 63% of their shingles, two of the Arabic ones 75%"
    left = [names[i] for i in kept(tmp_path / "b", pairs, threshold=0.6)]
    assert left == [n for n in dict.fromkeys(names) if n not in ("中文二", "العربية مشكول")]


LEAD = "Beskriv floden"
MORE = {
    "Javanese": "ꦕꦸꦩꦺꦴꦔꦏꦺꦤꦠꦸꦭꦶꦱꦤ꧀ꦗꦮꦏꦁꦢꦮꦧꦔꦼꦠ꧀ꦱꦲꦶꦁꦒꦤꦺꦱꦶꦗꦶ",
    "Tibetan with its own stops": "བོད་ཡིག་ནི་ཡུལ་བོད་ཀྱི་སྐད་ཡིག་ཡིན་ཞིང་དེ་ནི་ལོ་ངོ་སྟོང་གི་གོང་ནས་བྱུང་བ་ཡིན་",
    "Yi": "ꆈꌠꁱꂷꀋꉬꀃꌤꇁꐛꀕꋍꈭꌠꆏꀊꋨꑌꄉꏦꎭꎹꊭꄯꒉꆀꈎꅪꄷꏂꇬꁧꂵꐥ",
    "Japanese": "琵琶湖は日本で最も大きな湖であり、滋賀県の中央に位置して多くの川が流れ込んでいます",
    "Russian": "длинная река течёт с высоких гор через старые города и зелёные долины к тёплому морю на юге страны",
}


@pytest.mark.parametrize("script", MORE)
def test_near_duplicates_are_found_in_other_scripts(script: str, tmp_path: Path) -> None:
    text, end = MORE[script], MORE[script][-2]
    other = MORE["Japanese" if script != "Japanese" else "Yi"]
    assert kept(tmp_path, [(LEAD, text), (LEAD, text[:-2] + text[3] + end), (LEAD, other)]) == [0, 2]


def test_vowel_points_do_not_count(tmp_path: Path) -> None:
    arabic, hebrew = "النهر طويل جدا ويجري من الجبال", "שלום עליכם וברוכים הבאים"
    pointed = [("x", "النَّهْرُ طَوِيلٌ جدا ويجري من الجبـــال"), ("y", "שָׁלוֹם עֲלֵיכֶם וּבְרוּכִים הַבָּאִים")]
    assert kept(tmp_path, [("x", arabic), ("y", hebrew), *pointed]) == [0, 1]


SAME_AS_PROSE = [("Name it.", "The Same Thing, twice."), ("name it", "the same thing twice")]


def test_prose_is_compared_as_prose_but_in_the_coding_domain(tmp_path: Path) -> None:
    assert kept(tmp_path / "a", SAME_AS_PROSE) == [0]
    assert kept(tmp_path / "b", SAME_AS_PROSE, domain="coding") == [0, 1]

"""What the merge takes for the same text, or nearly, in every script and in code: small files of rows, merged."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from fabricate import make_run, publish_shard, rows, sample, seed

from gra_hpc.merge.round import merge_round
from gra_hpc.signatures.signing import shingles
from gra_hpc.text.normal_form import compared
from gra_hpc.text.words import unique_sorted

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
    assert left == [*dict.fromkeys(names)], "rows of other names differ in more than the threshold lets pass"
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


SAID = {
    "Chinese": case("scripts.jsonl")[:2],
    "English": [
        (
            f"Chinese {name}",
            "The Yangtze is the longest river in China; it rises on the Tibetan Plateau, flows through"
            f" {some} provinces, and finally empties into the East China Sea at Shanghai, about 6300 kilometres in all",
        )
        for name, some in (("one", "several"), ("two", "many"))
    ],
}


def test_a_pair_in_chinese_is_as_similar_as_its_translation() -> None:
    """A letter is less than a word, and the threshold means the same: neither pair is one of near-duplicates by
    default (two places of a short row differ), and both are from 0.63 on."""
    found = {}
    for language, pair in SAID.items():
        columns = [compared([text.encode() for text in column], [False, False]) for column in zip(*pair, strict=True)]
        sets = unique_sorted(shingles(*columns, 5))
        a, b = (set(sets.values[s:e].tolist()) for s, e in pairwise(sets.offsets))
        found[language] = len(a & b) / len(a | b)
    assert found["Chinese"] == pytest.approx(found["English"], abs=0.02) == pytest.approx(0.63, abs=0.02)


STAY = {
    "Chinese, another number": (
        (
            "小明有12个苹果，他又买了15个苹果，请问小明现在一共有多少个苹果？",
            "小明现在一共有27个苹果，因为十二加十五等于二十七。",
        ),
        (
            "小明有12个苹果，他又买了18个苹果，请问小明现在一共有多少个苹果？",
            "小明现在一共有30个苹果，因为十二加十八等于三十。",
        ),
    ),
    "Chinese, another country": (("法国的首都是哪里？", "是巴黎。"), ("德国的首都是哪里？", "是柏林。")),
    "Japanese, another country": (
        ("フランスの首都はどこですか。", "フランスの首都はパリです。"),
        ("ドイツの首都はどこですか。", "ドイツの首都はベルリンです。"),
    ),
    "Thai, another country": (
        ("เมืองหลวงของประเทศฝรั่งเศสคือเมืองอะไร", "กรุงปารีส"),
        ("เมืองหลวงของประเทศเยอรมนีคือเมืองอะไร", "กรุงเบอร์ลิน"),
    ),
    "Arabic, another country": (("ما هي عاصمة فرنسا؟", "باريس"), ("مَا هِيَ عَاصِمَةُ مِصْرَ؟", "القاهرة")),
    "Hebrew, another country": (("מה בירת צרפת?", "פריז"), ("מַה בִּירַת יָוָן?", "אתונה")),
}
GO = {
    "Chinese": (
        ("介绍西湖", "西湖位于浙江省杭州市，三面环山，湖中有白堤和苏堤，每年春天都有许多游客前来欣赏桃花和垂柳。"),
        ("介绍西湖", "西湖位于浙江省杭州市，三面环山，湖中有白堤和苏堤，每年春天都有许多游客前来欣赏桃花和柳树。"),
    ),
    "Japanese": (
        (
            "富士山とは",
            "富士山は静岡県と山梨県にまたがる日本で最も高い山であり、毎年夏には多くの登山者が頂上を目指します。",
        ),
        (
            "富士山とは",
            "富士山は静岡県と山梨県にまたがる日本で最も高い山であり、毎年夏には多くの登山者が頂上を目指しました。",
        ),
    ),
    "Thai": (
        ("ข้าว", "ข้าวเป็นอาหารหลักของคนไทยและปลูกกันมากในภาคกลางซึ่งมีน้ำอุดมสมบูรณ์ตลอดปี"),
        ("ข้าว", "ข้าวเป็นอาหารหลักของคนไทยและปลูกกันมากในภาคกลางซึ่งมีน้ำอุดมสมบูรณ์ทั้งปี"),
    ),
    "Arabic": (
        ("صف النهر", "النهر طويل جدا ويجري من الجبال العالية إلى البحر الكبير في شمال البلاد القديمة كل عام"),
        ("صِفِ النَّهْرَ", "النَّهْرُ طَوِيلٌ جِدًّا وَيَجْرِي مِنَ الْجِبَالِ الْعَالِيَةِ إِلَى الْبَحْرِ الْكَبِيرِ فِي شَمَالِ الْبِلَادِ الْقَدِيمَةِ كُلَّ شَهْرٍ"),
    ),
    "Hebrew": (
        (
            "פסוקים",
            "בראשית ברא אלהים את השמים ואת הארץ והארץ היתה תהו ובהו וחשך על פני תהום ורוח אלהים מרחפת על פני המים",
        ),
        (
            "פסוקים",
            "בְּרֵאשִׁ֖ית בָּרָ֣א אֱלֹהִ֑ים אֵ֥ת הַשָּׁמַ֖יִם וְאֵ֥ת הָאָֽרֶץ וְהָאָ֗רֶץ הָיְתָ֥ה תֹ֙הוּ֙ וָבֹ֔הוּ וְחֹ֖שֶׁךְ עַל־פְּנֵ֣י תְה֑וֹם וְר֣וּחַ אֱלֹהִ֔ים מְרַחֶ֖פֶת עַל־פְּנֵ֥י הַיָּֽם׃",
        ),
    ),
}


def test_short_rows_that_ask_of_something_else_stay_in_every_script(tmp_path: Path) -> None:
    pairs = [row for pair in STAY.values() for row in pair]
    assert kept(tmp_path, pairs) == list(range(len(pairs)))


def test_rows_that_differ_in_a_word_or_in_points_go_in_every_script(tmp_path: Path) -> None:
    pairs = [row for pair in GO.values() for row in pair]
    assert kept(tmp_path, pairs) == list(range(0, len(pairs), 2))

"""Lists in answers and fields: numbered on a line, JSON, with the commas of any script."""

from __future__ import annotations

import pytest

from gra_hpc.text import lists


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1. tides, 2. moon phases, 3. gravity", ["tides", "moon phases", "gravity"]),
        ("1) tides 2) moon phases 3) gravity", ["tides", "moon phases", "gravity"]),
        ("(1) tides; (2) moon phases; (3) gravity", ["tides", "moon phases", "gravity"]),
        ("1、河流 2、长江 3、中国", ["河流", "长江", "中国"]),
        ("１．河流 ２．長江 ３．中国", ["河流", "長江", "中国"]),
        ("①湖 ②琵琶湖 ③日本", ["湖", "琵琶湖", "日本"]),
        ("١. نهر ٢. جبل ٣. بحر", ["نهر", "جبل", "بحر"]),
        ("Wi-Fi 6, USB 3.2, 5G", ["Wi-Fi 6", " USB 3.2", " 5G"]),
        ("1. a, b\n2. c", ["a", " b"]),
        ("2. a 3. b", ["a 3. b"]),
        ('["tides", "moon, new", "gravity"]', ["tides", "moon, new", "gravity"]),
        ("Here they are: ['tides', \"the moon's\", 'gravity',]", ["tides", "the moon's", "gravity"]),
        ('["draft", "draft 2"]\nBetter:\n[\n  "tides",\n  "moon"\n]', ["tides", "moon"]),
        ('{"keywords": ["tides", "moon"]}', ["tides", "moon"]),
        ("河流，长江，中国", ["河流", "长江", "中国"]),
        ("湖、琵琶湖、日本", ["湖", "琵琶湖", "日本"]),
        ("湖・琵琶湖・日本", ["湖", "琵琶湖", "日本"]),
        ("レオナルド・ダ・ヴィンチ、絵画、発明", ["レオナルド・ダ・ヴィンチ", "絵画", "発明"]),
        ("نهر، جبل؛ بحر", ["نهر", " جبل", " بحر"]),
        ("ወንዝ፣ ተራራ፣ ባሕር", ["ወንዝ", " ተራራ", " ባሕር"]),
        ("TCP/IP / DNS / HTTP", ["TCP/IP", "DNS", "HTTP"]),
        ("Voici trois mots-clés :\nlac, Biwa, Japon", ["lac", " Biwa", " Japon"]),
        ("• lake\n• moon", ["lake", "moon"]),
        ("", []),
    ],
)
def test_items(text: str, expected: list[str]) -> None:
    assert lists.items(text) == expected


def test_a_field_may_hold_its_items_on_several_lines() -> None:
    assert lists.split("a, b\nc;d") == ["a", " b", "c", "d"]
    assert lists.split("河流，长江\n中国") == ["河流", "长江", "中国"]
    assert lists.split('["a, b", "c"]') == ["a, b", "c"]


def test_brackets_without_end_are_tried_a_few_times_only() -> None:
    assert lists.items('["' * 50_000) == ['["' * 50_000]

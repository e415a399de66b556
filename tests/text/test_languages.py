"""Which language a text is in; of code, formulas and a few words there is none."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra_hpc.text import languages

pytestmark = pytest.mark.skipif(not languages.can_tell(), reason=languages.MISSING)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Describe the lighthouse in two sentences.", "English"),
        ("Beschreibe den Fluss, der durch Köln fließt, in zwei Sätzen.", "German"),
        ("琵琶湖について説明してください。", "Japanese"),
        ("请用两句话介绍长江和黄河的历史。", "Chinese"),
        ("Expliquez la photosynthèse en deux phrases.", "French"),
        ("اشرح عملية البناء الضوئي في جملتين.", "Arabic"),
        ("प्रकाश संश्लेषण को दो वाक्यों में समझाइए।", "Hindi"),
        ("Write this in two steps:\n```python\ndef f(x):\n    return x\n```", "English"),
        ("Solve 3x = 9", ""),
        ("def f(x):\n    return x + 1", ""),
        ("42", ""),
        ("", ""),
    ],
)
def test_language_of(text: str, language: str) -> None:
    assert languages.language_of(text) == language


def test_seeds_that_are_not_certain_are_in_the_language_of_most() -> None:
    german, english = "Beschreibe den Fluss in zwei Sätzen.", "Describe the river in two sentences."
    assert languages.of_seeds([(german, ""), ("2 + 2", "4"), (german, ""), (english, "")]) == [
        "German",
        "German",
        "German",
        "English",
    ]
    assert languages.of_seeds([("2 + 2", "4")]) == [""]
    assert languages.of_seeds([("2 + 2 = ?", "Das Ergebnis dieser Rechnung lautet natürlich vier.")]) == ["German"]


def test_rows_are_counted_by_their_response() -> None:
    rows = {
        "instruction": ["Name it in German, please.", "Beschreibe den Fluss in zwei Sätzen."],
        "response": ["", "1"],
    }
    rows["response"][0] = "Hier steht eine sehr lange Antwort auf die Frage."
    assert languages.count(pa.table(rows)) == {"German": 2}
    assert languages.in_order({"": 5, "German": 1, "English": 3}) == [("English", 3), ("German", 1), ("", 5)]


def test_the_models_languages_have_names() -> None:
    assert len(languages.NAMES) > 170 and all(code and name[0].isupper() for code, name in languages.NAMES.items())


PIECES = [
    "the river",
    "Köln fließt",
    "琵琶湖",
    " ",
    "\n",
    ". ",
    "x1",
    "a_b",
    "see www.a.b/c",
    "me@home.org",
    "```\n",
    "if a:",
    "42",
]


@given(st.lists(st.sampled_from([*PIECES, "and so on " * 70, "1 " * 400]), max_size=12))
def test_the_words_looked_at_are_those_of_the_whole_text(pieces: list[str]) -> None:
    text = "".join(pieces)
    said = re.sub(r"\S*(?:://|www\.|@)\S*", " ", languages.prose(text))
    expected = re.findall(r"[^\W\d_]{2,}", said)
    found = languages._first_words(text)
    assert " ".join(found)[:250] == " ".join(expected)[:250] and min(len(found), 3) == min(len(expected), 3)

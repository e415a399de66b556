"""Special tokens: texts that a model's tokenizer reads as marks of its own, and that no text of a prompt may hold.

A text with `<|im_end|>` in it ends its own message early where the model knows that token; to another model it is text
like any other. So each model's own files say which they are: tokenizers name them, chat templates write some that
tokenizers do not (Tulu's `<|user|>`). Where a model's files name none, the shapes that they commonly have stand in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from gra_hpc.config.settings import ModelConfig
from gra_hpc.errors import GraError
from gra_hpc.models.files import chat_template, render_template
from gra_hpc.storage import read_regular

_SHAPES = (
    r"<\|[A-Za-z][\w.\-]{0,60}\|>"  # <|im_start|>, <|eot_id|>, <|endoftext|>, <|start_header_id|>, <|user|>
    r"|<｜[^<>｜\s]{1,60}｜>"  # the same with the wide bars of DeepSeek
    r"|\[/?(?:INST|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS|SYSTEM_PROMPT)\]|\[gMASK\]"
    r"|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos)>|<end_of_utterance>|<unused\d+>"
)
SHAPES = re.compile(_SHAPES)
"""How special tokens commonly look, without those that are HTML too."""
COMMON = re.compile(rf"{_SHAPES}|</?s>")
"""What is taken for a special token where no pool is known."""

_FILES = ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json")
_CONTROL_PIECES = (2, 3)
"""Types of a SentencePiece that are no text: unknown, control."""
_CONVERSATION = (("user", "x"), ("assistant", "x"), ("user", "x"))
Piece = tuple[str, int]


def special_tokens(directory: Path, model: ModelConfig) -> tuple[str, ...] | None:
    """The special tokens of a model, sorted; none where its files do not say.

    Args:
        directory: the model's files: tokenizer.json, tokenizer_config.json, special_tokens_map.json, tekken.json or
            tokenizer.model.
    """
    found = {t for name in _FILES for t in _named(_read(directory / name))}
    found |= set(_tekken(_read(directory / "tekken.json")))
    if not found and (directory / "tokenizer.model").is_file():
        found = {text for text, kind in _pieces(read_regular(directory / "tokenizer.model")) if kind in _CONTROL_PIECES}
    found = {t for t in found if _is_mark(t)}
    if not found:
        return None
    if template := chat_template(directory, model):
        messages = [{"role": role, "content": content} for role, content in _CONVERSATION]
        written = render_template(template, messages, directory) or ""
        found |= {m[0] for text in (template, written) for m in SHAPES.finditer(text)}
    return tuple(sorted(found))


def _is_mark(token: str) -> bool:
    """Whether a token can be told from a text's words: some tokenizers declare line breaks, or single letters."""
    return 2 < len(token) <= 100 and not token.isspace() and not token.isalnum()


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is none."""
    try:
        value = orjson.loads(read_regular(path))
    except (OSError, GraError, orjson.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _named(data: dict[str, Any]) -> Iterator[str]:
    """What a tokenizer's JSON declares as special: as `eos_token` and its like, in lists, and by `special: true`."""
    for key, value in data.items():
        if key.endswith("_token"):
            yield from _texts(value)
        elif key in ("additional_special_tokens", "extra_special_tokens"):
            for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
                yield from _texts(item)
        elif key in ("added_tokens", "added_tokens_decoder"):
            for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
                if isinstance(item, dict) and item.get("special") is True:
                    yield from _texts(item)


def _texts(value: Any) -> Iterator[str]:
    """A token, as its text or as an object with its `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    if isinstance(text, str):
        yield text


_TEKKEN = (
    "<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] [TOOL_CALLS]"
    " [IMG] <pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX]"
)
"""Those of Mistral's first tokenizers of this kind, whose files do not name them."""


def _tekken(data: dict[str, Any]) -> Iterator[str]:
    """Special tokens of Mistral's own tokenizer file."""
    named = data.get("special_tokens")
    if isinstance(named, list):
        yield from (t["token_str"] for t in named if isinstance(t, dict) and isinstance(t.get("token_str"), str))
    elif data:
        yield from _TEKKEN.split()


def _pieces(model: bytes) -> Iterator[Piece]:
    """Text and type of each piece of a SentencePiece model: a protocol buffer, whose field 1 repeats
    {1: text, 2: score, 3: type}."""
    for number, value in _fields(model):
        if number == 1 and isinstance(value, bytes):
            text, kind = "", 1
            for inner, part in _fields(value):
                if inner == 1 and isinstance(part, bytes):
                    text = part.decode("utf-8", "replace")
                elif inner == 3 and isinstance(part, int):
                    kind = part
            yield text, kind


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of a protocol buffer's fields, up to where it is damaged."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    try:
        while at < len(data):
            number, kind = divmod(varint(), 8)
            if kind == 0:
                yield number, varint()
                continue
            size = {1: 8, 5: 4}.get(kind) or varint()
            yield number, data[at : at + size]
            at += size
    except IndexError:
        return


def pattern(models: Iterable[Iterable[str] | None]) -> re.Pattern[str]:
    """What finds a special token of any model of a committee in a text, the longest one at a place.

    Args:
        models: special tokens by model; none for one whose files do not name them.
    """
    models = list(models)
    tokens = {t for own in models if own is not None for t in own}
    alternatives = [_trie(tokens)] if tokens else []
    if not models or any(own is None for own in models):
        alternatives.append(_SHAPES)
    return re.compile("|".join(alternatives))


def _trie(tokens: Iterable[str]) -> str:
    """A regular expression for any of many texts, by their common beginnings: a pool may have thousands, and every
    answer is searched for them."""
    root: dict[str, Any] = {}
    for token in tokens:
        node = root
        for letter in token:
            node = node.setdefault(letter, {})
        node[""] = {}

    def written(node: dict[str, Any]) -> str:
        branches = [re.escape(letter) + written(node[letter]) for letter in sorted(node) if letter]
        if not branches:
            return ""
        body = branches[0] if len(branches) == 1 and "" not in node else f"(?:{'|'.join(branches)})"
        return f"{body}?" if "" in node else body

    return written(root)

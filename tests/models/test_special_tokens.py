"""Special tokens are the models' own: what tokenizers and chat templates name, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.config.settings import ModelConfig
from gra_hpc.models.special_tokens import pattern, special_tokens

MODEL = ModelConfig(path="")


def model(directory: Path, **files: Any) -> tuple[str, ...] | None:
    """The special tokens of a model with some files (`tokenizer_config=...` is tokenizer_config.json)."""
    for name, content in files.items():
        path = directory / (name if "." in name else f"{name}.json")
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return special_tokens(directory, MODEL)


def added(*tokens: str, special: bool = True) -> list[dict[str, Any]]:
    return [{"id": i, "content": t, "special": special} for i, t in enumerate(tokens)]


def piece(text: str, kind: int) -> bytes:
    """A piece of a SentencePiece model as a field of its protocol buffer."""
    raw = text.encode()
    inner = b"\x0a" + bytes([len(raw)]) + raw + b"\x15\x00\x00\x80\xbf" + b"\x18" + bytes([kind])
    return b"\x0a" + bytes([len(inner)]) + inner


def test_tokenizers_say_which_tokens_are_special(tmp_path: Path) -> None:
    """Qwen's `<tool_call>` is an added token, and text; so are Gemma's `<table>` and others of HTML."""
    tokens = model(
        tmp_path,
        tokenizer={"added_tokens": [*added("<|im_end|>", "[BOS]"), *added("<tool_call>", "<table>", special=False)]},
        tokenizer_config={
            "eos_token": "<|im_end|>",
            "unk_token": {"content": "<unk>"},
            "additional_special_tokens": ["<box>"],
            "added_tokens_decoder": {"7": {"content": ">>TITLE<<", "special": True}},
        },
        special_tokens_map={"extra_special_tokens": {"image_token": "<image>"}, "additional_special_tokens": None},
    )
    assert tokens == ("<box>", "<image>", "<unk>", "<|im_end|>", ">>TITLE<<", "[BOS]")


def test_a_template_writes_tokens_that_its_tokenizer_does_not_know(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}{% endfor %}{{ '[/INST]' }}"
    tokens = model(tmp_path, tokenizer_config={"eos_token": "</s>", "chat_template": template})
    assert tokens == ("</s>", "<|assistant|>", "<|user|>", "[/INST]")


def test_what_a_tokenizer_calls_special_may_be_a_word_of_any_text(tmp_path: Path) -> None:
    assert model(tmp_path, tokenizer={"added_tokens": added("\n\n\n", "User", "▁", "<eos>")}) == ("<eos>",)


def test_mistral_and_sentencepiece_files(tmp_path: Path) -> None:
    tekken = {"special_tokens": [{"rank": 0, "token_str": "[THINK]", "is_control": True}]}
    assert model(tmp_path, tekken=tekken) == ("[THINK]",)
    assert "[AVAILABLE_TOOLS]" in (model(tmp_path, tekken={"vocab": []}) or ())
    (tmp_path / "tekken.json").unlink()
    pieces = piece("<unk>", 2) + piece("</s>", 3) + piece("▁the", 1) + piece("<0x0A>", 6)
    assert model(tmp_path, **{"tokenizer.model": pieces}) == ("</s>", "<unk>")
    assert model(tmp_path, **{"tokenizer.model": pieces[:-5]}) == ("</s>", "<unk>")  # a torn file


@pytest.mark.parametrize("files", [{}, {"tokenizer_config": {}}, {"tokenizer": "no JSON"}, {"tokenizer": [1]}])
def test_files_that_do_not_say(tmp_path: Path, files: dict[str, Any]) -> None:
    assert model(tmp_path, **files) is None


def test_of_this_machine(smollm2: Path) -> None:
    found = special_tokens(smollm2, MODEL)
    assert found and {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<file_sep>"} <= set(found)
    assert not pattern([found]).search("<s>struck through</s> <b>bold</b> f <|g|> h, <|user|>, [INST]")


def test_the_pattern_finds_any_models_tokens_and_the_longest_at_a_place() -> None:
    found = pattern([("<s>", "<s>!", "[x].*"), ("<|a|>", "<|ab|>"), ()])
    assert [m[0] for m in found.finditer("a<s>b <s>! [x].* [x]yz <|a|><|ab|> <|abc|> </s>")] == [
        *("<s>", "<s>!", "[x].*", "<|a|>", "<|ab|>")
    ]


def test_where_a_model_does_not_say_the_usual_shapes_count_but_not_html() -> None:
    for known in ([None], [("<box>",), None], []):
        found = pattern(known)
        assert found.search("x <|im_end|>") and found.search("[/INST]") and found.search("<end_of_turn>")
        assert not found.search("<s>old</s> price, a <| b |> c")
    assert not pattern([("<box>",)]).search("x <|im_end|>")

"""Which tokens have a loss, and that packed examples do not see each other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.errors import ConfigError
from gra_hpc.training import templates
from gra_hpc.training.config import compose
from gra_hpc.training.examples import Example
from gra_hpc.training.rank import tokens
from gra_hpc.training.rank.tokens import IGNORED, encode, end_of_turn, prepare
from tests.training.trainings import preset

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a river."},
    {"role": "assistant", "content": "The Elbe."},
    {"role": "user", "content": "Another one?"},
    {"role": "assistant", "content": "The Rhine."},
]


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


def said(tokenizer: Any, encoded: tokens.Encoded) -> str:
    """What has a loss, as text; pieces apart."""
    out, before = "", True
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        if label != IGNORED:
            assert label == token
            out += ("|" if before else "") + tokenizer.decode([token])
        before = label == IGNORED
    return out


@pytest.mark.parametrize(
    ("template", "expected"),
    [("", "|The Elbe.<|im_end|>\n|The Rhine.<|im_end|>"), ("alpaca", "|The Elbe.<|im_end|>\n\n|The Rhine.<|im_end|>")],
)
def test_only_what_the_assistant_says_has_a_loss(tokenizer: Any, template: str, expected: str) -> None:
    before = tokenizer.chat_template
    try:
        if template:
            tokenizer.chat_template = templates.text(template)
        encoded = encode(tokenizer, CHAT)
        assert said(tokenizer, encoded) == expected
        prompt = tokenizer.apply_chat_template(CHAT[:2], tokenize=True, add_generation_prompt=True, return_dict=False)
        assert encoded.input_ids[: len(prompt)] == prompt, "the tokens that an engine puts before the answer"
        assert set(encoded.labels[: len(prompt)]) == {IGNORED}
        assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")
    finally:
        tokenizer.chat_template = before


def test_templates_that_cannot_be_used(tokenizer: Any) -> None:
    before = tokenizer.chat_template
    try:
        tokenizer.chat_template = None
        with pytest.raises(ConfigError, match=r"no chat template -> model\.chat_template=alpaca"):
            encode(tokenizer, CHAT)
        tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
        with pytest.raises(ConfigError, match="changes earlier turns"):
            encode(tokenizer, CHAT)
    finally:
        tokenizer.chat_template = before


def test_thoughts_have_a_loss_and_a_template_without_them_is_refused(tokenizer: Any) -> None:
    thought = [CHAT[1], {"role": "assistant", "content": "<think>\nA river.\n</think>\n\nThe Elbe."}]
    before = tokenizer.chat_template
    turn = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ TEXT }}<|im_end|>\n{% endfor %}"
    asks = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    try:
        tokenizer.chat_template = turn.replace("TEXT", "m.content") + asks
        assert "A river." in said(tokenizer, encode(tokenizer, thought))
        opened = asks.replace("assistant\n", "assistant\n<think>\n")  # the prompt opens the thoughts: no loss on that
        tokenizer.chat_template = turn.replace("TEXT", "m.content") + opened
        assert said(tokenizer, encode(tokenizer, thought)).startswith("|A river.\n</think>")
        for asked in (asks, opened):
            tokenizer.chat_template = turn.replace("TEXT", "m.content.split('</think>')[-1]") + asked
            with pytest.raises(ConfigError, match="leaves the thoughts out"):
                encode(tokenizer, thought)
    finally:
        tokenizer.chat_template = before


def test_packed_examples_do_not_see_each_other(tmp_path: Path, small_model: Path, chats: Path, tokenizer: Any) -> None:
    """The loss of a packed row is the sum of its examples' losses alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    config = compose(str(preset(tmp_path / "p.yaml", small_model, chats)), ["data.packing=true", "data.max_length=128"])
    manifest = prepare(config, tokenizer, tmp_path / "tokens")
    assert manifest["examples"] == 32 and manifest["rows"] < 32 and manifest["trained_tokens"] < manifest["tokens"]
    assert prepare(config, tokenizer, tmp_path / "tokens") == manifest, "it is read, not made again"
    row = next(r for r in tokens.load(tmp_path / "tokens") if len(r["seq_lengths"]) > 1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(small_model), attn_implementation="sdpa").eval()
    packed = DataCollatorForLanguageModeling(pad_token_id=2, padding_free=True)([row])
    assert "attention_mask" not in packed

    def total(ids: Any, labels: Any, **more: Any) -> float:
        with torch.inference_mode():
            logits = model(input_ids=ids, **more).logits
        return float(torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum"))

    whole = total(packed["input_ids"], packed["labels"], position_ids=packed["position_ids"])
    apart, start = 0.0, 0
    for n in row["seq_lengths"]:
        ids, labels = (torch.tensor([row[k][start : start + n]]) for k in ("input_ids", "labels"))
        apart += total(ids, labels)
        start += n
    assert whole == pytest.approx(apart, rel=1e-5)


def test_too_long(tmp_path: Path, small_model: Path, chats: Path, tokenizer: Any) -> None:
    long = tmp_path / "long.jsonl"
    long.write_text(chats.read_text() + '{"instruction": "Go on.", "response": "' + "on and " * 200 + '"}\n')
    yaml = str(preset(tmp_path / "p.yaml", small_model, long))
    dropped = prepare(compose(yaml), tokenizer, tmp_path / "dropped")
    assert dropped["examples"] == 32 and dropped["left_out"] == {"longer than data.max_length": 1}
    cut = prepare(compose(yaml, ["data.too_long=truncate"]), tokenizer, tmp_path / "cut")
    assert cut["examples"] == 33 and cut["truncated"] == 1


STRICT = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "bad", "words"),
    [
        (STRICT, CHAT[2:3] + CHAT[3:], "roles must alternate"),  # the assistant begins
        (STRICT, CHAT[:3], "roles must alternate"),
        (STRICT, [CHAT[1], CHAT[1], CHAT[2]], "roles must alternate"),
        ("{% for m in messages %}{{ m['content'] if loop.index < 4 else 1 / 0 }}{% endfor %}", CHAT[1:], "division"),
        ("{{ messages | length > 3 }}{% for m in messages %}{{ m['content'] }}{% endfor %}", CHAT[1:], "earlier turns"),
        ("{% for m in messages %}{{ m['content'] + '' }}{% endfor %}", [{"role": "user"}, CHAT[2]], "does not take"),
    ],
)
def test_a_conversation_that_a_template_does_not_take_is_left_out(
    tokenizer: Any, template: str, bad: list[dict[str, Any]], words: str
) -> None:
    """Whatever the template raises: no record ends a job."""
    before, left_out = tokenizer.chat_template, Counter[str]()
    try:
        tokenizer.chat_template = template
        found = list(tokens.encodings(tokenizer, [Example(bad), Example(CHAT[1:3])], left_out))
        assert len(found) == 1 and said(tokenizer, found[0]).endswith("The Elbe.")
        ((why, count),) = left_out.items()
        assert words in why and count == 1 and "\n" not in why
        with pytest.raises(ConfigError, match="chat_template"):  # where it takes none of them
            list(tokens.encodings(tokenizer, [Example(bad)], left_out))
    finally:
        tokenizer.chat_template = before


def test_words_that_begin_a_conversation_have_no_loss(tokenizer: Any) -> None:
    encoded = encode(tokenizer, CHAT[2:])
    assert said(tokenizer, encoded) == "|The Rhine.<|im_end|>"
    assert "The Elbe." in tokenizer.decode(encoded.input_ids)


CALLED = [
    CHAT[1],
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
    },
    {"role": "tool", "content": '{"temp": 3}'},
    CHAT[2],
]


@pytest.mark.parametrize(
    ("messages", "tools", "lost"),
    [
        (CALLED[:2], [], "calls of tools"),
        (CHAT[1:3], [{"type": "function", "function": {"name": "weather"}}], "the descriptions of tools"),
        ([CHAT[1], CHAT[2], CALLED[2], CHAT[2]], [], "results of tools"),
        (CHAT[:3], [], "the system's words"),
    ],
)
def test_what_a_template_passes_by_is_left_out_whole(
    tokenizer: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]], lost: str
) -> None:
    """Without its calls or its system message, the rest of a conversation means something else."""
    before = tokenizer.chat_template
    try:
        tokenizer.chat_template = (
            "{% for m in messages if m.role in ('user', 'assistant') %}{{ m.role }}: {{ m.content }};{% endfor %}"
        )
        with pytest.raises(tokens.Unfit, match=f"the template leaves {lost} out"):
            encode(tokenizer, messages, tools)
        assert encode(tokenizer, CHAT[1:]).trained
        tokenizer.chat_template = "{{ tools | tojson }}{% for m in messages %}{{ m | tojson }};{% endfor %}"
        assert encode(tokenizer, messages, tools).trained
    finally:
        tokenizer.chat_template = before


def test_words_without_weight_have_no_loss(tokenizer: Any) -> None:
    encoded = encode(tokenizer, [*CHAT[:2], CHAT[2] | {"weight": 0}, *CHAT[3:]])
    assert said(tokenizer, encoded) == "|The Rhine.<|im_end|>"


def test_calls_of_tools_have_a_loss(tokenizer: Any) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    messages = [CHAT[1], {"role": "assistant", "content": "", "tool_calls": [call]}]
    before = tokenizer.chat_template
    try:
        tokenizer.chat_template = (
            "{% for t in tools %}{{ t.function.name }};{% endfor %}{% for m in messages %}{{ m['content'] }}"
            "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments.city }}){% endfor %}"
            "{% endfor %}"
        )
        encoded = encode(tokenizer, messages, [{"type": "function", "function": {"name": "weather"}}])
    finally:
        tokenizer.chat_template = before
    assert said(tokenizer, encoded) == "|weather(Oslo)"
    assert tokenizer.decode(encoded.input_ids).startswith("weather;Name a river.")

"""A model's files are others': templates that do not end, headers that lie, configurations of another kind."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.config.settings import ModelConfig
from gra_hpc.errors import ConfigError, EngineError, GraError
from gra_hpc.models import files, template
from gra_hpc.models.facts import read_facts
from gra_hpc.models.special_tokens import special_tokens

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 512,
    "quantization_config": {"bits": 4, "group_size": 128},
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return tmp_path


ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
    "{% endfor %}",
    "a number": "{{ 9 ** (9 ** (9 ** 9)) }}",
    "a long text": "{{ 'a' * 10 ** 11 }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "padding": "{{ '%999999999999d' % 1 }}{{ 'a' | center(99999999999) }}",
}


@pytest.mark.parametrize("text", ENDLESS.values(), ids=ENDLESS)
def test_a_template_without_an_end_is_one_line(model: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended by the kernel, in a process of its own; one that only fails there takes no system role."""
    (model / "chat_template.jinja").write_text(text)
    monkeypatch.setattr(template, "CPU_S", 0.2)
    try:
        assert not files.takes_system_role(model, ModelConfig(path=str(model)))
    except EngineError as e:
        assert "does not end, or fills the memory" in str(e)
        with pytest.raises(EngineError):
            special_tokens(model, ModelConfig(path=str(model)))
    else:
        assert text == ENDLESS["padding"]


def test_one_process_answers_all_and_another_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that was ended, a process that was killed: the next question is answered."""
    begun: list[int] = []
    popen = subprocess.Popen

    def counted(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        process = popen(*args, **kwargs)
        begun.append(process.pid)
        return process

    monkeypatch.setattr(subprocess, "Popen", counted)
    monkeypatch.setattr(template, "_PROCESS", template._Process())
    monkeypatch.setattr(template, "CPU_S", 0.1)
    assert [template.render(f"{n} {{{{ messages[0].role }}}}", [{"role": "x"}], {}) for n in range(3)] == [
        "0 x", "1 x", "2 x",
    ]  # fmt: skip
    assert len(begun) == 1
    with pytest.raises(template.Endless):
        template.render(ENDLESS["loops"], [], {})
    assert template.render("after", [], {}) == "after" and len(begun) == 2
    os.kill(begun[-1], signal.SIGKILL)
    with pytest.raises(template.Endless):
        template.render("killed", [], {})
    assert template.render("killed", [], {}) == "killed" and len(begun) == 3


def test_a_process_that_nobody_asked_for_a_while_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = template._Process()
    monkeypatch.setattr(template, "_PROCESS", asked)
    assert template.render("first", [], {}) == "first"
    assert asked._process and asked._process.stdin
    asked._process.stdin.close()  # it ends as it does when idle
    asked._process.wait()
    with Path(os.devnull).open("wb") as f:
        asked._process.stdin = f
        assert template.render("second", [], {}) == "second"


def test_templates_reach_nothing(model: Path) -> None:
    for text in (
        "{{ ''.__class__.__mro__ }}",
        "{% include '/etc/passwd' %}",
        "{{ cycler.__init__.__globals__ }}",
        "{{",
    ):
        (model / "chat_template.jinja").write_text(text)
        assert not files.takes_system_role(model, ModelConfig(path=str(model)))
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    assert files.takes_system_role(model, ModelConfig(path=str(model)))


@pytest.mark.parametrize("data", [b"\xff", b"[", b"[]", b"[1]", b'{"chat_template": [[1]]}', b'{"chat_template": 1}'])
def test_odd_template_files(model: Path, data: bytes) -> None:
    for name in ("chat_template.json", "chat_template.jinja", "tokenizer_config.json"):
        path = model / name
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(data)
        try:
            found = files.chat_template(model, ModelConfig(path=str(model)))
            assert found is None or isinstance(found, str)
        except EngineError as e:
            assert name in str(e)
        path.unlink()
        if before is not None:
            path.write_bytes(before)


def safetensors(header: object, length: int | None = None) -> bytes:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data) if length is None else length) + data


TENSOR = {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        safetensors(b"", 0),
        safetensors({}, 1 << 63),
        safetensors({}, 99_999_999),
        safetensors({"a": TENSOR}, 10),
        safetensors(b"not JSON"),
        safetensors([TENSOR]),
        safetensors({"a": 1}),
        safetensors({"a": {}}),
        *(safetensors({"a": TENSOR | {"shape": s}}) for s in (None, "22", [2, "2"], [-1, 2], [1.5], {"a": 1}, [True])),
        *(safetensors({"a": TENSOR | {"dtype": d}}) for d in (None, 1, ["F16"])),
        safetensors(b"[" * 5000),
    ],
)
def test_headers_that_are_none_are_one_line(model: Path, data: bytes) -> None:
    (model / "model.safetensors").write_bytes(data)
    with pytest.raises(ConfigError, match=r"model\.safetensors: not a safetensors file"):
        read_facts(model)


@pytest.mark.timeout(60)
def test_what_is_no_file(model: Path) -> None:
    os.mkfifo(model / "model.safetensors")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_facts(model)
    (model / "model.safetensors").unlink()
    for name in ("config.json", "tokenizer_config.json", "chat_template.jinja", "README.md", "tokenizer.model"):
        (model / name).unlink(missing_ok=True)
        (model / name).symlink_to("/dev/zero")
    for read in (
        lambda: read_facts(model),
        lambda: files.read_config(model),
        lambda: files.check_files(model, ModelConfig(path=str(model))),
        lambda: special_tokens(model, ModelConfig(path=str(model))),
        lambda: files.stated_licence(model),
    ):
        try:
            read()
        except GraError as e:
            assert str(model) in str(e)


@pytest.mark.parametrize("key", CONFIG)
@pytest.mark.parametrize("value", [None, "x", -1, 0, [], {}, [1], {"bits": 0}, {"bits": "x"}, True, 1e300, 10**300])
def test_a_configuration_of_another_kind_is_one_line(model: Path, key: str, value: Any) -> None:
    (model / "model.safetensors").write_bytes(safetensors({"a": TENSOR | {"dtype": "I32"}}))
    (model / "config.json").write_text(json.dumps(CONFIG | {key: value}))
    for wrapped in (CONFIG | {key: value}, {"text_config": value, **CONFIG}, {"text_config": CONFIG | {key: value}}):
        (model / "config.json").write_text(json.dumps(wrapped))
        try:
            read_facts(model)
        except ConfigError as e:
            assert "config.json" in str(e)

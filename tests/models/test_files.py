"""Model directories: found offline, refused in one line when broken, digested wherever they lie."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gra_hpc.config.settings import ModelConfig, SystemRole
from gra_hpc.errors import EngineError
from gra_hpc.models import files, hub

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}<start_of_turn>{{ message['content'] | trim }}{% endfor %}"
)
GEMMA_3 = (
    "{%- if messages[0]['role'] == 'system' -%}{%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}"
    "{%- set loop_messages = messages[1:] -%}{%- else -%}{%- set first_user_prefix = '' -%}{%- set loop_messages ="
    " messages -%}{%- endif -%}{%- for m in loop_messages -%}{{ first_user_prefix if loop.first else '' }}"
    "{{ m['content'] }}{%- endfor -%}"
)
DEAF = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
LLAMA_3_1 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}{%- endif %}"
    "{{- date_string }}{{- system_message }}{%- for m in messages %}{%- if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}{% endgeneration %}{%- endif %}{%- endfor %}"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory that passes all checks."""
    path = tmp_path / "a-model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"max_position_embeddings": 2048, "num_attention_heads": 4}))
    (path / "model.safetensors").write_bytes(bytes(200_000))
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML, "bos_token": "<s>"}))
    return path


def entry(path: Path, **changes: object) -> ModelConfig:
    return replace(ModelConfig(path=str(path), max_model_len=2048), **changes)  # type: ignore[arg-type]


def test_a_whole_model_passes(model: Path) -> None:
    files.check_files(model, entry(model))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: shutil.rmtree(d), "no such directory"),
        (lambda d: (d / "config.json").unlink(), "config.json: missing"),
        (lambda d: (d / "config.json").write_text("{"), "config.json: not valid JSON"),
        (lambda d: (d / "config.json").write_text("[]"), "expected a JSON object"),
        (lambda d: (d / "model.safetensors").unlink(), "no weights"),
        (lambda d: (d / "model.safetensors").write_bytes(b""), "model.safetensors: empty"),
        (lambda d: (d / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda d: (d / "tokenizer_config.json").unlink(), r"no chat template.*models\.NAME\.chat_template"),
        (
            lambda d: (d / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model.safetensors"}}'
            ),
            r"model-1.safetensors and 1 more missing",
        ),
    ],
)
def test_a_broken_model_is_refused_in_one_line(model: Path, spoil: object, message: str) -> None:
    spoil(model)  # type: ignore[operator]
    with pytest.raises(EngineError, match=message) as e:
        files.check_files(model, entry(model))
    assert "\n" not in str(e.value)


def test_the_hint_for_a_directory_is_not_to_fetch_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`gra fetch` takes Hub ids alone; a relative directory may look like one."""
    (model / "model.safetensors").unlink()
    monkeypatch.chdir(model.parent.parent)
    relative = str(model.relative_to(Path.cwd()))
    assert hub.ID.fullmatch(relative) and not Path("org/name").is_dir()
    for path, words in (
        (str(model), "copy the whole"),
        (relative, "copy the whole"),
        ("org/name", "gra fetch org/name"),
    ):
        with pytest.raises(EngineError) as e:
            files.check_files(model, replace(entry(model), path=path))
        assert words in e.value.then and ("gra fetch" in e.value.then) == (path == "org/name")
    assert hub.brings("org/name") == "gra fetch org/name" and hub.brings("models/x") == hub.MAKE
    assert "gra fetch" not in hub.brings("/no/model") + hub.brings("./model")


def test_settings_that_the_model_cannot_serve(model: Path) -> None:
    with pytest.raises(EngineError, match=r"max_model_len=4096: a-model was made for 2048 tokens"):
        files.check_files(model, entry(model, max_model_len=4096))
    with pytest.raises(EngineError, match=r"chat_template=/nowhere.jinja: no such file"):
        files.check_files(model, entry(model, chat_template="/nowhere.jinja"))
    config = {"text_config": {"max_position_embeddings": 2048, "rope_scaling": {"factor": 4}}}
    (model / "config.json").write_text(json.dumps(config))
    files.check_files(model, entry(model, max_model_len=4096))


def test_dummy_weights_need_no_files(model: Path) -> None:
    (model / "model.safetensors").unlink()
    files.check_files(model, entry(model, load_format="dummy"))


def test_local_directory_and_hub_cache(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert files.model_directory(str(model)) == model
    monkeypatch.chdir(tmp_path)
    assert files.model_directory("a-model") == model
    with pytest.raises(EngineError, match="no such directory"):
        files.model_directory("./other-model")
    with pytest.raises(EngineError, match=r"not in the local Hub cache.*gra fetch some-org/some-model"):
        files.model_directory("some-org/some-model", "0123abc")


def test_hub_id_is_resolved_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--some-org--some-model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert files.model_directory("some-org/some-model").name == commit
    assert files.model_directory("some-org/some-model", commit).name == commit


@pytest.mark.parametrize(
    ("template", "takes"), [(CHATML, True), (GEMMA, False), (GEMMA_3, True), (DEAF, False), (LLAMA_3_1, True)]
)
def test_system_role_is_found_out_from_the_template(model: Path, template: str, takes: bool) -> None:
    (model / "chat_template.jinja").write_text(template)
    assert files.takes_system_role(model, entry(model)) is takes
    assert files.takes_system_role(model, entry(model, system_role=SystemRole.no)) is False
    assert files.takes_system_role(model, entry(model, system_role=SystemRole.yes)) is True


def test_where_templates_are_found(model: Path, tmp_path: Path) -> None:
    assert files.chat_template(model, entry(model)) == CHATML
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert files.chat_template(model, entry(model)) == "D"
    (model / "chat_template.jinja").write_text("FILE")
    assert files.chat_template(model, entry(model)) == "FILE"
    own = tmp_path / "own.jinja"
    own.write_text("OWN")
    assert files.chat_template(model, entry(model, chat_template=str(own))) == "OWN"


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: my-terms\n---\n", "my-terms"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense: [a, b]\n---\n", ""),
        ("---\n: {\n---\n", ""),
        ("# no header\n", ""),
        (None, ""),
    ],
)
def test_the_licence_is_that_of_the_models_own_card(tmp_path: Path, card: str | None, licence: str) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert files.stated_licence(tmp_path) == licence


def test_folding_of_the_system_message() -> None:
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}
    assistant = {"role": "assistant", "content": "Hi"}
    assert files.fold_system((user, assistant)) == (user, assistant)
    folded = files.fold_system((system, user, assistant))
    assert folded == ({"role": "user", "content": "Be brief.\n\nHello"}, assistant)
    assert files.fold_system((system,)) == ({"role": "user", "content": "Be brief."},)

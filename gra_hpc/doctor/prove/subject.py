"""The small model that a proof runs with, and what is made of it where it lacks something.

A model that does not think gets two marks of thoughts in place of two tokens that its template does not use, and random
weights, whose thoughts end where their budget does; one whose heads cannot be divided by two gets a shape that can.
Both show the machinery, not the model.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from gra_hpc.config.settings import ModelConfig, RunConfig, Thinks
from gra_hpc.doctor.prove.outcome import NotHereError
from gra_hpc.errors import EngineError
from gra_hpc.models.facts import facts_of
from gra_hpc.models.files import chat_template, check_files, model_directory, read_config, weight_files
from gra_hpc.models.thinking import Thinking, thinking_of
from gra_hpc.storage import read_regular

LENGTH = 1024
"""Context of a proof's engines, in tokens."""
MARKS = ("<think>", "</think>")
_OPENS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n<think>\n"
)
_USED = ("bos_token", "eos_token", "pad_token", "unk_token")


def chosen(config: RunConfig, wanted: str) -> tuple[str, ModelConfig]:
    """The model of a proof: its name, and its entry with the directory it lies in.

    Args:
        config: the preset, among whose models the smallest that is here is taken where nobody names one.
        wanted: `--model`: a name in the preset, a directory or a Hub id; empty: none is named.

    Raises:
        EngineError: it is not here; says how to get one.
    """
    scratch = config.site.scratch
    if wanted:
        named = config.models.get(wanted)
        entry = named or ModelConfig(path=wanted)
        directory = model_directory(entry.path, entry.revision, scratch)
        return (wanted if named else _name(directory)), _brief(entry, directory, config)
    here: list[tuple[int, str, ModelConfig, Path]] = []
    missing = ""
    for name, entry in config.models.items():
        if entry.endpoint.url:
            continue
        try:
            directory = model_directory(entry.path, entry.revision, scratch)
            check_files(directory, _brief(entry, directory, config))
        except EngineError as e:
            missing = missing or f"models.{name}: {e.what}"
            continue
        size = sum(f.stat().st_size for f in weight_files(directory))
        here.append((size, name, entry, directory))
    if not here:
        raise EngineError(
            f"no model to prove it with: {missing or 'the preset has endpoints alone'}",
            "gra doctor SITE --prove --model DIR  (a small one; python tools/models/get_models.py smollm2 makes one)",
        )
    _, name, entry, directory = min(here, key=lambda h: h[:2])
    return name, _brief(entry, directory, config)


def _name(directory: Path) -> str:
    """Of a directory; of a snapshot in the Hub's cache, its repository's."""
    hub = next((p.name for p in directory.parents if p.name.startswith("models--")), "")
    return hub.rpartition("--")[2] or directory.name


def _brief(entry: ModelConfig, directory: Path, config: RunConfig) -> ModelConfig:
    """An entry for one device: a short context, nothing pinned. Float32 is a CPU's."""
    wide = entry.dtype in ("float32", "float")
    return replace(
        entry,
        path=str(directory),
        revision="",
        dtype="bfloat16" if wide and config.site.gpus_per_node else entry.dtype,
        max_model_len=min(entry.max_model_len, LENGTH),
        tensor_parallel=1,
        replicas=1,
        kv_cache_gb=0.0,
    )


def thinker(model: ModelConfig, made: Path) -> tuple[ModelConfig, Thinking]:
    """The model as one that thinks, and how it is asked.

    Args:
        made: directory for a made one; what is there goes.

    Raises:
        NotHereError: its tokenizer has no two tokens to spare.
    """
    directory = Path(model.path)
    try:
        own = thinking_of(directory, replace(model, thinking=Thinks.on))
        if own and own.on and own.parser:
            return replace(model, thinking=Thinks.on), own
    except EngineError:
        pass  # it does not think
    _link(directory, made, without=("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"))
    spare = _spare_tokens(directory, chat_template(directory, model) or "")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            renamed = _renamed(json.loads(read_regular(directory / name)), dict(zip(spare, MARKS, strict=True)))
            (made / name).write_text(json.dumps(renamed), encoding="utf-8")
    (made / "chat_template.jinja").write_text(_OPENS, encoding="utf-8")
    entry = replace(model, path=str(made), chat_template="", load_format="dummy", quantization="")
    thinking = thinking_of(made, entry)
    assert thinking is not None  # its template opens a thought
    return entry, thinking


def _spare_tokens(directory: Path, template: str) -> tuple[str, str]:
    """Two of a tokenizer's added tokens that nothing here uses."""
    then = "gra doctor SITE --prove --model DIR  (of a model that thinks)"
    try:
        tokenizer = json.loads(read_regular(directory / "tokenizer.json"))
        settings = json.loads(read_regular(directory / "tokenizer_config.json"))
        vocabulary = tokenizer["model"]["vocab"]
        added = [t["content"] for t in tokenizer["added_tokens"]]
    except (OSError, ValueError, KeyError, TypeError):
        added, settings, vocabulary = [], {}, {}
    used = {str(v.get("content") if isinstance(v, dict) else v) for k, v in settings.items() if k in _USED}
    used |= {"<|im_start|>", "<|im_end|>"}
    spare = [t for t in added if t not in used and t not in template and t in vocabulary]
    if len(spare) < 2 or not isinstance(vocabulary, dict):
        raise NotHereError(f"{directory.name} does not think, and has no two tokens to spare for marks", then)
    return spare[0], spare[1]


def _renamed(value: Any, marks: dict[str, str]) -> Any:
    """A tokenizer's file with other names for two tokens, which are not special any more: they stay in the text."""
    if isinstance(value, dict):
        out = {marks.get(k, k): _renamed(v, marks) for k, v in value.items()}
        if isinstance(value.get("content"), str) and value["content"] in marks:
            out["special"] = False
        return out
    if isinstance(value, list):
        return [_renamed(v, marks) for v in value]
    return marks.get(value, value) if isinstance(value, str) else value


def divisible(model: ModelConfig, made: Path) -> tuple[ModelConfig, str]:
    """The model as one that can be split over two devices, and what it is where it was made.

    Args:
        made: directory for a made one; what is there goes.
    """
    if facts_of(model).can_split(2):
        return model, ""
    directory = Path(model.path)
    _link(directory, made, without=("config.json",), weights=False)
    config = read_config(directory)
    shape: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "vocab_size": config.get("vocab_size", 32_000),
        "max_position_embeddings": LENGTH,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        **{k: config[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id") if k in config},
    }
    (made / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    heads = config.get("num_attention_heads", "?")
    made_up = replace(model, path=str(made), load_format="dummy", quantization="", engine_args={})
    return made_up, f"random weights: {directory.name}'s {heads} heads cannot be split"


def _link(source: Path, made: Path, without: tuple[str, ...], weights: bool = True) -> None:
    """A directory with the same files, but for some."""
    shutil.rmtree(made, ignore_errors=True)  # of this job, before it was put back in the queue
    made.mkdir(parents=True)
    left = {*without, *(() if weights else (f.name for f in weight_files(source)))}
    left |= set() if weights else {"model.safetensors.index.json"}
    for file in source.iterdir():
        if file.is_file() and file.name not in left:
            (made / file.name).symlink_to(file.resolve())

"""A model's files: where they lie, whether they are whole, what answers depend on, and its chat template.

Nothing here needs torch, vllm or transformers, so that planning and `gra doctor` can use it on a login node.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import yaml

from gra_hpc.config.directories import looked
from gra_hpc.config.settings import ModelConfig, SystemRole
from gra_hpc.errors import EngineError, GraError
from gra_hpc.foreign import load_yaml
from gra_hpc.models import hub
from gra_hpc.models import template as template_process
from gra_hpc.permissions import refuse_code_in_other_hands
from gra_hpc.storage import read_regular

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
SMALL = (".json", ".jinja", ".model", ".txt", ".py", ".tiktoken")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "tokenizer.model.v3")


def model_directory(path: str, revision: str = "", scratch: str = "") -> Path:
    """The directory with a model's files, without any network.

    Args:
        path: a local directory, or a Hub id that lies in a local cache.
        revision: Hub commit, branch or tag; empty: what the cache calls main.
        scratch: `site.scratch`, whose cache is looked at first.

    Raises:
        EngineError: when there is none; names `gra fetch`.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        return local.absolute()
    if path.startswith(("/", ".", "~")) or not hub.ID.fullmatch(path):
        where = looked(path)
        raise EngineError(f"model {path}: no such directory{where}", "set models.NAME.path to a directory or a Hub id")
    if path.startswith(hub.MADE):
        raise EngineError(f"model {path}: no such directory (seen from {Path.cwd()})", hub.MAKE)
    found = hub.find(path, revision, "model", scratch)
    if found is None:
        at = f" at revision {revision}" if revision else ""
        caches = ", ".join(str(c) for c in hub.caches(scratch))
        raise EngineError(
            f"model {path}{at}: not a directory, and not in the local Hub cache ({caches})",
            f"gra fetch {path}{f'@{revision}' if revision else ''}  (on a machine with network)",
        )
    return found


def refuse_strange_code(path: str, directory: Path, trust_remote_code: bool) -> None:
    """Refuse to run a model's code that lies in the current directory, if that is in other hands: a Hub id, too, leads
    there where somebody has put a directory of that name. One that is named from the root is meant.

    Args:
        path: how the settings name the model.
        directory: what that leads to.

    Raises:
        OwnershipError: with the way out.
    """
    named = Path(path).expanduser()
    if trust_remote_code and not named.is_absolute() and named.is_dir():
        refuse_code_in_other_hands(directory)


def read_config(directory: Path) -> dict[str, Any]:
    """A model's config.json.

    Raises:
        EngineError: when it is missing or not JSON.
    """
    path = directory / "config.json"
    try:
        value = orjson.loads(read_regular(path))
    except FileNotFoundError:
        raise EngineError(
            f"{path}: missing; a model directory has config.json and safetensors",
            "gra fetch ORG/NAME fetches a model whole",
        ) from None
    except OSError as e:
        raise EngineError(f"{path}: {e.strerror}") from None
    except orjson.JSONDecodeError as e:
        raise EngineError(f"{path}: not valid JSON ({e})", "gra fetch ORG/NAME fetches a model anew") from None
    if not isinstance(value, dict):
        raise EngineError(f"{path}: expected a JSON object", "gra fetch ORG/NAME fetches a model anew")
    return value


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a config.json (multimodal models nest it)."""
    for key in ("text_config", "llm_config", "language_config"):
        if isinstance(config.get(key), dict):
            return {**config, **config[key]}
    return config


def stated_licence(directory: Path) -> str:
    """The licence that a model's own card (README.md, as on the Hub) states in its header; empty if none does."""
    try:
        text = read_regular(directory / "README.md").decode()
        header = load_yaml(text.split("---\n", 2)[1]) if text.startswith("---\n") else None
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return ""
    if not isinstance(header, dict):
        return ""
    named = header.get("license_name") if header.get("license") == "other" else None
    licence = named or header.get("license")
    return " ".join(licence.split()) if isinstance(licence, str) else ""


def weight_files(directory: Path) -> list[Path]:
    """Weight files, sorted by name."""
    return sorted(p for p in directory.iterdir() if p.suffix in WEIGHTS and not p.name.startswith("."))


def embedding_length(directory: Path) -> int:
    """Longest text that a sentence embedding model looks at, in tokens: what sentence-transformers cuts texts to."""
    config = text_config(read_config(directory))
    longest = int(config.get("max_position_embeddings", 512))
    try:
        own = orjson.loads(read_regular(directory / "sentence_bert_config.json"))["max_seq_length"]
        return min(longest, int(own))
    except (OSError, ValueError, KeyError, TypeError):
        return longest


def check_files(directory: Path, model: ModelConfig, chat: bool = True) -> None:
    """Refuse a model directory that an engine could not load, before minutes are spent on trying.

    Args:
        chat: it must have a chat template.

    Raises:
        EngineError: naming the file or the key, and what was expected.
    """
    own = Path(model.path).expanduser().is_dir() or not hub.ID.fullmatch(model.path)
    again = (
        f"copy the whole model to {directory}, or name one of the Hub (models.NAME.path=ORG/NAME); to try a preset"
        " without weights: engine.kind=simulated"
        if own
        else f"fetch {directory.name} anew: gra fetch {model.path}"
    )
    if not directory.is_dir():
        raise EngineError(f"model {directory}: no such directory", again)
    refuse_strange_code(model.path, directory, model.trust_remote_code)
    config = text_config(read_config(directory))
    if model.load_format != "dummy":
        weights = weight_files(directory)
        if not weights:
            raise EngineError(f"{directory}: no weights (*.safetensors, *.bin)", again)
        index = directory / "model.safetensors.index.json"
        if index.is_file():
            try:
                wanted = set(orjson.loads(read_regular(index))["weight_map"].values())
            except (OSError, ValueError, KeyError, AttributeError, TypeError):
                raise EngineError(f"{index}: not a weight index", again) from None
            missing = sorted(wanted - {w.name for w in weights})
            if missing:
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                raise EngineError(f"{directory}: {missing[0]}{more} missing (named by {index.name})", again)
        for file in weights:
            if file.stat().st_size == 0:
                raise EngineError(f"{file}: empty", again)
    if not any((directory / name).is_file() for name in _TOKENIZERS):
        raise EngineError(f"{directory}: no tokenizer ({', '.join(_TOKENIZERS[:3])})", again)
    longest = next((config[k] for k in ("max_position_embeddings", "n_positions", "seq_length") if k in config), None)
    if isinstance(longest, int) and not config.get("rope_scaling") and model.max_model_len > longest:
        raise EngineError(
            f"max_model_len={model.max_model_len}: {directory.name} was made for {longest} tokens (its config.json)",
            f"set models.NAME.max_model_len={longest}",
        )
    if model.chat_template and not Path(model.chat_template).is_file():
        where = looked(model.chat_template)
        raise EngineError(f"chat_template={model.chat_template}: no such file{where}", "give a Jinja file")
    if chat and chat_template(directory, model) is None and not _has_mistral_tokenizer(directory):
        raise EngineError(
            f"{directory}: no chat template (tokenizer_config.json, chat_template.jinja): a base model?",
            "set models.NAME.chat_template=FILE.jinja",
        )


def _has_mistral_tokenizer(directory: Path) -> bool:
    return (directory / "tekken.json").is_file() or any(directory.glob("tokenizer.model.v*"))


def _tokenizer_config(directory: Path) -> dict[str, Any]:
    try:
        value = orjson.loads(read_regular(directory / "tokenizer_config.json"))
    except (OSError, GraError, orjson.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def chat_template(directory: Path, model: ModelConfig) -> str | None:
    """The Jinja text that turns messages into a prompt; none when the model has none.

    Raises:
        EngineError: a file of it that cannot be read.
    """
    named = Path(model.chat_template) if model.chat_template else directory / "chat_template.jinja"
    other = directory / "chat_template.json"
    file = named
    try:
        if model.chat_template or named.is_file():
            return read_regular(named).decode()
        template = _tokenizer_config(directory).get("chat_template")
        if template is None and other.is_file():
            file = other
            found = orjson.loads(read_regular(other))
            template = found.get("chat_template") if isinstance(found, dict) else None
    except (OSError, ValueError) as e:
        raise EngineError(f"{file}: cannot be read ({e})", "set models.NAME.chat_template=FILE.jinja") from None
    if isinstance(template, list):  # several named ones
        by_name = {str(t.get("name")): t.get("template") for t in template if isinstance(t, dict)}
        template = by_name.get("default") or next(iter(by_name.values()), None)
    return template if isinstance(template, str) else None


def takes_system_role(directory: Path, model: ModelConfig) -> bool:
    """Whether a system message reaches the model.

    With `system_role=auto` the template is rendered with one: templates like Gemma's raise, or leave its text out.
    """
    if model.system_role is not SystemRole.auto:
        return model.system_role is SystemRole.yes
    template = chat_template(directory, model)
    if template is None:
        return True
    marker = "gra-system-marker"
    messages = [{"role": "system", "content": marker}, {"role": "user", "content": "hello"}]
    return marker in (render_template(template, messages, directory) or "")


def render_template(template: str, messages: list[dict[str, str]], directory: Path, **switches: object) -> str | None:
    """The prompt that a chat template makes of messages, up to where the model answers.

    Args:
        directory: the model's files, which name the tokens that a template writes.
        switches: further variables of the template.

    Returns:
        None where the template's code refuses the messages, or cannot be run here.

    Raises:
        EngineError: it runs or grows without an end.
    """
    tokens = {
        key: value.get("content", "") if isinstance(value, dict) else value
        for key, value in _tokenizer_config(directory).items()
        if key.endswith("_token") and isinstance(value, (str, dict))
    }
    variables = {"bos_token": "", "eos_token": "", **tokens, **switches}
    try:
        return template_process.render(template, messages, variables)
    except template_process.Endless:
        raise EngineError(
            f"{directory}: its chat template does not end, or fills the memory",
            "set models.NAME.chat_template=FILE.jinja",
        ) from None


def fold_system(messages: tuple[dict[str, str], ...]) -> tuple[dict[str, str], ...]:
    """Messages without a system role: its text goes before the first user message, after an empty line."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    if not system:
        return messages
    rest = [m for m in messages if m["role"] != "system"]
    for i, m in enumerate(rest):
        if m["role"] == "user":
            rest[i] = {**m, "content": f"{system}\n\n{m['content']}"}
            return tuple(rest)
    return ({"role": "user", "content": system}, *rest)

"""Models as they were found when a run was planned."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra_hpc.config.settings import EngineKind, ModelConfig, RunConfig, Thinks
from gra_hpc.engines.endpoint import Served, what_it_serves
from gra_hpc.errors import ConfigError, EngineError, GraError
from gra_hpc.models import hub, special_tokens
from gra_hpc.models.facts import read_facts
from gra_hpc.models.files import check_files, model_directory, stated_licence
from gra_hpc.models.identity import Say, identity
from gra_hpc.models.thinking import Thinking, thinking_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelPin:
    """A model as it was found when the run was planned."""

    directory: str
    """Where its files were."""
    identity: str
    """Digest of its files, wherever they lie."""
    revision: str
    licence: str
    """As the configuration states it, else as the model's own card does; empty: neither."""
    parameters: int | None = None
    """Number of its weights; none: not known."""
    special_tokens: tuple[str, ...] | None = None
    """What its tokenizer and its chat template take for marks; none: its files do not say."""
    thinking: Thinking | None = None
    """How it thinks; none: it does not."""
    served: str = ""
    """Name under which an endpoint serves it; `directory` is its address then. Empty: its files are here."""

    def other(self, now: ModelPin) -> str:
        """In what a model that was found later is another one."""
        if self.directory != now.directory:
            kind = "server" if self.served and now.served else "files"
            where = f"another address of its {kind}: planned {self.directory}, now {now.directory}"
        else:
            where = now.directory
        if not (self.served and now.served):
            return f"other files ({where})"
        if self.served != now.served:
            return f"serves {now.served}, planned with {self.served} ({where})"
        if self.identity == Served(self.served).identity:
            return f"says what {self.served} is, which was taken at its word when the run was planned ({where})"
        return f"serves another {self.served} than when the run was planned ({where})"

    @classmethod
    def read(cls, data: dict[str, Any]) -> ModelPin:
        """As a plan holds it.

        Raises:
            TypeError: not a pin.
        """
        named = data.get("special_tokens")
        read = {
            "special_tokens": None if named is None else tuple(named),
            "thinking": Thinking.read(data.get("thinking")),
        }
        return cls(**{**data, **read})

    @classmethod
    def of_endpoint(cls, name: str, model: ModelConfig, ask: bool) -> ModelPin:
        """What an endpoint says that it serves.

        Args:
            ask: else its entry is taken at its word (simulated engines answer for it).

        Raises:
            EngineError: it is not reached, or does not serve the model.
        """
        served = what_it_serves(name, model) if ask else Served(model.endpoint.model or name)
        thinking = {Thinks.on: Thinking(True), Thinks.off: Thinking(False, switches={"enable_thinking": False})}
        if model.effort:
            thinking[model.thinking] = Thinking(True, switches={"reasoning_effort": model.effort})
        return cls(
            model.endpoint.url,
            served.identity,
            "",
            model.licence,
            thinking=thinking.get(model.thinking),
            served=served.name,
        )

    @classmethod
    def of(cls, directory: Path, model: ModelConfig, say: Say, nested: bool = False) -> ModelPin:
        """What lies there now: the files may have moved by the time that the release tells of them."""
        return cls(
            str(directory),
            identity(directory, model, say=say, nested=nested),
            _revision(directory),
            model.licence or stated_licence(directory),
            _parameters(directory),
            special_tokens.special_tokens(directory, model),
            thinking_of(directory, model),
        )


def pin_models(config: RunConfig, say: Say = lambda _: None) -> dict[str, ModelPin]:
    """Find every model of the committee; its identity becomes part of the fingerprint.

    Args:
        say: told what is read for long.

    Raises:
        EngineError: a model that is not there, with the command that fetches it; or that no engine could load; an
            endpoint that is not reached.
        ConfigError: a budget for thoughts that leaves an answer no room.
    """
    pins = {}
    for name, model in config.models.items():
        if model.endpoint.url:
            pins[name] = ModelPin.of_endpoint(name, model, ask=config.engine.kind is EngineKind.vllm)
            continue
        directory = model_directory(model.path, model.revision, config.site.scratch)
        if config.engine.kind is EngineKind.vllm:
            check_files(directory, model)
        pins[name] = ModelPin.of(directory, model, say)
        if (thinking := pins[name].thinking) and thinking.on:
            _refuse_endless_thoughts(name, config)
    return pins


def _refuse_endless_thoughts(name: str, config: RunConfig) -> None:
    """Refuse a budget for thoughts that leaves an answer no room in a model's context.

    Raises:
        ConfigError: with both.
    """
    method, length = config.method, config.models[name].max_model_len
    own = [m.sampling for m in config.committee.values() if m.model == name]
    longest = max(s.thinking_tokens or 0 for s in (method.sampling, *method.role_sampling.values(), *own))
    if longest >= length:
        raise ConfigError(
            f"thinking_tokens={longest}: leaves no room for an answer in the context of {name} ({length} tokens)",
            f"models.{name}.max_model_len={2 * longest}, or method.sampling.thinking_tokens={length // 2}",
        )


def special_pattern(pins: Mapping[str, ModelPin]) -> re.Pattern[str]:
    """What finds a special token of any model of the committee in a text."""
    return special_tokens.pattern(pin.special_tokens for pin in pins.values())


def pin_embed(config: RunConfig, say: Say = lambda _: None) -> ModelPin | None:
    """Find the sentence embedding model, if the merge will need one."""
    if not (config.merge.semantic and config.merge.embed_model):
        return None
    try:
        directory = model_directory(config.merge.embed_model, "", config.site.scratch)
    except EngineError as e:
        then = e.then.replace("models.NAME.path", "merge.embed_model")
        raise EngineError(f"merge.embed_model: {e.what}", f"{then}; without one: merge.semantic=false") from None
    return ModelPin.of(directory, ModelConfig(path=str(directory)), say, nested=True)


def verify_embed(pin: ModelPin, path: str) -> None:
    """Refuse an embedding model that is not what it was when the run was planned.

    Args:
        path: as the configuration has it.

    Raises:
        EngineError: with what fetches it again.
    """
    directory = Path(pin.directory)
    if not directory.is_dir():
        raise EngineError(f"embedding model: {directory}: not there (seen from this node)", way_back(path))
    if identity(directory, ModelConfig(path=pin.directory), say=log.info, nested=True) != pin.identity:
        raise EngineError(
            f"embedding model: the files in {directory} changed since the run was planned", way_back(path)
        )


def way_back(path: str) -> str:
    """How to bring back a model that is missing."""
    if hub.ID.fullmatch(path):
        return f"gra fetch {path}  (where there is a network), then gra resume RUN"
    return "put it back where the run was planned with it, then gra resume RUN"


def _revision(directory: Path) -> str:
    """The commit of a snapshot in the Hub's cache layout (`.../snapshots/COMMIT`), else nothing."""
    return directory.name if directory.parent.name == "snapshots" else ""


def _parameters(directory: Path) -> int | None:
    """Number of a model's weights, from its files."""
    try:
        return read_facts(directory).parameters
    except GraError as e:
        log.warning("size of %s is not known: %s", directory, e.what)
        return None

"""Whether a model thinks before it answers, and what its engine must be told so that thoughts and answer come apart.

Read from its chat template when a run is planned, and pinned: a switch (`enable_thinking`), marks that the template
writes or looks for, and vLLM's parser for them.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gra_hpc.config.engine_args import option
from gra_hpc.config.settings import ModelConfig, Thinks
from gra_hpc.errors import EngineError
from gra_hpc.models.files import chat_template, render_template
from gra_hpc.thoughts import mark_in

SWITCHES = ("enable_thinking", "thinking")
"""Variables of chat templates that turn thoughts on and off."""
_CLOSING = re.compile(r"</|\[/|◁/|<\|/|<\|end_of_|<\|END_")
PARSERS = (
    ("<|channel|>", "openai_gptoss"),
    ("<|channel>", "gemma4"),
    ("[THINK]", "mistral"),
    ("<seed:think>", "seed_oss"),
    ("<|START_THINKING|>", "cohere_command3"),
    ("<think>", "deepseek_r1"),
)
"""vLLM's reasoning parsers, by the opening mark; for a model of other marks vLLM has none."""
_QUESTION = [{"role": "user", "content": "hello"}]


@dataclass(frozen=True)
class Thinking:
    """How a model is asked, as pinned in the plan."""

    on: bool
    """Whether it thinks."""
    opening: str = "<think>"
    """Its opening mark."""
    opened: bool = False
    """The template writes the opening mark: an answer begins within a thought."""
    parser: str = ""
    """vLLM's reasoning parser. Empty: there is none; what is guided is then answered without thoughts."""
    switches: dict[str, bool] = field(default_factory=dict)
    """Variables of its chat template, set for every call."""

    @classmethod
    def read(cls, data: dict[str, Any] | None) -> Thinking | None:
        """As a plan holds it."""
        return None if data is None else cls(**data)

    @property
    def digested(self) -> dict[str, Any]:
        """What an answer depends on."""
        return asdict(self)


def thinking_of(directory: Path, model: ModelConfig) -> Thinking | None:
    """How a model thinks; none for one that does not and has no switch to be set.

    Raises:
        EngineError: `thinking=on` for a model that shows no sign of it, `off` for one that cannot be kept from it.
    """
    given = {option(k): v for k, v in model.engine_args.items()}
    template = chat_template(directory, model) or ""
    switch = _switch(template, directory) if template else None
    asked = render_template(template, _QUESTION, directory) or "" if template else ""
    parser = str(given.get("reasoning-parser") or "")
    opening = _opening_mark(template)
    if switch:
        name, default = switch
        on = default if model.thinking is Thinks.auto else model.thinking is Thinks.on
        if not on:
            return Thinking(False, switches={name: False}) if model.thinking is Thinks.off else None
        asked = render_template(template, _QUESTION, directory, **{name: True}) or ""
        return _made(opening or "<think>", asked, parser, {name: True})
    ends = asked.rstrip()[-40:]
    opened = bool(opening) and ends.endswith(opening)
    if model.thinking is Thinks.off:
        if opened:
            raise EngineError(
                f"thinking=off: the chat template of {directory.name} opens a thought ({opening}) and has no switch",
                "models.NAME.thinking=auto, or models.NAME.chat_template=FILE.jinja",
            )
        return None
    if opening or parser:
        return _made(opening or "<think>", asked, parser, {})
    if model.thinking is Thinks.on:
        raise EngineError(
            f"thinking=on: the chat template of {directory.name} has neither a switch nor marks of thoughts",
            "models.NAME.thinking=auto, or models.NAME.engine_args.reasoning_parser=NAME",
        )
    return None


def _made(opening: str, asked: str, parser: str, switches: dict[str, bool]) -> Thinking:
    known = next((name for mark, name in PARSERS if opening.startswith(mark)), "")
    return Thinking(True, opening, asked.rstrip().endswith(opening), parser or known, switches)


def _switch(template: str, directory: Path) -> tuple[str, bool] | None:
    """The variable that turns thoughts on and off, and what the template takes it for where it is not given."""
    for name in SWITCHES:
        if re.search(rf"\b{name}\b", template):
            asked = [
                render_template(template, _QUESTION, directory, **given) for given in ({}, {name: True}, {name: False})
            ]
            if None not in asked and asked[1] != asked[2]:
                return name, asked[0] != asked[2]
    return None


def _opening_mark(template: str) -> str:
    """The first opening mark that a template writes or looks for; of a closing one alone, its opening one."""
    mark = mark_in(template.replace("`", "'"))
    if mark.startswith("<|channel|>"):
        return "<|channel|>"
    if _CLOSING.match(mark):
        return mark.replace("/", "", 1).replace("end_of", "begin_of").replace("END_", "START_")
    return mark

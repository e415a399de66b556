"""Whether a model thinks before it answers, and what its engine must be told so that thoughts and answer come apart.

Read from its chat template when a run is planned, and pinned: a switch (`enable_thinking`), levels of effort
(`reasoning_effort`), marks that the template writes or looks for, and vLLM's parser for them.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gra_hpc.config.engine_args import option
from gra_hpc.config.fields import in_words
from gra_hpc.config.settings import EFFORTS, ModelConfig, Thinks
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
_USUAL = ("low", "medium", "high")
"""Levels of a template that prints whichever it is given."""
_NO_LEVEL = "gra-no-level"


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
    switches: dict[str, bool | str] = field(default_factory=dict)
    """Variables of its chat template, set for every call: whether it thinks, and how much."""

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
        EngineError: `thinking=on` for a model that shows no sign of it, `off` for one that cannot be kept from it; a
            level of effort that the template does not know, or with thoughts turned off.
    """
    given = {option(k): v for k, v in model.engine_args.items()}
    template = chat_template(directory, model) or ""
    switch = _switch(template, directory) if template else None
    asked = render_template(template, _QUESTION, directory) or "" if template else ""
    parser = str(given.get("reasoning-parser") or "")
    opening = _opening_mark(template)
    if model.effort and model.thinking is Thinks.off:
        raise EngineError(f"effort={model.effort}: of thoughts that thinking=off turns off", "models.NAME.thinking=on")
    if switch:
        name, default = switch
        on = default or bool(model.effort) if model.thinking is Thinks.auto else model.thinking is Thinks.on
        if not on:
            return Thinking(False, switches={name: False}) if model.thinking is Thinks.off else None
        switches = {name: True, **_effort(template, model.effort, directory, name)}
        asked = render_template(template, _QUESTION, directory, **switches) or ""
        return _made(opening or "<think>", asked, parser, switches)
    effort = _effort(template, model.effort, directory)
    ends = asked.rstrip()[-40:]
    opened = bool(opening) and ends.endswith(opening)
    if model.thinking is Thinks.off:
        if opened:
            raise EngineError(
                f"thinking=off: the chat template of {directory.name} opens a thought ({opening}) and has no switch",
                "models.NAME.thinking=auto, or models.NAME.chat_template=FILE.jinja",
            )
        return None
    if opening or parser or effort:
        return _made(opening or "<think>", asked, parser, effort)
    if model.thinking is Thinks.on:
        raise EngineError(
            f"thinking=on: the chat template of {directory.name} has neither a switch nor marks of thoughts",
            "models.NAME.thinking=auto, or models.NAME.engine_args.reasoning_parser=NAME",
        )
    return None


def _made(opening: str, asked: str, parser: str, switches: dict[str, bool | str]) -> Thinking:
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


def _effort(template: str, level: str | None, directory: Path, switch: str = "") -> dict[str, bool | str]:
    """The variable that sets how much a model thinks, with its value; nothing where no level is asked for.

    Args:
        switch: the variable that turns its thoughts on; empty: there is none.

    Raises:
        EngineError: the template has no such variable, or not that level.
    """
    if level is None:
        return {}
    known: list[str] = []
    for name in dict.fromkeys(re.findall(r"\b\w*effort\w*\b", template)):
        with_value = {
            value: render_template(
                template, _QUESTION, directory, **{**({switch: True} if switch else {}), name: value}
            )
            for value in (*EFFORTS, _NO_LEVEL)
        }
        other = with_value.pop(_NO_LEVEL)
        printed = other is not None and _NO_LEVEL in other  # whatever is given: then the levels that all models have
        found = [
            value
            for value, text in with_value.items()
            if text is not None
            and (re.search(rf"""["']{value}["']""", template) or (value in _USUAL if printed else text != other))
        ]
        if level in found and len(set(with_value.values())) > 1:
            return {name: level}
        known += found
    if known:
        raise EngineError(
            f"effort={level}: the chat template of {directory.name} knows {in_words(list(dict.fromkeys(known)))}",
            f"models.NAME.effort={known[-1]}",
        )
    raise EngineError(
        f"effort={level}: the chat template of {directory.name} has no levels of thinking",
        "leave models.NAME.effort out",
    )


def _opening_mark(template: str) -> str:
    """The first opening mark that a template writes or looks for; of a closing one alone, its opening one."""
    mark = mark_in(template.replace("`", "'"))
    if mark.startswith("<|channel|>"):
        return "<|channel|>"
    if _CLOSING.match(mark):
        return mark.replace("/", "", 1).replace("end_of", "begin_of").replace("END_", "START_")
    return mark

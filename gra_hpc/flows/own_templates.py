"""Templates of the user's own (`method.prompts`), read and checked before anything is planned with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gra_hpc.config.directories import looked
from gra_hpc.errors import ConfigError
from gra_hpc.flows.registry import Flow
from gra_hpc.flows.render import COMMON, FILTERS, Own, render
from gra_hpc.records import CRITERIA, INSTRUCTION_CRITERIA

MOST_BYTES = 100_000
"""Size of a template."""


def read(directory: str, flow: Flow, said: Mapping[str, Any] = MappingProxyType({})) -> Own:
    """Templates of the user's own, in place of those of their names of a flow's; an empty directory's name: none.

    Args:
        said: what the run's settings say to all templates (`render.wording`).

    Raises:
        ConfigError: no such directory, no template in it, one of a name that no question has, one that lacks a variable
            of the paper's or uses one that there is not, one that cannot be rendered, or one that leaves out what it
            asks scores for.
    """
    if not directory:
        return ()
    path = Path(directory)
    if not path.is_dir():
        raise ConfigError(
            f"method.prompts={directory}: no such directory{looked(directory)}",
            "name the one that your templates are in",
        )
    paper = {p.stem: p.read_text(encoding="utf-8") for p in flow.prompts.glob("*.j2")}
    found = sorted(path.glob("*.j2"))
    for file in found:
        if file.stem not in paper:
            names = ", ".join(f"{name}.j2" for name in sorted(paper))
            raise ConfigError(f"{file}: no question has a template of this name", f"one of {names}")
    if not found:
        raise ConfigError(f"method.prompts={directory}: no template (*.j2) in it", f"copy some from {flow.prompts}")
    own = tuple((file.stem, _text(file)) for file in found)
    for file, (name, text) in zip(found, own, strict=True):
        _check(file, text, paper[name])
        _try(file, own, flow, said)
    return own


def _text(file: Path) -> str:
    if not file.is_file() or file.stat().st_size > MOST_BYTES:
        raise ConfigError(f"{file}: not a file of at most {MOST_BYTES:,} bytes", "mend it")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise ConfigError(f"{file}: not UTF-8 at byte {e.start}", "save it as UTF-8") from None


def variables(text: str) -> set[str]:
    """What a template is rendered with, but for what every one may use.

    Raises:
        jinja2.TemplateSyntaxError: no template.
    """
    import jinja2
    from jinja2 import meta

    environment = jinja2.Environment()
    environment.filters |= FILTERS
    return meta.find_undeclared_variables(environment.parse(text)) - {*COMMON, "turn"}


def _check(file: Path, text: str, paper: str) -> None:
    """Refuse a template with other variables than the paper's of its name.

    Raises:
        ConfigError: naming line or variable.
    """
    import jinja2

    try:
        used = variables(text)
    except jinja2.TemplateSyntaxError as e:
        raise ConfigError(f"{file}:{e.lineno}: {e.message}", "mend the template") from None
    known = variables(paper)
    if missing := sorted(known - used):
        raise ConfigError(
            f"{file}: lacks the variable {missing[0]}", f"put {{{{ {missing[0]} }}}} where the paper's template has it"
        )
    if unknown := sorted(used - known):
        raise ConfigError(
            f"{file}: uses {unknown[0]}, which there is not", f"there are {', '.join(sorted({*known, *COMMON}))}"
        )


def _try(file: Path, own: Own, flow: Flow, said: Mapping[str, Any]) -> None:
    """Render a template as it will be.

    Raises:
        ConfigError: it cannot be, its messages are none that a model could answer, or it leaves out a criterion.
    """
    import jinja2

    given = flow.trial(file.stem) | dict(said)
    if "reviews" in given and "criteria" in said:  # what a template picks out of them must be there
        given["reviews"] = [replace(r, scores=dict.fromkeys(said["criteria"], 8)) for r in given["reviews"]]
    try:
        for language in ("", "German"):
            messages = render(file.stem, given | {"language": language}, flow.prompts, own=own)
            roles = [m["role"] for m in messages]
            if not roles or roles[-1] != "user" or "system" in roles[1:]:
                raise ConfigError(
                    f"{file}: its messages are {', '.join(roles) or 'none'}",
                    "begin each by {{ turn(\"user\") }} and its like; the user's is the last, the system's the first",
                )
        text = "\n".join(m["content"] for m in messages)
        if absent := [c for c in _scored(file.stem, flow, given) if not re.search(rf"\b{c}\b", text)]:
            raise ConfigError(
                f"{file}: does not name the criterion {absent[0]}, for which it asks a score",
                "name them all, or loop over {{ criteria }} (of instructions: {{ instruction_criteria }})",
            )
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as e:
        raise ConfigError(f"{file}: cannot be rendered: {e}", "mend the template") from None


def _scored(step: str, flow: Flow, given: Mapping[str, Any]) -> list[str]:
    """The criteria that a step's answer has scores for."""
    names = {*given.get("criteria", CRITERIA), *given.get("instruction_criteria", INSTRUCTION_CRITERIA)}
    schemas = [q.schema(dict(given)) for q in flow.questions if flow.conversations and q.step == step and q.schema]
    return [name for schema in schemas for name in schema["required"] if name in names]

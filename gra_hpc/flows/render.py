"""The prompt templates beside this file: one per question. `{{ turn("user") }}` begins a chat message."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gra_hpc.records import digest

if TYPE_CHECKING:
    import jinja2

DIRECTORY = Path(__file__).parent / "gra" / "prompts"
_MARK = "\x1e"  # ASCII record separator: taken out of every variable, so that no text can begin a message
_TURN = re.compile(f"{_MARK}(system|user|assistant){_MARK}")


def _clean(value: Any) -> Any:
    return value.replace(_MARK, " ") if isinstance(value, str) else value


@cache
def _environment() -> jinja2.Environment:
    import jinja2  # commands that only look at a plan do without it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(DIRECTORY),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        auto_reload=False,
        finalize=_clean,
    )
    environment.globals["turn"] = _turn
    return environment


class _Mark:
    """Begins a chat message."""

    def __init__(self, role: str) -> None:
        self.role = role

    def __str__(self) -> str:
        return f"{_MARK}{self.role}{_MARK}"


def _turn(role: str) -> _Mark:
    return _Mark(role)


def render(name: str, variables: dict[str, Any], persona: str = "") -> tuple[dict[str, str], ...]:
    """Chat messages of one question.

    What Reviewers share (rubric and sample) comes first and the persona last, so that engines can reuse the prefix.

    Args:
        name: template name without `.j2`.
        variables: what the template needs; a missing one is an error.
        persona: the member's own sentences, put at the end.
    """
    text = _environment().get_template(f"{name}.j2").render(variables)
    _, *parts = _TURN.split(text)
    messages = [{"role": r, "content": c.strip()} for r, c in zip(parts[::2], parts[1::2], strict=True)]
    if persona:
        messages[-1]["content"] += f"\n\n{persona.strip()}"
    return tuple(messages)


def prompts_digest() -> str:
    """Digest of all templates: part of a run's fingerprint."""
    return digest([[p.name, p.read_text(encoding="utf-8")] for p in sorted(DIRECTORY.glob("*.j2"))])

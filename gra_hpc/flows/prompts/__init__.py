"""The prompt templates beside this file: one per question, with a `system` and a `user` block."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from gra_hpc.records import digest

DIRECTORY = Path(__file__).parent


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(DIRECTORY),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
        autoescape=False,
    )


def render(name: str, variables: dict[str, Any], persona: str = "") -> tuple[dict[str, str], ...]:
    """Chat messages of one question.

    What Reviewers share (rubric and sample) comes first and the persona last, so that engines can reuse the prefix.

    Args:
        name: template name without `.j2`.
        variables: what the template needs; a missing one is an error.
        persona: the member's own sentences, put at the end.
    """
    template = _environment().get_template(f"{name}.j2")
    context = template.new_context(variables)
    system, user = ("".join(template.blocks[b](context)).strip() for b in ("system", "user"))
    if persona:
        user = f"{user}\n\n{persona.strip()}"
    return ({"role": "system", "content": system}, {"role": "user", "content": user})


def prompts_digest() -> str:
    """Digest of all templates: part of a run's fingerprint."""
    return digest([[p.name, p.read_text()] for p in sorted(DIRECTORY.glob("*.j2"))])

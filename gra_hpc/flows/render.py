"""Prompt templates: one per question, in the folder of its flow. `{{ turn("user") }}` begins a chat message."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gra_hpc.config.settings import MethodConfig
from gra_hpc.flows.criteria import INSTRUCTION_MEANINGS, MEANINGS, instruction_meanings, meanings
from gra_hpc.flows.domains import DESCRIBED
from gra_hpc.records import digest

if TYPE_CHECKING:
    import jinja2

_MARK = "\x1e"  # ASCII record separator: taken out of every variable, so that no text can begin a message
_TURN = re.compile(f"{_MARK}(system|user|assistant){_MARK}")


COMMON: dict[str, Any] = {
    "language": "",
    "context": "",
    "domains": DESCRIBED,
    "criteria": MEANINGS,
    "own_criteria": {},
    "instruction_criteria": INSTRUCTION_MEANINGS,
    "own_instruction_criteria": {},
}
"""What every template may use, as it is for the paper's path and seeds in English."""

Own = tuple[tuple[str, str], ...]
"""Templates of the user's own: names without `.j2`, and texts."""


def _listed(meanings: Mapping[str, str]) -> str:
    """Criteria with what they mean, a line each, without the last full stop (a loop costs each call 10 us more)."""
    return ";\n".join(f'- "{name}": {meaning}' for name, meaning in meanings.items())


def _scored(names: Iterable[str], *scores: int) -> str:
    """The inside of a JSON object that gives each of some criteria a score: an example of the form."""
    return ", ".join(f'"{name}": {score}' for name, score in zip(names, cycle(scores)))


FILTERS: dict[str, Callable[..., str]] = {"listed": _listed, "scored": _scored}


def _clean(value: Any) -> Any:
    return value.replace(_MARK, " ") if isinstance(value, str) else value


@cache
def _environment(directory: Path, own: Own) -> jinja2.Environment:
    import jinja2  # commands that only look at a plan do without it
    from jinja2.sandbox import SandboxedEnvironment

    paper = jinja2.FileSystemLoader(directory)
    users = jinja2.DictLoader({f"{name}.j2": text for name, text in own})
    kind = SandboxedEnvironment if own else jinja2.Environment
    environment = kind(
        loader=jinja2.ChoiceLoader([users, paper]) if own else paper,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        auto_reload=False,
        finalize=_clean,
    )
    environment.globals |= {"turn": _turn, **COMMON}
    environment.filters |= FILTERS
    return environment


@cache
def _template(name: str, directory: Path, own: Own) -> jinja2.Template:
    template = _environment(directory, own).get_template(f"{name}.j2")
    template.globals = dict(template.globals)  # it is a chain of maps, and to copy that is half of a rendering
    return template


class _Mark:
    """Begins a chat message."""

    def __init__(self, role: str) -> None:
        self.role = role

    def __str__(self) -> str:
        return f"{_MARK}{self.role}{_MARK}"


def _turn(role: str) -> _Mark:
    return _Mark(role)


def wording(method: MethodConfig) -> dict[str, Any]:
    """What a run's settings say to all of its templates."""
    out: dict[str, Any] = {}
    if method.criteria:
        out |= dict.fromkeys(("criteria", "own_criteria"), meanings(method))
    if method.instruction_criteria:
        out |= dict.fromkeys(("instruction_criteria", "own_instruction_criteria"), instruction_meanings(method))
    return out


def render(
    name: str, variables: dict[str, Any], directory: Path, persona: str = "", own: Own = ()
) -> tuple[dict[str, str], ...]:
    """Chat messages of one question.

    What Reviewers share (rubric and sample) comes first and the persona last, so that engines can reuse the prefix.

    Args:
        name: template name without `.j2`.
        variables: what the template needs, and what of `COMMON` is different; a missing one is an error.
        directory: of the flow's templates.
        persona: the member's own sentences, put at the end.
        own: the run's own templates.
    """
    text = _template(name, directory, own).render(variables)
    _, *parts = _TURN.split(text)
    messages = [{"role": r, "content": c.strip()} for r, c in zip(parts[::2], parts[1::2], strict=True)]
    if persona:
        messages[-1]["content"] += f"\n\n{persona.strip()}"
    return tuple(messages)


def templates(directory: Path, own: Own = ()) -> dict[str, str]:
    """The texts of all templates of a flow, by file name, with the run's own."""
    paper = {p.name: p.read_text(encoding="utf-8") for p in sorted(directory.glob("*.j2"))}
    return paper | {f"{name}.j2": text for name, text in own}


def prompts_digest(directory: Path, own: Own = ()) -> str:
    """Digest of all templates of a flow: part of a run's fingerprint."""
    return digest([[name, text] for name, text in templates(directory, own).items()])

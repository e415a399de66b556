"""`gra flow`: which flows there are, what one asks, and a new one to begin with."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from gra_hpc.config import explain, flow_sections
from gra_hpc.config.settings import RunConfig
from gra_hpc.errors import ConfigError
from gra_hpc.flows.registry import Flow, find
from gra_hpc.flows.render import render

TEMPLATES = Path(__file__).parent / "new_flow"
_PLACE = "NAME"
"""What the new flow's name is put in place of."""


def listed() -> Iterator[str]:
    """A line for each flow; of one whose package does not work, what is wrong with it."""
    for name in flow_sections.names():
        point = flow_sections.brought().get(name)
        whose = f"  ({point.dist.name} {point.dist.version})" if point and point.dist else ""
        try:
            about = find(name).about
        except ConfigError as e:
            about = f"cannot be used: {e.what}"
        yield f"{name:12} {about}{whose}"


def shown(name: str) -> Iterator[str]:
    """Stages, settings and questions of a flow, each question with a prompt.

    Raises:
        ConfigError: no such flow.
    """
    flow = find(name)
    yield f"{flow.name}: {flow.about}"
    yield f"folder    {flow.prompts.parent}"
    yield f"stages    {'; '.join(f'{s.name} ({s.passed})' for s in flow.stages)}"
    asked = ", ".join(q.step for q in flow.questions)
    yield f"questions {asked or 'none: nobody is asked'}"
    if flow.settings:
        yield f"settings  (section {flow.name}: of a preset)"
        yield from (f"  {line}" for line in explain.explain(flow.settings()))
    yield from _prompts(flow)


def _prompts(flow: Flow) -> Iterator[str]:
    """A prompt of each question, with made-up variables."""
    for question in flow.questions:
        guided = ", guided by a JSON schema" if question.schema else ""
        yield ""
        yield f"--- {question.step} ({question.step}.j2{guided}; unanswered, a sample fails at {question.stage})"
        for message in render(question.step, flow.trial(question.step), question.prompts):
            yield f"[{message['role']}]"
            yield from message["content"].split("\n")


def write_new(name: str, parent: Path) -> Path:
    """Write a package with a flow to begin with.

    Args:
        name: of the flow, the package and its folder.
        parent: where the folder is made.

    Returns:
        The folder.

    Raises:
        ConfigError: a name that cannot be a package's, or one that is taken.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) or keyword.iskeyword(name):
        raise ConfigError(
            f"flow {name}: expected small letters a to z, digits and _, a letter first", "gra flow new my_flow"
        )
    if name in flow_sections.names():
        raise ConfigError(f"flow {name}: there is one of this name", f"gra flow show {name}")
    if name in {f.name for f in fields(RunConfig)} or importlib.util.find_spec(name):
        raise ConfigError(f"flow {name}: the name of something else already", f"gra flow new {name}_flow")
    folder = parent / name
    if os.path.lexists(folder):
        raise ConfigError(f"{folder}: exists", "choose another name, or move it away")
    files = {
        "pyproject.toml": "pyproject.toml.txt",
        f"test_{name}.py": "test.py.txt",
        f"{name}/flow.py": "flow.py.txt",
        f"{name}/prompts/read.j2": "prompts/read.j2",
    }
    for file, template in files.items():
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((TEMPLATES / template).read_text(encoding="utf-8").replace(_PLACE, name), encoding="utf-8")
    (folder / name / "__init__.py").write_text('"""A flow for gra-hpc: `flow.py`."""\n', encoding="utf-8")
    return folder

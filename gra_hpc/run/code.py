"""The code that decides what is asked and what is accepted, digested: part of a run's fingerprint.

What is digested is what Python makes of the files, not their text: comments, docstrings and layout may change while a
run is under way. The digest is the same under every version of Python that the package supports.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from gra_hpc.flows.registry import Flow
from gra_hpc.records import digest

PACKAGE = Path(__file__).parent.parent

EVERY_FLOW = (
    "records.py",
    "thoughts.py",
    "text/lists.py",
    "models/special_tokens.py",
    "models/thinking.py",
    "flows/*.py",
    "labels/marks.py",
    "run/gold.py",
    "run/slices.py",
)
"""What every flow rests on: ids and criteria, how questions are asked, rendered and parsed, which answers are refused,
what a shard is given.

Where the engines run is not among it, nor what merges and releases: a run may be placed anew and merged again.
"""


SIGNATURES = (
    "conversation.py",
    "flows/keys.py",
    "text/code.py",
    "text/normal_form.py",
    "text/words.py",
    "signatures/columns.py",
    "signatures/minhash.py",
    "signatures/signing.py",
    "signatures/decontaminate.py",
    "sources/benchmarks.py",
    "sources/files.py",
)
"""What makes the signatures of texts, for the merge."""


@functools.cache
def signing_digest() -> str:
    """Digest of the code that signs texts: a merge makes anew what other code has made."""
    return _digest_of({name: PACKAGE / name for name in SIGNATURES})


VIEWS = "views"
"""Folder within a flow's, of what people are shown: it may change while a run is under way."""


def code_digest(flow: Flow) -> str:
    """Digest of the code that a flow's samples depend on: its folder, what it uses, and what every flow does."""
    return _digest(flow.prompts.parent, flow.uses)


@functools.cache
def _digest(folder: Path, uses: tuple[str, ...] = ()) -> str:
    """Of a flow's folder, and of files below the package."""
    found = {str(f.relative_to(PACKAGE)): f for pattern in (*EVERY_FLOW, *uses) for f in PACKAGE.glob(pattern)}
    own = [f for f in folder.rglob("*.py") if VIEWS not in f.relative_to(folder).parts]
    found |= {f"{folder.name}/{f.relative_to(folder)}": f for f in own}
    return _digest_of(found)


def _digest_of(found: Mapping[str, Path]) -> str:
    return digest([[name, syntax_digest(found[name].read_text(encoding="utf-8"))] for name in sorted(found)])


_SAID_ALREADY = {"ctx", "kind"}
"""Fields that follow from where a node stands, or from how it was typed (`u` before a text)."""


def syntax_digest(text: str) -> str:
    """Hex digest of a module's syntax, without docstrings and other texts that stand alone.

    Raises:
        SyntaxError: not Python.
    """
    words: list[str] = []
    _write(ast.parse(text), words.append)
    return hashlib.blake2b("\n".join(words).encode(), digest_size=16).hexdigest()


def _write(node: ast.AST, say: Callable[[str], None]) -> None:
    """A node in words, one after the other: its kind, and its fields that are not empty.

    `ast.dump` writes empty fields in some versions, and those that later versions have added.
    """
    say(type(node).__name__)
    for name in node._fields:
        value = getattr(node, name, None)
        if value is None or value == [] or name in _SAID_ALREADY:
            continue
        say(name)
        if isinstance(value, list):
            for part in value:
                if not isinstance(part, ast.AST):
                    say(ascii(part))
                elif not _says_nothing(node, part):
                    _write(part, say)
            say("]")
        elif isinstance(value, ast.AST):
            _write(value, say)
        else:
            say(ascii(value))  # not repr, whose letters depend on the version's Unicode
    say(")")


def _says_nothing(node: ast.AST, part: ast.AST) -> bool:
    """Whether a part is a text that stands alone (the docstring of a module, function, class, field or constant), or an
    empty one that some versions put into f-strings."""
    if isinstance(part, ast.Expr):
        return isinstance(part.value, ast.Constant) and isinstance(part.value.value, str)
    return isinstance(node, ast.JoinedStr) and isinstance(part, ast.Constant) and part.value == ""

"""Text files are UTF-8 wherever a job runs: a node may have another locale than the machine that reads them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(f for d in ("gra_hpc", "jobs", "tools") for f in (ROOT / d).rglob("*.py"))
_MODE = re.compile(r"[rwxabt+]+")
_OPENING = {"open", "fdopen", "NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile"}


def unencoded(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that read or write text in the locale's encoding."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or any(k.arg == "encoding" for k in call.keywords):
            continue
        builtin = isinstance(call.func, ast.Name)
        name = getattr(call.func, "attr" if not builtin else "id", "")
        if name in ("read_text", "write_text"):
            yield call
        elif name in _OPENING and not _is_os(call.func, name):
            place = 1 if name == "fdopen" or (name == "open" and builtin) else 0
            values = [*call.args[place : place + 1], *(k.value for k in call.keywords if k.arg == "mode")]
            words = [v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)]
            modes = [w for w in words if _MODE.fullmatch(w)]
            text_by_default = (name == "open" and (builtin or not call.args)) or name == "fdopen"
            if not any("b" in m for m in modes) and (modes or text_by_default):
                yield call


def _is_os(function: ast.expr, name: str) -> bool:
    """`os.open` gives a descriptor, `tarfile.open` an archive."""
    return name == "open" and isinstance(function, ast.Attribute) and ast.unparse(function.value) in ("os", "tarfile")


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("path.read_text()", 1),
        ("path.read_text(errors='replace')", 1),
        ("path.write_text(x)", 1),
        ("path.write_text(x, encoding='utf-8')", 0),
        ("path.open()", 1),
        ("path.open('a')", 1),
        ("path.open('ab')", 0),
        ("open(path)", 1),
        ("open(path, mode='rb')", 0),
        ("os.open(path, os.O_RDONLY)", 0),
        ("tarfile.open(fileobj=f, mode='r:')", 0),
        ("os.fdopen(fd, 'w')", 1),
        ("tempfile.NamedTemporaryFile('w')", 1),
        ("tempfile.NamedTemporaryFile()", 0),
        ("files.open('vectors', 'r+')", 0),
    ],
)
def test_what_counts(code: str, found: int) -> None:
    assert len(list(unencoded(ast.parse(code)))) == found


def test_every_text_file_names_its_encoding() -> None:
    assert len(FILES) > 100
    found = [
        f"{file.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call.func)}"
        for file in FILES
        for call in unencoded(ast.parse(file.read_bytes()))
    ]
    assert found == []

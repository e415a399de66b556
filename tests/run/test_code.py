"""The code's digest: what Python makes of it, under every version, not how it is written."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gra_hpc.flows.registry import find
from gra_hpc.run import code
from gra_hpc.run.code import PACKAGE, syntax_digest

MODULE = '''\
"""What it is."""

from dataclasses import dataclass, field

LIMIT = 8.0  # the paper's
"""A constant's docstring."""


@dataclass(frozen=True)
class Thing:
    """A class."""

    name: str = "a" "b"
    """A field."""
    many: list[int] = field(default_factory=list)

    async def ask(self, *words: str, limit: float = LIMIT, **more: object) -> str | None:
        """A method."""
        if (n := len(words)) > limit and not more:
            return f"{self.name!r:>{n}} of {n:,d}{'{}'} {words[0]=}"
        elif -1 < n <= 3:
            raise ValueError(f"no more") from None
        try:
            async with self as (a, *b):
                return [x async for x in a if x is not ...][::-1][0]
        except* OSError:
            pass
        match words:
            case [str() as first, *_] | [first]:
                return first
        return (lambda *, k=b"\\xff", z=1j: k @ z)() or "\\u1c89 é"
'''
DIGEST = "898e2f8d8bda9ef036daa80c568d5d84"


def test_the_digest_is_the_same_under_every_version_of_python() -> None:
    assert syntax_digest(MODULE) == DIGEST, f"Python {sys.version} makes something else of it"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"""What it is."""', '"""What it may be."""'),
        ('"""What it is."""\n', ""),
        ("  # the paper's", ""),
        ('"""A constant\'s docstring."""\n', ""),
        ('    """A field."""\n', '    "One field."\n'),
        ('        """A method."""\n', ""),
        ('"a" "b"', "'ab'"),
        ("class Thing:", "class Thing( ):"),
        ("    name: str = ", "\n\n    name : str = "),
        ("if (n := len(words)) > limit and not more:", "if ((n := len(words)) > limit\n  and (not more)):"),
        ("*words: str, limit", "*words: str,  # some\n limit"),
    ],
)  # fmt: skip
def test_what_is_only_written_leaves_it(before: str, after: str) -> None:
    assert MODULE.count(before) == 1
    assert syntax_digest(MODULE.replace(before, after)) == DIGEST


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("LIMIT = 8.0", "LIMIT = 8.5"),
        ("> limit", ">= limit"),
        ("not more", "more"),
        ("frozen=True", "frozen=False"),
        ('"a" "b"', '"a", "b"'),
        ("-1 < n", "1 < n"),
        ("[::-1]", "[:-1]"),
        ("first, *_", "first, _"),
        ("async with", "with"),
        ("except*", "except"),
        ("{n:,d}", "{n:d}"),
        ("self.name!r", "self.name!s"),
        ("from None", ""),
        ("\\u1c89", "\\u1c8a"),
        (" é", " e"),
    ],
)
def test_what_python_makes_of_it_changes_it(before: str, after: str) -> None:
    assert MODULE.count(before) == 1
    assert syntax_digest(MODULE.replace(before, after)) != DIGEST


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's code, which is digested in its place."""
    shutil.copytree(PACKAGE, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "copy")
    monkeypatch.setattr(code, "_digest", code._digest.__wrapped__)  # a process digests its code once
    return tmp_path / "copy"


def digest_of(package: Path, folder: str = "gra", *uses: str) -> str:
    return code.code_digest(replace(find("synthesize"), prompts=package / "flows" / folder / "prompts", uses=uses))


@pytest.mark.parametrize("file", ["records.py", "run/slices.py", "flows/ask.py", "flows/gra/committee.py"])
def test_a_line_in_what_decides_changes_a_flows_digest_and_a_comment_does_not(package: Path, file: str) -> None:
    whole = digest_of(package)
    text = (package / file).read_text(encoding="utf-8")
    (package / file).write_text(f"# a comment\n{text}\n\n# another\n", encoding="utf-8")
    assert digest_of(package) == whole
    (package / file).write_text(f"{text}\nMORE = 1\n", encoding="utf-8")
    assert digest_of(package) != whole


def test_where_it_runs_and_other_flows_do_not_count(package: Path) -> None:
    whole = digest_of(package)
    for file in ("placement/placement.py", "engines/client.py", "merge/round.py", "run/plan.py", "config/settings.py"):
        with (package / file).open("a", encoding="utf-8") as f:
            f.write("\nMORE = 1\n")
    (package / "flows" / "other").mkdir()
    (package / "flows" / "other" / "ask.py").write_text("MORE = 1\n")
    assert digest_of(package) == whole != digest_of(package, "other")
    (package / "flows" / "gra" / "views").mkdir(exist_ok=True)
    (package / "flows" / "gra" / "views" / "report.py").write_text("MORE = 1\n")
    assert digest_of(package) == whole, "what people are shown"
    shutil.copy(package / "flows" / "other" / "ask.py", package / "flows" / "gra")
    assert digest_of(package) != whole, "a new module of the flow"


def test_what_a_flow_says_it_uses_counts(package: Path) -> None:
    whole, with_labels = digest_of(package), digest_of(package, "gra", "labels/*.py")
    with (package / "labels" / "votes.py").open("a", encoding="utf-8") as f:
        f.write("\nMORE = 1\n")
    assert digest_of(package) == whole and digest_of(package, "gra", "labels/*.py") != with_labels != whole


@pytest.mark.parametrize("file", ["signatures/columns.py", "flows/keys.py", "signatures/signing.py"])
def test_what_texts_are_signed_by_changes_the_signings_digest(
    package: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change to what columns are called, and to which they are, makes signatures anew."""
    monkeypatch.setattr(code, "signing_digest", code.signing_digest.__wrapped__)
    whole = code.signing_digest()
    with (package / file).open("a", encoding="utf-8") as f:
        f.write("\nMORE = 1\n")
    assert code.signing_digest() != whole

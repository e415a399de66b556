"""What others wrote is shown, not obeyed: on the terminal, in logs, in Markdown."""

from __future__ import annotations

import ast
import json
import logging
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gra_hpc
from gra_hpc.errors import GraError
from gra_hpc.log_lines import Formatter
from gra_hpc.release.markdown import block, code, markdown
from gra_hpc.terminal import counted, printable, say, show_traceback, shown, word

HOSTILE = "a\x1b[2J\x9b31m\x07\r\x08\u202egnp\u2066\u2028\x85\udcff\U000e0041\nnext: b"
SHOWN = (
    r"a\u001b[2J\u009b31m\u0007\u000d\u0008\u202egnp\u2066\u2028\u0085\udcff\udb40\udc41" r"\nnext: b"
)  # fmt: skip
PACKAGE = Path(gra_hpc.__file__).parent


def test_what_does_more_than_stand_there_is_written_out() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("a\n\tb", lines=True) == "a\n\tb"
    for same in ("plain", "tab\tin", "é ü ß 漢字 עברית العربية", "👩‍👩‍👧 🇪🇺", r"C:\new\u001b", "a\u0301"):
        assert printable(same) == same


@given(st.text())
def test_nothing_shown_controls_a_terminal(text: str) -> None:
    safe = printable(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in safe if c != "\t")
    assert not any(unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
                   for c in safe)  # fmt: skip
    assert printable(text.replace("\\", ""), lines=True).count("\n") == text.count("\n")
    safe.encode()


@given(st.text())
def test_json_stays_the_same_value(text: str) -> None:
    made = json.dumps({"key": text}, ensure_ascii=False)
    assert json.loads(printable(made, lines=True)) == {"key": text}


def test_it_is_printed_in_one_place() -> None:
    """`terminal.say`; the guard imports nothing, and prints of itself alone; a template's process answers in JSON."""
    found = [
        (path.relative_to(PACKAGE).as_posix(), node.lineno)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id == "print")
            or ast.unparse(node.func) in ("sys.stdout.write", "sys.stderr.write")
        )
    ]  # fmt: skip
    assert {name for name, _ in found} <= {"terminal.py", "engines/guard.py", "models/template.py"}, found
    foreign = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "logging.Formatter" in path.read_text(encoding="utf-8")
    ]
    assert foreign == ["log_lines.py"]


def test_errors_logs_and_tracebacks_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    e = GraError(f"{HOSTILE}: broken", HOSTILE)
    assert len(str(e).splitlines()) == 1 and printable(str(e)) == str(e)
    assert "\\u001b[2J" in str(e)
    record = logging.LogRecord("gra", logging.INFO, "", 0, "%s", (HOSTILE,), None)
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
        show_traceback(type(error), error, error.__traceback__)
    first, *trace = Formatter("%(message)s").format(record).split("\n")
    assert first == SHOWN
    assert not any("\x1b" in line or "\u202e" in line for line in trace)
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and "\x1b" not in said and "\\u001b" in said
    say(HOSTILE, to=sys.stderr)
    assert capsys.readouterr().err == f"{SHOWN}\n"


@given(st.text(alphabet="`|<>&*_[]~\\ab #\n\x1b", max_size=30))
def test_markdown_is_shown_as_it_was_written(text: str) -> None:
    from markdown_it import MarkdownIt

    safe = printable(text)
    plain = " ".join(safe.split()) or "x"
    parser = MarkdownIt("gfm-like", {"linkify": False})
    tokens = parser.parse(f"name: {markdown(plain)} end")
    assert [t.type for t in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    children = tokens[1].children or []
    assert {t.type for t in children} <= {"text", "text_special"}
    assert "".join(t.content for t in children) == f"name: {plain} end"
    (span,) = [t for t in parser.parse(f"in {code(plain)}")[1].children or [] if t.type == "code_inline"]
    assert span.content.strip() == plain.strip()
    (fence,) = parser.parse(block(text))
    assert fence.type == "fence" and fence.content.rstrip("\n") == printable(text, lines=True).rstrip("\n")


def test_one_is_no_plural() -> None:
    assert [counted(n, "worker") for n in (0, 1, 2)] == ["0 workers", "1 worker", "2 workers"]


def test_paths_in_commands_are_one_word_of_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "my runs" / "a") == "'my runs/a'" and word("runs/a") == "runs/a"
    assert (word("~/my run"), word("~/a"), word("~/"), word("a;b")) == ("~/'my run'", "~/a", "~/", "'a;b'")
    commands = r"gra (?!fetch)[a-z]+ (?:[a-z]+ )?|--(?:to|dir|preset|site) |(?<=\")(?:ls|rm|mv) (?:-\w+ )?|chmod \S+ "
    path = r"[^{}()]*\b(?:path|release|logs|parents\[\d\]|file|directory|folder|out|site|preset)"
    bare = re.compile(rf"(?:{commands})\{{{path}\}}")
    package = Path(gra_hpc.__file__).parent
    sources = [*package.rglob("*.py"), *(package.parent / "jobs").rglob("*.py")]
    found = [f"{file}: {m[0]}" for file in sources for m in bare.finditer(file.read_text())]
    assert not found

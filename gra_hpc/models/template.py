"""A model's chat template is code of others: it is run in a process of its own, which ends whatever the code does.

    python -I template.py       a line of JSON {template, messages, variables, cpu_s} on standard input for each
                                question, a line {text} on standard output for each answer

The sandbox of Jinja keeps it from what it could reach, limits of the kernel from running or growing without end. Only
the standard library and Jinja are imported. One process answers all questions of a command, since it takes longer to
start than to answer; it ends when nobody has asked for a while.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import threading
from functools import lru_cache
from typing import Any

CPU_S, BYTES = 10.0, 1 << 30
"""Processor time and memory that a template may take: real ones take milliseconds."""
WALL_S = 120.0
"""Longest wait: a busy machine, Python on a slow disk."""
TEXT_CHARS = 1 << 20
"""Longest prompt of the few words that a template is tried with."""
_IDLE_S = 5.0
_ENDLESS = "endless"
"""An answer: the template would not end, or wants more memory than there is."""


class Endless(Exception):
    """A template that takes more than `CPU_S` or `BYTES`."""


def render(template: str, messages: list[dict[str, str]], variables: dict[str, object]) -> str | None:
    """The prompt that a chat template makes of messages, up to where the model answers.

    Returns:
        None where the template's code refuses the messages, or cannot be run here.

    Raises:
        Endless: it was ended.
    """
    question = {"template": template, "messages": messages, "variables": variables, "cpu_s": CPU_S}
    return _answer(json.dumps(question).encode() + b"\n")


class _Process:
    """The process that answers, begun when first asked, and anew where it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, question: bytes) -> bytes:
        """A line for a line; empty where there is no answer.

        Raises:
            Endless: the template was ended.
        """
        with self._lock:
            begun = self._process is None
            answer, code = self._asked(question)
            if code == 0 and not begun:  # nobody had asked it for a while, and it went as this came
                answer, code = self._asked(question)
        if code in (-signal.SIGPROF, -signal.SIGKILL):
            raise Endless
        return answer

    def _asked(self, question: bytes) -> tuple[bytes, int | None]:
        """An answer, or how the process has ended instead."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", __file__],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={k: os.environ[k] for k in ("PATH", "LD_LIBRARY_PATH") if k in os.environ},
            )  # fmt: skip
        process = self._process
        assert process.stdin and process.stdout
        timer = threading.Timer(WALL_S, process.kill)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(question)
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = b""
        finally:
            timer.cancel()
        if answer.endswith(b"\n"):
            return answer, None
        self._process = None
        process.stdout.close()
        with contextlib.suppress(OSError):
            process.stdin.close()
        return b"", process.wait()


_PROCESS = _Process()


@lru_cache(maxsize=256)
def _answer(question: bytes) -> str | None:
    try:
        text = json.loads(_PROCESS.ask(question))["text"]
    except (ValueError, KeyError):
        return None
    if text == [_ENDLESS]:
        raise Endless
    return text if isinstance(text, str) else None


def _rendered(question: dict[str, Any]) -> str:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals.update(raise_exception=refuse, strftime_now=lambda _: "2025-01-01")
    plain = re.sub(r"\{%-?\s*(generation|endgeneration)\s*-?%\}", "", question["template"])
    text = environment.from_string(plain).render(
        messages=question["messages"], add_generation_prompt=True, **question["variables"]
    )
    if len(text) > TEXT_CHARS:
        raise MemoryError
    return text


def _limited(question: dict[str, Any]) -> str | list[str] | None:
    """What to answer; the kernel ends this process where the template takes too long."""
    signal.setitimer(signal.ITIMER_PROF, question["cpu_s"])
    try:
        return _rendered(question)
    except MemoryError:
        return [_ENDLESS]
    except Exception:  # the template's own refusal, or whatever its code does with these messages
        return None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Answer until standard input closes, or nobody asks."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    questions, answers = sys.stdin.buffer, sys.stdout
    while select.select([questions], [], [], _IDLE_S)[0] and (line := questions.readline()):
        answers.write(json.dumps({"text": _limited(json.loads(line))}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

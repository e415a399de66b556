"""The documentation is true: generated parts are up to date, messages exist, commands parse and run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from gra_hpc import cli
from gra_hpc.config import flow_sections
from gra_hpc.config.known_keys import all_keys
from gra_hpc.config.settings import RunConfig
from gra_hpc.evaluation.config import EvaluateConfig
from gra_hpc.training.config import FinetuneConfig

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$|^<!-- test: (.*?) -->$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """Language (`test` for commands that readers do not see), marks and text of each code block."""
    for match in BLOCK.finditer(page.read_text()):
        yield ("test", "", match[4]) if match[4] else (match[1], match[2].strip(), match[3])


def commands(text: str, console: bool) -> Iterator[str]:
    """Command lines of a block; of a console only those behind a prompt."""
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        if console and not line.startswith("$ "):
            continue
        line = line.removeprefix("$ ").strip()
        if line and not line.startswith("#"):
            yield line


ALL = [
    (page.name, line)
    for page in PAGES
    for language, _, text in blocks(page)
    if language in ("bash", "console")
    for line in commands(text, language == "console")
]


MARKS = re.compile(r'run|run=slurm|run=script|small|tested=(?P<test>\S+)|untested="[^"]+"')
SMALL = {
    "python tools/bench/client.py clients": "--calls 60",
    "python tools/bench/client.py cpu": "--samples 30 --rate 200",
    "python tools/bench/engine.py": "--seconds 0.5 --tp 1 --batch 1 4 --png engine.png",
    "python tools/bench/merge.py": "--rows 4000 --shards 2 --semantic",
    "python tools/faults/chaos.py": "--rounds 2 --seed 3",
    "python tools/bench/placement.py": "--only h100",
    "python tools/docs/house.py": "--arrows",
    "python tools/docs/make_config_reference.py": "--check",
    "python tools/docs/make_placement_cases.py": "placement.md",
    "python tools/docs/record_session.py": "session.md",
    "python tools/docs/screenshots.py": ".",
    "python tools/simulated/beside_datatrove.py --jump": "--seeds 60 --shards 2 --window 32",
    "python tools/simulated/simulate_cluster.py": "--samples 20000 --nodes 8 --widths 4 --real 5000",
    "python tools/simulated/simulate_node.py": "--gpus 4 --models 2 --samples 60 --window 64",
}
"""Tools on these pages that take minutes to hours, and what a test asks of them."""


@pytest.mark.parametrize(
    ("page", "marks"),
    [(page.name, marks) for page in PAGES for language, marks, _ in blocks(page) if language == "bash"],
)
def test_every_block_is_typed_by_a_test_or_says_why_not(page: str, marks: str) -> None:
    match = MARKS.fullmatch(marks)
    assert match, f"{page}: `{marks}`"
    if match["test"]:
        file, _, name = match["test"].partition("::")
        assert f"def {name}(" in (ROOT / file).read_text() if name else (ROOT / file).exists(), match["test"]


def test_small_blocks_are_known() -> None:
    lines = {
        line.split("#")[0].strip()
        for page in PAGES
        for _, marks, text in blocks(page)
        if marks == "small"
        for line in commands(text, False)
    }
    for line in lines:
        assert any(line.startswith(known) for known in SMALL), line
    for known in SMALL:
        assert any(line.startswith(known) for line in lines), known


SLOW = {
    "python tools/bench/engine.py": [pytest.mark.slow, pytest.mark.vllm],
    "python tools/docs/record_session.py": [pytest.mark.slow, pytest.mark.slurm],
    "python tools/docs/screenshots.py": [
        pytest.mark.slow,
        pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed"),
    ],
    "python tools/faults/chaos.py": [pytest.mark.slow],  # by default: crash/test_chaos.py
    "python tools/simulated/beside_datatrove.py --jump": [pytest.mark.slow],
    "python tools/simulated/simulate_cluster.py": [pytest.mark.slow],
}


@pytest.mark.parametrize("tool", [pytest.param(t, marks=SLOW.get(t, ())) for t in SMALL])
def test_tools_do_what_the_pages_say(tool: str, tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / tool.split()[1]), *tool.split()[2:], *SMALL[tool].split()]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("page", "line"), [x for x in ALL if x[1].startswith("gra ")])
def test_commands_parse(page: str, line: str) -> None:
    """Command, options and keys of settings exist."""
    words = shlex.split(line.split("|")[0], comments=True)[1:]
    command: Any = get_command(cli.app)
    if "--help" in words:
        words.remove("--help")
        if not words:
            return
    context = command.make_context("gra", list(words))
    name = "gra"
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
        context = command.make_context(name, list(words), parent=context)
    kind = {"finetune": FinetuneConfig, "evaluate": EvaluateConfig}.get(name, RunConfig)
    if {"finetune", "evaluate"} & {word.partition("/")[0] for word in words}:  # gra config show --preset finetune/paper
        kind = FinetuneConfig if any(w.startswith("finetune/") for w in words) else EvaluateConfig
    named = next((w for w in words if w in flow_sections.ours()), "")  # a preset is named after the flow that it is of
    flow = next((w.removeprefix("method.flow=") for w in words if w.startswith("method.flow=")), named)
    if kind is RunConfig and flow in flow_sections.ours():
        kind = flow_sections.config_of(flow)
    keys = list(all_keys(kind))
    for word in words:
        key, eq, _ = word.partition("=")
        if eq and not word.startswith("-"):
            pattern = re.compile(r"\.(NAME)(?=\.|$)")
            known = any(re.fullmatch(pattern.sub(r"\\.[^.]+", re.escape(k).replace(r"\.", ".")), key) for k in keys)
            assert known or any(k == key for k in keys), f"{page}: {key}"


@pytest.mark.parametrize(("page", "line"), [x for x in ALL if not x[1].startswith("gra ")])
def test_files_exist(page: str, line: str) -> None:
    """Scripts that a command names are there."""
    for word in re.findall(r"\b(?:tools|slurm|jobs|tests)/[\w./*-]+", line):
        assert list(ROOT.glob(word.rstrip("/"))), f"{page}: {word}"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
        for name, anchor in re.findall(r"\]\(([\w./-]+\.md)#([^)]+)\)", page.read_text()):
            heads = re.findall(r"^#+ (.*)$", (page.parent / name).read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads}
            assert anchor in slugs, f"{page.name}: {name}#{anchor} (there are {sorted(slugs)})"


def test_modules_that_texts_name_are_there() -> None:
    """On the pages and in the code's own texts."""
    files = [f for d in ("gra_hpc", "tools", "tests") for f in (ROOT / d).rglob("*.py")]
    known = {f.name for f in files}
    for text in (*PAGES, *files):
        for name in re.findall(r"`(?:[\w./]+/)?(\w+\.py)`", text.read_text(encoding="utf-8")):
            assert name in known, f"{text}: `{name}`"


def test_modules_that_the_developers_page_names_exist() -> None:
    text = (ROOT / "docs" / "developing.md").read_text()
    named = re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:/|\.py))`", text[text.index("## Where") : text.index("## Laws")])
    assert len(named) > 40
    for name in named:
        assert any((ROOT / base / name).exists() for base in ("", "gra_hpc", "tests", "tools")), name


def test_messages_of_the_failure_catalogue_exist() -> None:
    """Each is in the source; those that Slurm and others say are named here."""
    theirs = (
        "Invalid account", "Invalid qos", "invalid partition", "Requested time", "Invalid generic", "Requested node",
        "Invalid wckey", "No such file", "No module named", "no such file or directory", "unrecognized",
    )  # fmt: skip
    source = "\n".join(p.read_text() for p in (ROOT / "gra_hpc").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", source)
    source += joined + re.sub(r"\{[^{}]*\}", "...", joined)
    text = (ROOT / "docs" / "failures.md").read_text()
    for cell in re.findall(r"^\| (`[^|]*?) \|", text, re.MULTILINE):
        for message in re.findall(r"`([^`]+)`", cell):
            if not message.startswith(theirs):
                for part in (p.strip() for p in message.split("...")):
                    assert part in source, message


def test_pages_are_linked() -> None:
    """Every page can be reached from the tutorial or the readme."""
    reached = {ROOT / "README.md", ROOT / "docs" / "tutorial.md", ROOT / "docs" / "developing.md"}
    while True:
        found = {
            (p.parent / target).resolve()
            for p in reached
            for target in re.findall(r"\]\(([\w./-]+\.md)", p.read_text())
        }
        if found <= reached:
            break
        reached |= found
    assert set((ROOT / "docs").glob("*.md")) <= reached


class Desk:
    """A directory in which the pages' commands are typed: their presets, with answers made up."""

    def __init__(self, directory: Path, model: Path) -> None:
        self.directory = directory
        (directory / "configs" / "seeds").mkdir(parents=True)
        rows = "".join(
            f'{{"instruction": "Name {n} rivers.", "response": "{n} rivers.", "domain": "qa", "keywords": ["rivers"],'
            f' "summary": "Rivers."}}\n'
            for n in range(2, 14)
        )
        (directory / "my.jsonl").write_text(rows)
        common = (
            f"seeds: {{path: my.jsonl}}\nmodels: {{tiny: {{path: {model}, load_format: dummy}}}}\n"
            "committee: {a: {model: tiny}, b: {model: tiny}, c: {model: tiny}}\n"
            "merge: {semantic: false}\nengine: {kind: simulated}\nlaunch: {shards: 2, heartbeat_s: 0.5}\n"
        )
        (directory / "configs" / "demo.yaml").write_text(common)
        (directory / "configs" / "alpaca.yaml").write_text(common)
        labels = (ROOT / "configs" / "annotate.yaml").read_text(encoding="utf-8")
        (directory / "configs" / "annotate.yaml").write_text(f"{labels}models: {{smollm2: {{path: {model}}}}}\n")
        for name in ("remarks.jsonl", "remarks-gold.csv"):
            (directory / "configs" / "seeds" / name).symlink_to(ROOT / "configs" / "seeds" / name)
        for name in ("jobs", "slurm", "tools", "gra_hpc"):
            (directory / name).symlink_to(ROOT / name)
        self.env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.env["GRA_PYTHON"] = sys.executable

    def type(self, line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.directory, env=self.env, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"$ {line}\n{done.stdout}{done.stderr}"
        return done.stdout


def run_page(desk: Desk, page: Path, mark: str) -> int:
    """Type the marked blocks of a page, in order."""
    typed = 0
    for language, marks, text in blocks(page):
        if (language == "test" and mark == "run=slurm") or marks == mark:
            for line in commands(text, language == "console"):
                if not line.startswith("pip install"):  # the desk has an environment
                    desk.type(line)
                    typed += 1
    return typed


@pytest.mark.timeout(400)
def test_local_blocks_run(tmp_path: Path, tiny_llama: Path) -> None:
    desk = Desk(tmp_path, tiny_llama)
    desk.type("gra plan runs/done --preset demo && gra submit runs/done")
    desk.type("gra plan runs/byhand --preset demo launch.shards=1")
    typed = sum(run_page(desk, page, "run") for page in PAGES if page.name != "tutorial.md")
    assert typed >= 15
    assert (tmp_path / "exports" / "alpaca").is_dir()
    assert (tmp_path / "runs" / "byhand" / "release" / "manifest.json").exists()

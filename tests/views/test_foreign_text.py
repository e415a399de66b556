"""Commands over a run whose files say hostile things: what they print moves no cursor and begins no line of its own."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from gra_hpc.cli import main
from gra_hpc.release import card
from gra_hpc.run.attempts import Heartbeat, begin
from gra_hpc.run.run import Run
from gra_hpc.storage import entry, read_json, sealed
from gra_hpc.views.progress import screen
from gra_hpc.views.status import collect
from tools.faults.faults import make_run, undisturbed

EVIL = "\x1b[2J\x1b]0;t\x07\u202e\x9b\r\nnext: rm -rf ~"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
Said = Callable[..., str]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Said]:
    """What a command prints, on both streams."""

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["gra", *map(str, words)])
        with pytest.raises(SystemExit):
            main()
        out, err = capsys.readouterr()
        return out + err

    before = sys.excepthook
    yield run
    sys.excepthook = before


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Run:
    """Its directory is named by somebody hostile, too."""
    path = tmp_path_factory.mktemp("foreign") / f"run{EVIL.replace('/', '')}"
    return undisturbed(make_run(path, 4, ["launch.shards=2"]))


@pytest.fixture
def run(done: Run, tmp_path: Path) -> Run:
    path = tmp_path / done.path.name
    shutil.copytree(done.path, path)
    return Run.to_look_at(path)


def innocent(text: str) -> None:
    """No control characters, and none of the lines is theirs."""
    assert text
    assert not CONTROL.search(text), CONTROL.search(text)
    assert not any(line.startswith("next: rm") for line in text.splitlines())


def edit(path: Path, **changes: Any) -> None:
    path.write_bytes(sealed(read_json(path) | changes))


def test_a_runs_own_name(run: Run, said: Said) -> None:
    for words in (["status"], ["logs"], ["inspect"], ["merge"], ["clean"], ["release", "verify"], ["resume"]):
        innocent(said(*words, run.path))
    innocent(said("status", run.path, "--json"))
    innocent(said("plan", run.path.with_name(f"new{EVIL}"), "--preset", "demo", "nothing.like=that"))
    innocent(said("release", "verify", run.path / EVIL.replace("/", "")))


def test_heartbeats_and_manifests(run: Run, said: Said) -> None:
    shard = run.round(1).shard(0)
    edit(shard.manifest, host=EVIL, attempts=[{"attempt": "a", "host": EVIL, "message": EVIL}])
    other = run.round(1).shard(1)
    other.manifest.unlink()
    attempt = begin(other)
    Heartbeat(attempt.id, 1, 1, host=f"[/red]{EVIL}", phase=f"[bold]{EVIL}", message=EVIL, tokens={EVIL: [1, 2]},
              started=1.0).write(attempt)  # fmt: skip
    shutil.rmtree(run.round(1).merged)
    shutil.rmtree(run.release)
    innocent(said("status", run.path))
    innocent(said("status", run.path, "--json"))
    beat = read_json(attempt.heartbeat)
    attempt.heartbeat.write_bytes(orjson.dumps(beat | {"phase": "failed"}))
    innocent(said("status", run.path))
    text = said("status", run.path, "--shards")
    innocent(text)
    assert "[/red]" in text
    out = io.StringIO()
    Console(file=out, force_terminal=True, width=300).print(screen(collect(run)))
    assert "\x1b[2J" not in out.getvalue() and "\x1b]" not in out.getvalue() and "\u202e" not in out.getvalue()
    innocent(said("merge", run.path))


def test_what_models_wrote(run: Run, said: Said) -> None:
    shard = run.round(1).shard(0)
    manifest = read_json(shard.manifest)
    path = shard.samples(manifest["attempt"])
    rows = pq.read_table(path)
    texts = {"instruction", "response", "summary", "reason", "raw", "generator", "domain", "stage", "seed_id"}
    changed = rows.to_pylist()
    for row in changed:
        row |= dict.fromkeys(texts, EVIL) | {"keywords": [EVIL], "reviewers": [EVIL]}
        row["reviews"] = [r | {"member": EVIL, "comment": EVIL} for r in row["reviews"]]
    pq.write_table(pa.Table.from_pylist(changed, rows.schema), path)
    edit(shard.manifest, samples=manifest["samples"] | entry(path))
    for row in changed:
        innocent(said("inspect", run.path, row["id"]))


def test_logs_and_file_names(run: Run, said: Said) -> None:
    log = run.logs / "7" / "7_0_log.out"
    log.parent.mkdir()
    log.write_text(f"{EVIL}\ngra_hpc.errors.EngineError: engine {EVIL[:-20]} died -> read it\n")
    shard = run.round(1).shard(0)
    shard.manifest.write_bytes(b"{" + EVIL.encode())
    (run.release / "data" / f"{EVIL.replace('/', '')}.parquet").write_bytes(b"")
    (run.release / os.fsdecode(b"not-utf-8-\xff")).write_bytes(b"")
    for words in (["logs", run.path, "0"], ["status", run.path], ["inspect", run.path], ["merge", run.path]):
        innocent(said(*words))
    verified = said("release", "verify", run.release)
    innocent(verified)
    assert verified.count("not in the manifest") == 2 and r"not-utf-8-\udcff" in verified


def test_the_card_of_a_hostile_release(done: Run) -> None:
    """Names, licences, personas, paths and texts of others are shown in it, and mean nothing there."""
    evil = f"{EVIL}<script>alert(1)</script><img src=x> ![a](http://b) [c](d) `e` | **f** # g"
    facts = read_json(done.release / "manifest.json")
    (model,) = facts["models"].values()
    model |= {"licence": evil, "path": evil, "revision": evil, "parameters": None}
    facts |= {"name": evil, "run": evil, "fingerprint": evil, "models": {evil: model}, "simulated": False}
    facts["config"]["release"]["licence"] = evil
    facts["config"]["committee"] = {evil: {"model": evil, "persona": evil, "sampling": {}}}
    facts["seeds"] |= {"path": evil, "licence": evil}
    facts["ledger"]["rejected"] = {evil: 3}
    sample = card.first_row(done.release)
    assert sample is not None
    sample |= {"instruction": f"{evil}\n```\n<b>", "response": f"````\n{evil}", "id": evil, "domain": evil}
    sample["members"] |= {"generator": evil, "reviewers": [evil]}
    text = card.render(facts, sample)
    assert not CONTROL.search(text)

    from markdown_it import MarkdownIt

    body = text.split("---\n", 2)[2]
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(body)
    inline = [c for t in tokens for c in t.children or []]
    assert not {t.type for t in (*tokens, *inline)} & {"html_block", "html_inline", "image"}
    links = [t.attrGet("href") for t in inline if t.type == "link_open"]
    assert links == ["https://arxiv.org/abs/2504.12322"]
    blocks = [t.content for t in tokens if t.type == "fence" and t.info == "text"]
    assert len(blocks) == 2 and all("<script>" in b for b in blocks) and "<b>" in blocks[0]
    plain = card.render(read_json(done.release / "manifest.json"), card.first_row(done.release))
    headings = [t.tag for t in MarkdownIt("gfm-like", {"linkify": False}).parse(plain) if t.type == "heading_open"]
    assert [t.tag for t in tokens if t.type == "heading_open"] == headings
    rows = [t for t in tokens if t.type == "tr_open"]
    cells = [t for t in tokens if t.type in ("td_open", "th_open")]
    assert len(rows) > 20 and len(cells) > 60

"""One sample with its whole history, readable: from a run's published shards, or from a release directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.errors import ConfigError, GraError, ReleaseError
from gra_hpc.flows import payload
from gra_hpc.flows.registry import every, find, flow_of
from gra_hpc.flows.tools import SEAT, is_use
from gra_hpc.parquet import open_table
from gra_hpc.records import ACCEPTED, FAILED, REJECTED
from gra_hpc.run.directory import RunDir, ShardDir, round_name
from gra_hpc.run.merged import made_again
from gra_hpc.run.run import Run
from gra_hpc.run.shard_manifest import ShardManifest
from gra_hpc.terminal import block, columns, word
from gra_hpc.terminal import shown as shown_path


def find_sample(
    run: RunDir, wanted: str = "", status: str = "accepted", round_: int | None = None
) -> tuple[dict[str, Any], Path, Path]:
    """A sample of a run by the start of its id; without one, the best of a status.

    Args:
        round_: only of this one; left out, of all, and without an id not of round 0.

    Returns:
        Its row, and the shard's samples and calls tables.

    Raises:
        GraError: no such sample, several, or no such status.
        ReleaseError: a shard's manifest or table that cannot be read, or is not what was published.
    """
    if status not in (ACCEPTED, REJECTED, FAILED):
        raise GraError(
            f"--status {status}: expected {ACCEPTED}, {REJECTED} or {FAILED}", f"gra inspect {word(run.path)}"
        )
    best: tuple[dict[str, Any], ShardDir] | None = None
    found: dict[str, tuple[dict[str, Any], ShardDir]] = {}
    for path in sorted(run.path.glob("rounds/[0-9]*/shards/[0-9]*/manifest.json")):
        number, shard = int(path.parts[-4]), int(path.parts[-2])
        if number != round_ and (round_ is not None or (not wanted and number == 0)):
            continue
        directory = run.round(number).shard(shard)
        samples = ShardManifest.load(directory).samples_table(directory)
        for row in table(samples).to_pylist():
            if wanted:
                if row["id"] == wanted:
                    return row, *_tables(directory)
                if row["id"].startswith(wanted):
                    found[row["id"]] = row, directory
            elif row["status"] == status and (best is None or (row["score"] or 0) > (best[0]["score"] or 0)):
                best = (row, directory)
    if len(found) > 1:
        ids = ", ".join(sorted(found)[:5])
        raise GraError(f"{run.path}: {len(found)} samples begin with {wanted}: {ids}", "type more of the id")
    if found:
        best = next(iter(found.values()))
    if best is None:
        what = f"sample {wanted}" if wanted else f"{status} sample"
        what += f" of {round_name(round_)}" if round_ is not None else ""
        raise GraError(f"{run.path}: no published {what}", f"gra status {word(run.path)}")
    return best[0], *_tables(best[1])


def worst(run: RunDir, most: int) -> Iterator[str]:
    """The published samples whose Reviewers disagree most, a line each that fits the terminal.

    Raises:
        GraError: none was scored by Reviewers.
        ReleaseError: as `find_sample`.
    """
    names = ["id", "status", "domain", "mean", "sd", "instruction"]
    found: list[dict[str, Any]] = []
    for path in sorted(run.path.glob("rounds/[0-9]*/shards/[0-9]*/manifest.json")):
        directory = run.round(int(path.parts[-4])).shard(int(path.parts[-2]))
        rows = table(ShardManifest.load(directory).samples_table(directory))
        if set(names) <= set(rows.column_names):
            scored = rows.select(names).filter(pc.is_valid(rows["sd"]))
            best = scored.take(pc.select_k_unstable(scored, most, [("sd", "descending"), ("id", "ascending")]))
            found = sorted([*found, *best.to_pylist()], key=lambda row: (-row["sd"], row["id"]))[:most]
    if not found:
        raise GraError(f"{run.path}: no published sample that Reviewers have scored", f"gra status {word(run.path)}")
    yield f"{'sd':>5}  {'mean':>5}  {'':8}  {'sample':12}  {'domain':10}  instruction"
    for row in found:
        text = " ".join(row["instruction"].split())
        line = f"{row['sd']:5.2f}  {row['mean']:5.2f}  {row['status']:8}  {row['id'][:12]}  {row['domain']:10}  {text}"
        yield line if len(line) <= columns() else f"{line[: columns() - 3]}..."
    yield f"next: gra inspect {shown_path(run.path)} {found[0]['id'][:12]}"


def _tables(shard: ShardDir) -> tuple[Path, Path]:
    """A published shard's samples and calls."""
    manifest = ShardManifest.load(shard)
    return manifest.samples_table(shard), manifest.calls_table(shard)


def table(path: Path) -> pa.Table:
    """A table of a shard, without its embeddings.

    Raises:
        ReleaseError: it cannot be read.
    """
    try:
        with open_table(path) as file:
            return file.read([n for n in file.schema_arrow.names if n != "embedding"])
    except ReleaseError as e:
        raise ReleaseError(e.what, made_again(ShardDir(path.parent, int(path.parent.name)))) from None


def history(row: dict[str, Any], calls: Path, run: Run | None = None) -> Iterator[str]:
    """A sample as lines of text: roles, outcome, reviews, and every call it rests on.

    Args:
        run: whose it is; of a flow with a view of its own, that is shown.
    """
    if "flow" in row:
        yield from _made(row, run)
    else:
        yield from _sample(row, run)
    if row["raw"]:
        yield from block("unusable answer", row["raw"])
    asked = table(calls)
    mine = asked.filter(pc.starts_with(asked["key"], row["id"])).to_pylist()
    steps = _in_order({c["key"].split("/")[1] for c in mine if not is_use(c["key"])})
    mine.sort(key=lambda c: _turn(c, steps))
    yield f"calls ({len(mine)}):"
    for c in mine:
        _, step, seat, attempt = c["key"].split("/")
        if is_use(c["key"]):
            yield f"  {step:18} {SEAT:11} {c['seconds']:.2f} s  {c['text']}"
            continue
        yield (
            f"  {step:18} {seat:11} try {attempt}  {c['member']} ({c['model']})  {c['prompt_tokens']}+"
            f"{c['completion_tokens']} tokens  {c['seconds']:.2f} s  {c['finish']}  seed {c['seed']}"
        )


def _made(row: dict[str, Any], run: Run | None) -> Iterator[str]:
    """A candidate of a flow with columns of its own: as the flow shows it, or each that is not empty on its line."""
    yield f"candidate {row['id']}  round {row['round']}  seed {row['seed_id']} #{row['index']}  flow {row['flow']}"
    yield _outcome(row)
    seats = "; ".join(f"{s['role']} {', '.join(s['members'])}" for s in row["seats"] if s["members"])
    yield f"seats: {seats or 'none'}"
    if found := _flows_own(row, run):
        yield from found
        return
    if row["score"] is not None:
        yield f"score: {row['score']:.3f}"
    for name in (n for n in row if n not in payload.schema(None).names):
        value = row[name]
        if isinstance(value, str):
            yield from block(name, value) if value else ()
        elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
            yield from (f"{name}: {_in_words(v)}" for v in value)
        elif value not in (None, [], {}):
            yield f"{name}: {_in_words(value)}"


def _flows_own(row: dict[str, Any], run: Run | None) -> Iterator[str] | None:
    """The flow's own view of a row; none where it has none, or is not to be had here, or the run's settings are not."""
    try:
        view = run and find(row["flow"]).views.sample
        return view(run.config, run.release, row) if run and view else None
    except ConfigError:
        return None


def _in_words(value: Any) -> str:
    """A value of a flow's own column, as people write it."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {_in_words(v)}" for k, v in value.items() if v not in (None, "", [], {}))
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _outcome(row: dict[str, Any]) -> str:
    at = f" at {row['stage']}" if row["stage"] else ""
    return f"outcome: {row['status']}{at}{': ' + row['reason'] if row['reason'] else ''}"


def _sample(row: dict[str, Any], run: Run | None) -> Iterator[str]:
    """A candidate that is a conversation: how it ended, and what its flow shows of it."""
    yield f"sample {row['id']}  round {row['round']}  seed {row['seed_id']} #{row['index']}  domain {row['domain']}"
    yield _outcome(row)
    flow = flow_of(run.config) if run else next(f for f in every() if f.conversations)
    yield from flow.views.conversation(row) if flow.views.conversation else ()


def _in_order(asked: set[str]) -> list[str]:
    """Steps as the flow takes them that asks them all; none where there is no such flow here."""
    orders = ([q.step for q in flow.questions] for flow in every())
    return next((steps for steps in orders if asked <= {*steps}), [])


def _turn(call: dict[str, Any], steps: list[str]) -> tuple[int, float, str, int]:
    """Where a call stands in its sample's history: attempts on several machines have several clocks."""
    _, step, seat, attempt = call["key"].split("/")
    if step in steps:
        return steps.index(step), 0.0, seat, int(attempt)
    return len(steps), call["at"], seat, int(attempt)

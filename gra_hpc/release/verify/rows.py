"""The rows of a release's tables, checked as they stream by. Of all rows only 64-bit digests of their ids are kept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.config.settings import Policy
from gra_hpc.errors import ReleaseError
from gra_hpc.flows.registry import find
from gra_hpc.parquet import open_table
from gra_hpc.records import CONTEXT, THOUGHTS, Rubric
from gra_hpc.release.schema import OUTCOMES, REASONS, chat, contexts, data_schema, models_of, rejects_schema
from gra_hpc.release.shuffle import keys_of
from gra_hpc.release.splits import text_keys
from gra_hpc.release.tables import compared, lines, reasons_of
from gra_hpc.release.verify import counts
from gra_hpc.thoughts import MAY_MARK, Thoughts, mark_in

NAME = re.compile(r"(data|rejects)/([a-z]+)-(\d{5})-of-(\d{5})\.parquet")
_ID = "^[0-9a-f]{32}$"
_BATCH = 8192
_SHARED = ("id", "round", "seed_id", "models", "members")
_TEXTS = ("keywords", "instruction", "response", "instruction_reviews", "reviews", "verdict")
_COLUMNS = {
    "data": (*_SHARED, *_TEXTS, "domain", "summary", "messages"),
    "rejects": (*_SHARED, *_TEXTS, "raw", "outcome", "stage", "reason", "winner"),
}
_NEEDED = {*_SHARED, "instruction", "response", "messages", "outcome", "stage", "reason"}
_WON = ("exact", "fuzzy", "semantic")
"""Steps of the merge that drop a row for another one."""


def check(release: Path, manifest: dict[str, Any], sound: list[str]) -> list[str]:
    """Problems of the tables.

    Args:
        sound: names of the tables whose digests are right; only those are read.
    """
    parts, problems = _parts(manifest)
    rows = Results(manifest) if "result" in manifest else Rows(manifest)
    for part, names in parts.items():
        rows.begin(part)
        for name in names:
            if name in sound:
                problems += rows.read(release / name, name)
    every = [name for names in parts.values() for name in names]
    return problems + (rows.totals() if rows.whole and set(every) <= set(sound) else [])


def _parts(manifest: dict[str, Any]) -> tuple[dict[str, list[str]], list[str]]:
    """Tables by split or outcome, in order; and what is wrong with their names."""
    problems, parts = [], {}
    found: dict[str, list[tuple[int, int, str]]] = {p: [] for p in (*manifest["splits"], *OUTCOMES)}
    for name in manifest["files"]:
        match = NAME.fullmatch(name)
        if match and match[2] in (manifest["splits"] if match[1] == "data" else OUTCOMES):
            found[match[2]].append((int(match[3]), int(match[4]), name))
        elif name.startswith(("data/", "rejects/")) and name != "rejects/seeds.jsonl":
            problems.append(f"{name}: no table that the manifest's splits and rejects have")
    for part, files in found.items():
        files.sort()
        count = len(files)
        if [f[:2] for f in files] != [(i, count) for i in range(count)]:
            problems.append(f"{part}: its files are not 0 to n - 1 of n: {', '.join(f[2] for f in files[:3])}")
        if part in manifest["splits"] and manifest["splits"][part]["files"] != count:
            problems.append(f"{part}: {count} files, the manifest says {manifest['splits'][part]['files']}")
        parts[part] = [f[2] for f in files]
    return parts, problems


class Rows:
    """What the tables hold, against what the manifest says they do."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        self.manifest = manifest
        self.models = {seat: member["model"] for seat, member in manifest["config"]["committee"].items()}
        self.whole = True
        """Every table could be read."""
        self.rows: Counter[str] = Counter()
        self.counts: dict[str, dict[int, Counter[str]]] = {}
        """Rows by split or outcome, round, and `stage: reason`."""
        self.ids: dict[str, list[np.ndarray]] = {}
        self.seeds: dict[str, list[np.ndarray]] = {}
        """Digests as the splits are drawn by."""
        self.texts: dict[str, list[np.ndarray]] = {}
        """Digests of texts that no two splits may share."""
        self.seed_ids: list[np.ndarray] = []
        """Digests as of ids: a seed may be what a dropped row is a duplicate of."""
        self.winners: list[np.ndarray] = []
        self.flow = find(manifest["config"]["method"]["flow"])
        self.thoughts = Thoughts(manifest["config"]["release"].get("thoughts", "drop"))
        """As released."""
        self.thought_out = 0
        """Rows with thoughts."""
        self.context = bool(manifest["seeds"].get("contexts"))
        """Whether rows may have context."""
        self.propensity = manifest["config"]["method"]["policy"] == Policy.performance.value
        """Whether rows have the chance that their Generator had to be drawn."""
        self.rubric = Rubric.of(manifest["frozen"])
        """What Reviewers scored."""

    def begin(self, part: str) -> None:
        """The tables that follow are of this split or outcome."""
        self.part, self.last = part, -1
        self.ids[part], self.seeds[part], self.texts[part], self.counts[part] = [], [], [], {}

    def read(self, path: Path, name: str) -> list[str]:
        """Check one table; the first of each kind of problem."""
        folder = name.split("/", 1)[0]
        columns, schema = self._expected(folder)
        problems: dict[str, None] = {}
        self.whole, whole = False, self.whole
        try:
            with open_table(path, schema=schema) as file:
                problems |= dict.fromkeys(self._columns(folder, file.schema_arrow))
                if file.metadata.num_rows != self.manifest["files"][name].get("rows"):
                    problems[f"{file.metadata.num_rows} rows, the manifest says otherwise"] = None
                self.rows[self.part] += file.metadata.num_rows
                for batch in file.iter_batches(_BATCH, columns=list(columns)):
                    table = pa.Table.from_batches([batch])
                    empty = [c for c in columns if c in {*_NEEDED, THOUGHTS} and table[c].null_count]
                    if empty:
                        return [f"{name}: rows without {', '.join(empty)}"]
                    problems |= dict.fromkeys(self._shared(table))
                    problems |= dict.fromkeys(self._data(table) if folder == "data" else self._reject(table))
                    problems |= dict.fromkeys(self._marks(table))
        except ReleaseError as e:
            return [e.what.replace(str(path), name)]
        self.whole = whole
        return [f"{name}: {p}" for p in problems]

    def _expected(self, folder: str) -> tuple[tuple[str, ...], pa.Schema | None]:
        """Columns that are read of a table, and its schema; none: `_columns` says."""
        if folder == "rejects":
            return _COLUMNS[folder], rejects_schema(self.context, self.rubric)
        schema = data_schema(self.thoughts, self.context, self.propensity, self.rubric)
        return (*_COLUMNS[folder], *([THOUGHTS] if THOUGHTS in schema.names else [])), schema

    def _columns(self, folder: str, schema: pa.Schema) -> Iterator[str]:  # noqa: ARG002
        """Whether a table's columns are those that the manifest names, where it does."""
        yield from ()

    def _shared(self, table: pa.Table) -> Iterator[str]:
        """Order, rounds, and who did what."""
        yield from self._ordered(table)
        members, models = (table[c].combine_chunks() for c in ("members", "models"))
        if not models_of(members, self.models).equals(models):
            yield "models are not those of the members"

    def _ordered(self, table: pa.Table) -> Iterator[str]:
        """Order, seeds and rounds."""
        keys = keys_of(table["id"])
        if len(keys) and (int(keys[0]) < self.last or (keys[1:] < keys[:-1]).any()):
            yield "rows are not in the order of their ids' digests"
        self.last = int(keys[-1]) if len(keys) else self.last
        self.ids[self.part].append(keys)
        seeds = pc.unique(table["seed_id"])
        self.seeds[self.part].append(keys_of(seeds, "split"))
        self.seed_ids.append(keys_of(seeds))
        counts = self.counts[self.part]
        for number in np.unique(table["round"].to_numpy()).tolist():
            mine = table.filter(pc.equal(table["round"], number))
            counts.setdefault(number, Counter()).update(reasons_of(mine))

    def _data(self, table: pa.Table) -> Iterator[str]:
        """Texts, and the chat made of them."""
        if len(self.manifest["splits"]) > 1:
            self.texts[self.part] += text_keys(table)
        for column in ("instruction", "response"):
            if pc.any(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(table[column])), 0)).as_py():
                yield f"rows with an empty {column}"
        messages = table["messages"].combine_chunks()
        if self.context:
            table = table.append_column(CONTEXT, contexts(messages, table["instruction"]))
        if not chat(table, self.thoughts).equals(messages):
            inline = ", with its thoughts" if self.thoughts is Thoughts.inline else ""
            yield f"messages are not {'context, ' if self.context else ''}instruction and response{inline}"
        if THOUGHTS in table.column_names:
            self.thought_out += int(pc.sum(pc.not_equal(table[THOUGHTS], "")).as_py())
        nobody = pc.struct_field(table["models"].combine_chunks(), "generator").null_count
        if nobody and self.flow.asks:
            yield "rows that no model of the committee generated"

    def _reject(self, table: pa.Table) -> Iterator[str]:
        """Outcomes and winners."""
        if pc.any(pc.not_equal(table["outcome"], self.part)).as_py():
            yield f"rows of another outcome than {self.part}"
        won = pc.is_in(table["stage"], pa.array(_WON)) if self.part == "dropped" else pa.scalar(False)
        if pc.any(pc.not_equal(table["winner"].is_valid(), won)).as_py():
            yield "winners where there are none, or none where there is one"
        winners = pc.unique(table["winner"].drop_null())
        if pc.any(pc.invert(pc.match_substring_regex(winners, _ID))).as_py():
            yield "winners that are no ids"
        self.winners.append(keys_of(winners))

    def _marks(self, table: pa.Table) -> Iterator[str]:
        """Thoughts, by their marks, in texts that models gave as answers; and marks within thoughts."""
        own = self.flow.of_seeds  # may speak of marks, or are none
        for name in (*_TEXTS, "summary", "raw", THOUGHTS):
            if name not in own and name in table.column_names and (mark := _mark(table[name].combine_chunks())):
                yield f"marks of thoughts in {name}: {mark}"

    # ---- all tables --------------------------------------------------------------------------------------------------

    def totals(self) -> list[str]:
        """Counts, ids and seeds over all tables."""
        m, problems = self.manifest, []
        booked = {s: c["rows"] for s, c in m["splits"].items()} | m["rejects"]
        for part, n in booked.items():
            if self.rows[part] != n:
                problems.append(f"{part}: {self.rows[part]} rows in its files, the manifest says {n}")
        for outcome in OUTCOMES:
            found, by_round = self.counts[outcome], counts.by_round(m, outcome)
            for number in sorted({*found, *by_round}):
                says = by_round.get(number, {})
                if outcome == "dropped":
                    says = {f"{step}: {REASONS.get(step, step)}": n for step, n in says.items()}
                label = f"rejects/{outcome}: round {number}:"
                problems += counts.differing(label, found.get(number, {}), says, "the ledger")
        released: Counter[str] = Counter()
        for split in m["splits"]:
            released.update({f"{r}": sum(c.values()) for r, c in self.counts[split].items()})
        survived = {f"{r['round']}": r["survived"] for r in m["rounds"]}
        problems += counts.differing("data: rows of round", released, survived, "the merges")
        every = _all(k for keys in self.ids.values() for k in keys)
        twice = len(every) - len(np.unique(every))
        if twice:
            problems.append(f"{twice} ids occur more than once")
        if self.thought_out != m["thoughts"]["rows"]:
            problems.append(f"data: {self.thought_out} rows with thoughts, the manifest says {m['thoughts']['rows']}")
        return problems + self._seeds() + self._winners()

    def _seeds(self) -> list[str]:
        """Seeds by split."""
        problems = []
        splits = {s: np.unique(_all(self.seeds[s])) for s in self.manifest["splits"]}
        for split, seeds in splits.items():
            says = self.manifest["splits"][split]["seeds"]
            if len(seeds) != says:
                problems.append(f"{split}: rows of {len(seeds)} seeds, the manifest says {says}")
        if len(splits) > 1:
            one, other = splits.values()
            both = len(np.intersect1d(one, other))
            if both:
                problems.append(f"{both} seeds have rows in both splits")
            here, there = (np.unique(_all(self.texts[s])) for s in splits)
            common = np.intersect1d(here, there)
            if len(common[common != 0]):
                problems.append(f"{len(common[common != 0])} texts are in both splits")
        return problems

    def _winners(self) -> list[str]:
        """Rows are dropped for rows of the data, for others that were dropped later, or for seeds. A seed that no row
        started at is known by the number of such seeds alone."""
        seeds = np.unique(_all(self.seed_ids))
        names = [*self.manifest["splits"], "dropped"]
        known = np.concatenate([seeds, *(_all(self.ids[n]) for n in names)])
        winners = np.unique(_all(self.winners))
        strangers = int((~np.isin(winners, known)).sum())
        unseen = max(0, self.manifest["seeds"]["records"] - len(seeds))
        if strangers > unseen:
            return [f"{strangers} winners of dropped rows are neither rows nor seeds"]
        return []


class Results(Rows):
    """Tables with columns of their flow's own, which the manifest names."""

    def _expected(self, folder: str) -> tuple[tuple[str, ...], pa.Schema | None]:
        ends = ("outcome", "stage", "reason", "winner") if folder == "rejects" else ()
        keys = self.flow.keys.columns if folder == "data" and self.flow.keys else ()
        return tuple(dict.fromkeys(("id", "round", "seed_id", "flow", *ends, *keys))), None

    def _columns(self, folder: str, schema: pa.Schema) -> Iterator[str]:
        if lines(schema) != self.manifest["result"][folder]:
            yield "columns are not those that the manifest names"

    def _shared(self, table: pa.Table) -> Iterator[str]:
        yield from self._ordered(table)
        if pc.any(pc.not_equal(table["flow"], self.manifest["result"]["flow"])).as_py():
            yield "rows of another flow"

    def _data(self, table: pa.Table) -> Iterator[str]:
        """Texts, where rows are compared by them."""
        keys = self.flow.keys
        if keys and len(self.manifest["splits"]) > 1 and {*keys.columns} <= {*table.column_names}:
            self.texts[self.part] += text_keys(compared(keys, table))
        yield from ()

    def _marks(self, table: pa.Table) -> Iterator[str]:  # noqa: ARG002
        yield from ()


def _mark(texts: pa.Array) -> str:
    """The first mark of thoughts in a column of texts, lists of them, or reviews; empty: none."""
    if pa.types.is_list(texts.type):
        texts = texts.flatten()
    if pa.types.is_struct(texts.type):
        texts = pc.struct_field(texts, "comment")
    texts = texts.drop_null()
    suspects = texts.filter(pc.match_substring_regex(texts, MAY_MARK))
    return next((mark for text in suspects.to_pylist() if (mark := mark_in(text))), "")


def _all(parts: Any) -> np.ndarray:
    """uint64 [all]: arrays one after another."""
    return np.concatenate([np.empty(0, np.uint64), *parts])

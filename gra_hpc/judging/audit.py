"""`gra audit RUN --sample 100`: one offline page on which a person judges samples, blind to the committee's verdict.

The sample is stratified: half of it the committee accepted, half it rejected, each spread over stages and domains, so
that both kinds of error show; what is drawn and its order follow from the seed alone. The page holds texts and ids, and
nothing else of a sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from gra_hpc import conversation
from gra_hpc.errors import GraError
from gra_hpc.judging.again import judged
from gra_hpc.records import ACCEPTED, CONTEXT, FAILED, REJECTED, digest
from gra_hpc.release.inputs import Inputs, read_slices
from gra_hpc.release.shuffle import keys_of
from gra_hpc.release.template_files import template_files
from gra_hpc.run.run import Run
from gra_hpc.storage import write_atomic
from gra_hpc.terminal import counted, printable, shown, word

FORMAT = 1
NAME = "audit.html"
VERDICTS = ("keep", "reject", "unsure")
"""What a person may say of a sample."""
_BATCH = 65_536


@dataclass(frozen=True)
class Drawn:
    """Which samples people are asked about."""

    audit: str
    """Id of this audit: a digest of the run's merges, the size and the seed."""
    size: int
    seed: int
    """With which it was drawn."""
    ids: list[str]
    """In the order in which they are shown."""
    chosen: int
    """How many of them the committee accepted; the others it rejected."""
    population: dict[bool, int]
    """Samples with a scored response, by whether the committee accepted them."""


def draw(run: Run, size: int, seed: int = 0) -> Drawn:
    """Draw the samples of an audit.

    Args:
        run: its rounds are all merged.
        size: samples; fewer where the run has no more.

    Raises:
        ConfigError: its responses were not reviewed.
        IncompleteError: a round is not merged.
        GraError: nothing to judge.
    """
    judged(run, [])
    inputs = Inputs.of_run(run)
    ids: list[pa.Array] = []
    accepted, order = [np.empty(0, bool)], [np.empty(0, np.uint64)]
    strata: list[str] = []
    for rows in scored(inputs, ["id", "domain"]):
        ids.append(rows["id"].combine_chunks())
        accepted.append(pc.equal(rows["status"], ACCEPTED).to_numpy())
        order.append(keys_of(rows["id"], f"audit{seed}"[:16]))
        strata += pc.binary_join_element_wise(rows["stage"], rows["domain"], "/").to_pylist()
    took, key = np.concatenate(accepted), np.concatenate(order)
    if not len(took):
        raise GraError(f"{run.path}: no sample whose response was reviewed", f"gra status {word(run.path)}")
    of = np.unique(np.array(strata), return_inverse=True)[1]
    population = {yes: int((took == yes).sum()) for yes in (True, False)}
    half = {True: min(population[True], size - min(population[False], size // 2)), False: 0}
    half[False] = min(population[False], size - half[True])
    chosen = []
    for yes in (True, False):
        mine = np.flatnonzero(took == yes)
        mine = mine[np.lexsort((key[mine], of[mine]))]
        chosen.append(mine[(np.arange(half[yes]) * len(mine)) // max(1, half[yes])])
    picked = np.concatenate(chosen)
    picked = picked[np.argsort(key[picked])]
    every = pa.chunked_array(ids)
    audit = digest("audit", [[r.number, r.digest] for r in inputs.rounds], size, seed)
    return Drawn(audit, size, seed, every.take(pa.array(picked)).to_pylist(), half[True], population)


def scored(inputs: Inputs, columns: list[str]) -> Iterator[pa.Table]:
    """Samples with a response that the committee decided on, a batch at a time, with status, stage and more columns."""
    for table in (t for r in inputs.rounds for t in r.tables()):
        for rows in read_slices(table.samples, list(dict.fromkeys(["status", "stage", "reviews", *columns])), _BATCH):
            decided = pc.and_(
                pc.not_equal(rows["status"], FAILED),
                pc.greater(pc.fill_null(pc.list_value_length(rows["reviews"]), 0), 0),
            )
            yield rows.filter(decided)


def page(run: Run, drawn: Drawn) -> str:
    """The page, as HTML."""
    found: dict[str, dict[str, str]] = {}
    wanted, names = pa.array(drawn.ids), ["id", "domain", "instruction", "response"]
    if run.plan.context:
        names.append(CONTEXT)
    for rows in scored(Inputs.of_run(run), names):
        for row in rows.filter(pc.is_in(rows["id"], wanted)).select(names).to_pylist():
            texts = {**row, "context": conversation.shown(row.get(CONTEXT) or "")}
            found[row["id"]] = {k: printable(v, lines=True) if k != "id" else v for k, v in texts.items()}
    items = [found[i] for i in drawn.ids]
    about = {"format": FORMAT, "audit": drawn.audit, "size": drawn.size, "seed": drawn.seed, "run": run.name}
    return _template().render(name=run.name, data=_embedded({**about, "samples": items}), size=len(items))


def _embedded(value: Any) -> Markup:
    """JSON within a page: nothing in it ends the element that holds it."""
    text = orjson.dumps(value).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def write(run: Run, size: int, seed: int, to: Path | None) -> Iterator[str]:
    """Draw, and write the page; what to do with it, as lines.

    Args:
        to: the page's file; in the run's directory if left out.
    """
    drawn = draw(run, size, seed)
    file = to or run.path / NAME
    write_atomic(file, page(run, drawn).encode())
    counts, chosen = drawn.population, {True: drawn.chosen, False: len(drawn.ids) - drawn.chosen}
    halves = " and ".join(f"{chosen[yes]} of {counts[yes]} {ACCEPTED if yes else REJECTED}" for yes in (True, False))
    yield f"{shown(file)}: {counted(len(drawn.ids), 'sample')}, {halves}" + (
        f"; {size} were asked for, and no more have a reviewed response" if len(drawn.ids) < size else ""
    )
    yield "open it in a browser: it needs no network; keys: k keep, r reject, u unsure, e export"
    yield f"then: gra audit {shown(run.path)} --read FILE"


@cache
def _template() -> jinja2.Template:
    environment = template_files(Path(__file__).parent / "templates")
    return environment.get_template("audit.html.j2")

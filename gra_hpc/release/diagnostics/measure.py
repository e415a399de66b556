"""What is measured of a release: figures for its manifest, points for its report. Nothing here can fail a release: what
cannot be measured is named, with what would make it possible."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gra_hpc.errors import GraError
from gra_hpc.models.files import model_directory
from gra_hpc.release.diagnostics import texts as words
from gra_hpc.release.diagnostics import vectors as geometry
from gra_hpc.release.diagnostics.difficulty import difficulty
from gra_hpc.release.diagnostics.sample import Texts, embed, released, seeds
from gra_hpc.release.inputs import Inputs

log = logging.getLogger(__name__)

SEEDS_MOST = 20_000
"""Seeds that rows are compared with."""
NGRAM = 4
"""Words of a run that counts as copied from a seed."""
RUNS_MOST = 200_000
"""Runs of words over which distinct-n is taken."""


@dataclass
class Diagnosis:
    """Figures, and what pictures are drawn from."""

    facts: dict[str, Any] = field(default_factory=dict)
    """For the manifest; `missing` says what was not measured, and why."""
    points: dict[str, np.ndarray] = field(default_factory=dict)
    """`tsne` and `pca`: [rows + seeds, 2], the rows first."""
    rows: Texts | None = None
    """The rows among the points."""
    seeds: Texts | None = None
    cosines: list[float] = field(default_factory=list)
    """Of each row with its nearest seed."""
    copied: list[float] = field(default_factory=list)
    """Share of each row's runs of words that a seed has."""
    ifd: list[float] = field(default_factory=list)
    ifd_seeds: list[float] = field(default_factory=list)


def measure(inputs: Inputs) -> Diagnosis:
    """Diagnose the rows that the merges kept."""
    c = inputs.run.config.release.diagnostics
    out, missing = Diagnosis(), list[str]()
    if not c.rows:
        out.facts = {"missing": ["switched off (release.diagnostics.rows=0)"]}
        return out
    rows, all_seeds = released(inputs, c.rows), seeds(inputs, SEEDS_MOST)
    out.facts = {
        "rows": len(rows),
        "rows_of": rows.of,
        "seeds": len(all_seeds),
        "seeds_of": all_seeds.of,
        "seed": inputs.run.config.method.seed,
        "missing": missing,
    }
    if not len(rows):
        missing.append("no row was released")
        return out
    few = all_seeds.head(len(rows))
    alike = min(len(rows), len(few))
    out.facts["distinct"] = _distinct(rows.head(alike), few.head(alike))
    out.copied = words.shares(rows.instructions, words.grams_of(all_seeds.instructions, NGRAM), NGRAM)
    out.facts["copied"] = {
        "ngram": NGRAM,
        "mean": _round(sum(out.copied) / len(out.copied)),
        "half_or_more": _round(sum(s >= 0.5 for s in out.copied) / len(out.copied)),
    }
    _try(missing, "embedding measures and pictures", lambda: _embedded(inputs, out, rows, all_seeds))
    _try(missing, "instruction-following difficulty", lambda: _difficulty(inputs, out, rows, few))
    if inputs.run.plan.embed:  # a release says nothing of its makers' directories
        private, public = inputs.run.plan.embed.directory, inputs.run.config.merge.embed_model
        missing[:] = [m.replace(private, public) for m in missing]
    return out


class NotAskedError(GraError):
    """A measure that the settings leave out: no news to whom chose them."""


def _try(missing: list[str], what: str, act: Callable[[], None]) -> None:
    try:
        act()
    except GraError as e:
        log.log(logging.INFO if isinstance(e, NotAskedError) else logging.WARNING, "%s not measured: %s", what, e)
        missing.append(f"{what}: {e}")


def _distinct(rows: Texts, few: Texts) -> dict[str, Any]:
    """distinct-1 to -3 of instructions and responses, of rows and of as many seeds, over as many words of each."""
    out: dict[str, Any] = {}
    for name in ("instructions", "responses"):
        mine, theirs = getattr(rows, name), getattr(few, name)
        for n in (1, 2, 3):
            budget = min(words.runs_in(mine, n), words.runs_in(theirs, n) or RUNS_MOST, RUNS_MOST)
            out[f"{name}-{n}"] = {
                "runs": budget,
                "rows": _round(words.distinct(mine, n, budget)),
                "seeds": _round(words.distinct(theirs, n, budget)),
            }
    return out


def _embedded(inputs: Inputs, out: Diagnosis, rows: Texts, all_seeds: Texts) -> None:
    """Everything that rests on embeddings of the instructions."""
    if inputs.run.plan.embed is None:
        raise NotAskedError("the run has no embedding model (merge.semantic=false)", "plan it with merge.semantic=true")
    embed(inputs, rows)
    embed(inputs, all_seeds)
    mine, theirs = rows.vectors, all_seeds.vectors
    assert mine is not None
    if theirs is None:
        raise GraError("there are no seeds to compare with")
    alike = min(len(mine), len(theirs))
    out.cosines = [float(x) for x in geometry.nearest(mine, theirs)[1]]
    out.facts |= {
        "compared": alike,
        "spread": {"rows": _round(geometry.spread(mine)), "seeds": _round(geometry.spread(theirs))},
        "vendi": {"rows": _round(geometry.vendi(mine[:alike])), "seeds": _round(geometry.vendi(theirs[:alike]))},
        "coverage": _round(geometry.coverage(mine[:alike], theirs[:alike])),
        "nearest_seed": {
            "mean": _round(float(np.mean(out.cosines))),
            "median": _round(float(np.median(out.cosines))),
            "from_0.9": _round(float(np.mean(np.array(out.cosines) >= 0.9))),
        },
    }
    most = inputs.run.config.release.diagnostics.picture_rows
    out.rows, out.seeds = rows.head(most), all_seeds.head(most)
    together = np.concatenate([out.rows.vectors, out.seeds.vectors])
    if len(together) < 8:
        raise GraError(f"{len(together)} rows and seeds are too few for a picture")
    out.points["pca"], out.facts["pca_variance"] = geometry.pca(together)
    out.facts["pca_variance"] = [_round(v) for v in out.facts["pca_variance"]]
    _try(
        out.facts["missing"],
        "t-SNE picture",
        lambda: out.points.update(tsne=geometry.tsne(together, inputs.run.config.method.seed)),
    )


def _difficulty(inputs: Inputs, out: Diagnosis, rows: Texts, few: Texts) -> None:
    """IFD of some rows and as many seeds."""
    c = inputs.run.config.release.diagnostics
    if not c.scorer:
        raise NotAskedError("no scorer is set", "gra merge RUN release.diagnostics.scorer=MODEL")
    directory = model_directory(c.scorer, "", inputs.run.config.site.scratch)
    mine = rows.head(c.scorer_rows)
    theirs = [p for p in few.head(len(mine)).pairs if p[1].strip()]
    scores = difficulty([*mine.pairs, *theirs], directory)
    out.ifd = [s for s in scores[: len(mine)] if s is not None]
    out.ifd_seeds = [s for s in scores[len(mine) :] if s is not None]
    out.facts["ifd"] = {"scorer": c.scorer} | {
        name: {
            "n": len(v),
            "mean": _round(float(np.mean(v))),
            "median": _round(float(np.median(v))),
            "above_1": _round(float(np.mean(np.array(v) > 1))),
        }
        for name, v in (("rows", out.ifd), ("seeds", out.ifd_seeds))
        if v
    }


def _round(value: float | None) -> float | None:
    """Four digits after the point: what the sample can bear, and what other machines agree on."""
    return None if value is None else round(float(value), 4)

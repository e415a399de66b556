"""`gra audit RUN --read FILE...`: what people said of an audit's samples, beside what the committee said.

The sample was drawn by the committee's verdict, half and half: every figure weighs a sample by how many it stands for.
Intervals are 95%, by resampling within the two halves; the same files give the same figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.errors import GraError
from gra_hpc.foreign import fits
from gra_hpc.judging.audit import FORMAT, VERDICTS, Drawn, draw, scored
from gra_hpc.judging.decisions import Outcome, at_least, outcomes
from gra_hpc.judging.scores import COLUMNS, Scores
from gra_hpc.labels.agreement import Coincidences
from gra_hpc.labels.gold import Figure
from gra_hpc.records import ACCEPTED, CONTEXT
from gra_hpc.release.inputs import Inputs
from gra_hpc.run.run import Run
from gra_hpc.storage import read_object, sealed, write_atomic
from gra_hpc.terminal import counted, shown, word

RESAMPLED = 1000
THRESHOLDS = np.arange(1, 10.01, 0.25)


@dataclass(frozen=True)
class Labels:
    """One person's file."""

    who: str
    audit: str
    size: int
    seed: int
    """With which the audit was drawn."""
    verdicts: dict[str, str]
    """keep, reject or unsure, by the sample's id."""

    @classmethod
    def read(cls, path: Path) -> Labels:
        """What the page exported.

        Raises:
            GraError: another file.
        """
        then = "give the file that the page of gra audit exports: key e"
        try:
            data = read_object(path, "format", "audit", "size", "seed", "who", "labels", then=then)
        except FileNotFoundError:
            raise GraError(f"{path}: no such file", then) from None
        except OSError as e:
            raise GraError(f"{path}: {e.strerror}", then) from None
        labels = data["labels"]
        texts, counts = (data["who"], data["audit"]), (data["size"], data["seed"])
        if data["format"] != FORMAT or not (fits(texts, tuple[str, ...]) and fits(counts, tuple[int, ...])):
            raise GraError(f"{path}: not labels of an audit (format {data['format']}, expected {FORMAT})", then)
        if not fits(labels, dict[str, dict[str, Any]]) or any(
            v.get("verdict") not in VERDICTS for v in labels.values()
        ):
            raise GraError(f"{path}: a label is none of {', '.join(VERDICTS)}", then)
        return cls(*texts, *counts, {i: str(v["verdict"]) for i, v in labels.items()})


@dataclass(frozen=True)
class Judged:
    """The samples on which people came to a verdict, n of them."""

    keep: np.ndarray
    """What people say, bool [n]."""
    accepted: np.ndarray
    """What the committee said, bool [n]."""
    weight: np.ndarray
    """Samples of the run that each stands for, float [n]."""
    scores: Scores
    reviewers: list[list[str]]

    @cached_property
    def resampled(self) -> np.ndarray:
        """The weights where each half is drawn again, with replacement: float [resampled, n]."""
        rng, out = np.random.default_rng(0), np.zeros((RESAMPLED, len(self.weight)))
        for yes in (True, False):
            half = np.flatnonzero(self.accepted == yes)
            if len(half):
                out[:, half] = rng.multinomial(len(half), np.full(len(half), 1 / len(half)), RESAMPLED)
        return out * self.weight

    def figure(self, of: Callable[[np.ndarray], float]) -> Figure:
        """A figure and its interval.

        Args:
            of: from the weights to the figure; NaN where it is not defined.
        """
        drawn = np.array([of(weight) for weight in self.resampled])
        value, known = of(self.weight), drawn[~np.isnan(drawn)]
        if np.isnan(value) or not len(known):
            return Figure(None)
        low, high = np.quantile(known, [0.025, 0.975])
        return Figure(round(float(value), 4), round(float(low), 4), round(float(high), 4))


def read(run: Run, files: Sequence[Path], gold: Path | None = None) -> Iterator[str]:
    """Compare people and committee; the figures, as lines, and kept for the release's card (`RunDir.audit`).

    Args:
        files: of one person each, all of one audit.
        gold: a file to write, of what they kept or rejected as gold questions (`method.gold`).

    Raises:
        GraError: a file that is none, or of another audit; nobody judged anything.
    """
    people = [Labels.read(f) for f in files]
    drawn = draw(run, people[0].size, people[0].seed)
    for file, person in zip(files, people, strict=True):
        if person.audit != drawn.audit:
            raise GraError(f"{file}: of another audit, or the run was merged anew since", f"gra audit {word(run.path)}")
    if len({p.who for p in people}) < len(people):
        raise GraError("two files of one person", "give each person's file once")
    found = figures(run, drawn, people)
    if gold and gold.exists():
        raise GraError(f"--gold {gold}: exists", "name another file")
    write_atomic(run.audit, sealed(found))
    yield from lines(found)
    if gold:
        questions = list(_as_gold(run, _together(drawn.ids, people)))
        write_atomic(gold, b"".join(orjson.dumps(q) + b"\n" for q in questions))
        yield f"{counted(len(questions), 'gold question')} in {gold}, for the next run's method.gold={gold}"
    yield f"written to {shown(run.audit)}; what puts it into the release's card:"
    yield f"then: gra merge {shown(run.path)}"


def figures(run: Run, drawn: Drawn, people: Sequence[Labels]) -> dict[str, Any]:
    """All figures of an audit, as plain JSON.

    Raises:
        GraError: nobody judged anything.
    """
    said = _together(drawn.ids, people)
    if not said:
        raise GraError("no sample that people kept or rejected", "judge some: keys k and r on the page")
    j = _join(run, drawn, said)
    method = run.config.method
    current = _taken(j, method.accept_mean, run)
    best = _best_threshold(j, run)
    judges = {}
    for name in run.config.committee:
        own, seen = _own_verdicts(j, name, method.accept_mean)
        if seen.any():
            judges[name] = {"samples": int(seen.sum())} | _quality(j, own, seen)
    return {
        "format": FORMAT,
        "audit": drawn.audit,
        "people": len(people),
        "samples": len(drawn.ids),
        "judged": len(said),
        "kept": int(j.keep.sum()),
        "agreement": asdict(j.figure(lambda w: _share(w, j.keep == j.accepted))),
        "committee": _quality(j, j.accepted, np.ones(len(j.keep), bool)),
        "accepted_share": round(drawn.population[True] / sum(drawn.population.values()), 4),
        "corrected_share": asdict(j.figure(lambda w: _share(w, j.keep))),
        "judges": judges,
        "threshold": {"now": method.accept_mean, "agrees": round(float(_share(j.weight, current == j.keep)), 4)} | best,
        "between_people": _between(drawn.ids, people),
    }


def _together(ids: Sequence[str], people: Sequence[Labels]) -> dict[str, bool]:
    """What most of those who came to a verdict say; samples without a majority are left out."""
    found = {}
    for i in ids:
        votes = [p.verdicts[i] == "keep" for p in people if p.verdicts.get(i) in ("keep", "reject")]
        if 2 * sum(votes) != len(votes):
            found[i] = 2 * sum(votes) > len(votes)
    return found


def _join(run: Run, drawn: Drawn, said: dict[str, bool]) -> Judged:
    """People's verdicts beside the stored scores."""
    wanted, tables = pa.array(list(said)), []
    for rows in scored(Inputs.of_run(run), ["id", *COLUMNS]):
        tables.append(rows.filter(pc.is_in(rows["id"], wanted)))
    table = pa.concat_tables(tables)
    accepted = pc.equal(table["status"], ACCEPTED).to_numpy()
    weight = np.zeros(len(table))
    for yes in (True, False):
        if (accepted == yes).any():
            weight[accepted == yes] = drawn.population[yes] / (accepted == yes).sum()
    keep = np.array([said[i] for i in table["id"].to_pylist()])
    names = [[r["member"] for r in reviews] for reviews in table["reviews"].to_pylist()]
    return Judged(keep, accepted, weight, Scores.of(table.select(list(COLUMNS))), names)


def _as_gold(run: Run, said: dict[str, bool]) -> Iterator[dict[str, str]]:
    """Samples as gold questions with people's verdicts; one that continues a conversation is none, for a question is an
    instruction and a response."""
    names = ["id", "instruction", "response", "domain", *([CONTEXT] if run.plan.context else [])]
    for rows in scored(Inputs.of_run(run), names):
        for row in rows.filter(pc.is_in(rows["id"], pa.array(list(said)))).select(names).to_pylist():
            if not row.pop(CONTEXT, ""):
                yield {**row, "verdict": "keep" if said[row.pop("id")] else "reject"}


def _share(weight: np.ndarray, which: np.ndarray) -> float:
    total = float(weight.sum())
    return float(weight[which].sum()) / total if total else float("nan")


def _quality(j: Judged, verdict: np.ndarray, seen: np.ndarray) -> dict[str, Any]:
    """Sensitivity (of what people keep, the share it accepts) and specificity (of what they reject, the share it
    rejects)."""
    keeps, rejects = seen & j.keep, seen & ~j.keep
    return {
        "sensitivity": asdict(j.figure(lambda w: _share(w[keeps], verdict[keeps]))),
        "specificity": asdict(j.figure(lambda w: _share(w[rejects], ~verdict[rejects]))),
    }


def _own_verdicts(j: Judged, name: str, accept_mean: float) -> tuple[np.ndarray, np.ndarray]:
    """A Reviewer's own verdicts, and which samples it reviewed."""
    own, seen = np.zeros(len(j.keep), bool), np.zeros(len(j.keep), bool)
    for i, members in enumerate(j.reviewers):
        for seat, member in enumerate(members):
            if member == name:
                seen[i], own[i] = True, bool(at_least(j.scores.reviews[i, seat], accept_mean))
    return own, seen


def _taken(j: Judged, accept_mean: float, run: Run) -> np.ndarray:
    """What the committee would accept with another threshold; what it leaves open it does not accept."""
    found = outcomes(j.scores, replace(run.config.method, accept_mean=accept_mean))
    return np.isin(found, (Outcome.accepted, Outcome.settled)) | ((found == Outcome.as_stored) & j.accepted)


def _best_threshold(j: Judged, run: Run) -> dict[str, Any]:
    """The threshold that agrees best with people, the nearest to the present one among equals, with its interval."""
    now = run.config.method.accept_mean
    grid = np.unique(np.append(THRESHOLDS, now))
    right = np.array([_taken(j, float(t), run) == j.keep for t in grid])  # [thresholds, n]

    def best(weight: np.ndarray) -> float:
        agreement = right @ weight
        top = np.flatnonzero(agreement >= agreement.max() - 1e-9)
        return float(grid[top[np.argmin(np.abs(grid[top] - now))]])

    chosen = best(j.weight)
    at = int(np.flatnonzero(grid == chosen)[0])
    return {"chosen": asdict(j.figure(best)), "chosen_agrees": round(_share(j.weight, right[at]), 4)}


def _between(ids: Sequence[str], people: Sequence[Labels]) -> dict[str, Any] | None:
    """How far people agree with each other: share of equal verdicts over pairs, and Krippendorff's alpha."""
    if len(people) < 2:
        return None
    given = [[p.verdicts[i] == "keep" for p in people if p.verdicts.get(i) in ("keep", "reject")] for i in ids]
    several = [g for g in given if len(g) > 1]
    if not several:
        return {"samples": 0, "agreement": None, "alpha": None}
    pairs = sum(len(g) * (len(g) - 1) for g in several)
    equal = sum(sum(g) * (sum(g) - 1) + (len(g) - sum(g)) * (len(g) - sum(g) - 1) for g in several)
    counted = Coincidences(2)
    counted.add(np.array([int(v) for g in several for v in g]), np.array([len(g) for g in several]))
    alpha = counted.alpha("nominal")
    return {
        "samples": len(several),
        "agreement": round(equal / pairs, 4),
        "alpha": None if alpha is None else round(alpha, 4),
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The figures for people."""
    figure = lambda f: format(Figure(**f), ".2f")  # noqa: E731
    judged = f"{found['judged']} of {counted(found['samples'], 'sample')} judged, {found['kept']} kept"
    yield f"people        {found['people']}; {judged}"
    if between := found["between_people"]:
        agree = f"{between['agreement']:.2f}" if between["agreement"] is not None else "–"
        alpha = f"{between['alpha']:.2f}" if between["alpha"] is not None else "–"
        yield f"among them    agree on {agree} of {between['samples']} samples that several judged; alpha {alpha}"
    yield f"committee     agrees with people on {figure(found['agreement'])}"
    rows = {"committee": found["committee"], **found["judges"]}
    wide = max(map(len, rows))
    yield f"{'':{wide}}  {'sensitivity':>20}  {'specificity':>20}"
    for name, q in rows.items():
        yield f"{name:{wide}}  {figure(q['sensitivity']):>20}  {figure(q['specificity']):>20}"
    share = f"{found['accepted_share']:.2f} of the scored samples"
    yield f"accepted      {share}; people would keep {figure(found['corrected_share'])}"
    t = found["threshold"]
    yield (
        f"threshold     accept_mean={t['now']:g} agrees with people on {t['agrees']:.2f};"
        f" {t['chosen']['value']:g} ({t['chosen']['low']:g} to {t['chosen']['high']:g}) on {t['chosen_agrees']:.2f}"
    )

"""The books of a release: whether its manifest's counts follow from one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gra_hpc.errors import StorageError
from gra_hpc.flows.registry import find
from gra_hpc.release.funnel import funnel
from gra_hpc.release.manifest import coverage, steps
from gra_hpc.release.schema import OUTCOMES
from gra_hpc.run.ledger import Ledger

_SHOWN = 5
"""Differing counts named of one kind."""


def check(manifest: dict[str, Any]) -> list[str]:
    """Whether the ledgers balance, among themselves and with the rows, and what is derived from them is."""
    problems = []
    ledger, rounds = Ledger.from_dict(manifest["ledger"]), manifest["rounds"]
    for where, books in [
        ("the ledger", ledger),
        *((f"round {r['round']}'s ledger", Ledger.from_dict(r["ledger"])) for r in rounds),
    ]:
        try:
            books.check(where)
        except StorageError as e:
            problems.append(e.what)
    if sum((Ledger.from_dict(r["ledger"]) for r in rounds), Ledger()).to_dict() != ledger.to_dict():
        problems.append("the ledger is not the sum of the rounds' ledgers")
    released = sum(s["rows"] for s in manifest["splits"].values())
    rejects = {o: manifest["rejects"].get(o, 0) for o in OUTCOMES}
    round0 = Ledger.from_dict(manifest["prepared"]) if manifest["prepared"] else Ledger()
    if ledger.accepted != released + rejects["dropped"]:
        problems.append(f"{ledger.accepted} samples accepted, but {released} released and {rejects['dropped']} dropped")
    if sum(manifest["dropped"].values()) != rejects["dropped"]:
        problems.append("dropped rows by step do not add up to the dropped rows")
    problems += differing("dropped by", manifest["dropped"], added(r["dropped"] for r in rounds), "the rounds")
    for name, booked in (
        ("rejected", ledger.rejected_total + round0.rejected_total),
        ("failed", ledger.failed_total + round0.failed_total),
    ):
        if rejects[name] != booked:
            problems.append(f"{booked} samples {name} in the ledger, {rejects[name]} rows of them")
    settings, method = manifest["config"], manifest["config"]["method"]
    if manifest["funnel"] != funnel(ledger, manifest["dropped"], find(method["flow"]).stages, method, steps(settings)):
        problems.append("the funnel does not follow from the ledger")
    if manifest["coverage"] != coverage(rounds):
        problems.append("the coverage is not that of the rounds")
    return problems


def by_round(manifest: dict[str, Any], outcome: str) -> dict[int, dict[str, int]]:
    """What the books say of an outcome: rows by round and `stage: reason`, or by step for `dropped`."""
    if outcome == "dropped":
        return {r["round"]: r["dropped"] for r in manifest["rounds"]}
    out = {r["round"]: r["ledger"][outcome] for r in manifest["rounds"]}
    return out | ({0: manifest["prepared"][outcome]} if manifest["prepared"] else {})


def added(each: Iterator[Mapping[str, int]]) -> dict[str, int]:
    """Counts added up."""
    out: dict[str, int] = {}
    for counts in each:
        for key, n in counts.items():
            out[key] = out.get(key, 0) + n
    return out


def differing(what: str, found: Mapping[str, int], booked: Mapping[str, int], where: str) -> list[str]:
    """A line for each count that is not as booked; none is as good as zero."""
    keys = [k for k in sorted({*found, *booked}) if found.get(k, 0) != booked.get(k, 0)]
    lines = [f"{what} {k}: {found.get(k, 0)}, but {booked.get(k, 0)} by {where}" for k in keys[:_SHOWN]]
    return lines + ([f"{what}: {len(keys) - _SHOWN} more such counts"] if len(keys) > _SHOWN else [])

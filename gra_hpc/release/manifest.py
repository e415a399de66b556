"""manifest.json of a release: everything that its card and report say, in figures and texts."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from gra_hpc import __version__
from gra_hpc.config.references import escaped
from gra_hpc.config.settings import RunConfig
from gra_hpc.errors import ReleaseError
from gra_hpc.flows import render
from gra_hpc.flows.registry import flow_of
from gra_hpc.foreign import fits
from gra_hpc.release import gold
from gra_hpc.release.cluster_hours import allocation
from gra_hpc.release.funnel import funnel
from gra_hpc.release.inputs import Inputs, MergedRound
from gra_hpc.release.tables import Tables, lines
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.pins import ModelPin
from gra_hpc.run.run import Run
from gra_hpc.storage import read_object
from gra_hpc.terminal import word

NAME = "manifest.json"
FORMAT = 3
"""Format 2 did not say what became of thoughts, nor count languages."""
KEYS = (
    "config", "coverage", "created", "diagnostics", "dropped", "embedding", "files", "fingerprint", "format", "frozen",
    "funnel", "languages", "ledger", "made_from", "models", "name", "planned_with", "prepared", "prompts", "rejects",
    "rounds", "run", "seeds", "simulated", "splits", "thoughts", "version", "work",
)  # fmt: skip
"""What a manifest has."""
PRIVATE = ("site", "engine.env", "engine.python")
"""Keys of the configuration that say nothing of the data, and may say something of its makers."""

PATHS = ("seeds.path", "method.gold", "method.prompts", "merge.embed_model", "release.diagnostics.scorer")
"""Keys that may hold a path of the machine that the run was made on: the last part of it tells what it was. Those of
benchmarks stay as they were given: the fingerprint covers them."""

OWN_OF_ENDPOINTS = ("key_env", "key_file", "proxy")
"""Of an endpoint's settings, where its makers keep what opens it."""


_TYPES = {
    "name": str,
    "splits": dict[str, dict[str, Any]],
    "files": dict[str, dict[str, Any]],
    "config": dict[str, Any],
    "ledger": dict[str, int | dict[str, int]],
    "made_from": str,
    "fingerprint": str,
}
"""What commands read of a manifest without verifying it."""


def read(release: Path) -> dict[str, Any]:
    """The manifest of a release that may be anybody's: what is read of it is of the types it should be.

    Raises:
        ReleaseError: no release there, or no manifest of one.
        StorageError: its manifest cannot be read.
    """
    then = f"gra release verify {word(release)}"
    try:
        found = read_object(release / NAME, then=then)
    except OSError:
        raise ReleaseError(f"{release}: not a release (no {NAME})", then) from None
    given = {key: found[key] for key in _TYPES if key in found}
    if not all(fits(value, _TYPES[key]) for key, value in given.items()) or not (
        all(re.fullmatch(r"\w[\w-]*", split) for split in given.get("splits", {}))
        and all(fits(s.get("rows"), int) for s in given.get("splits", {}).values())
        and all(fits(f.get("bytes"), int) and fits(f.get("sha256"), str) for f in given.get("files", {}).values())
        and fits(given.get("config", {}).get("release", {}), dict[str, Any])
    ):
        raise ReleaseError(f"{release / NAME}: not the manifest of a release", then)
    return found


def public_config(config: RunConfig) -> dict[str, Any]:
    """The run's configuration without `PRIVATE` and the directories of `PATHS`, as plain values."""
    out: Any = OmegaConf.to_container(OmegaConf.structured(escaped(config)), resolve=True, enum_to_str=True)
    for key in PRIVATE:
        *way, last = key.split(".")
        inner = out
        for part in way:
            inner = inner[part]
        del inner[last]
    for key in PATHS:
        *way, last = key.split(".")
        inner = out
        for part in way:
            inner = inner[part]
        inner[last] = named(inner[last])
    for entry in out["models"].values():
        entry["path"] = named(entry["path"])
        if entry["endpoint"]["url"]:
            for key in OWN_OF_ENDPOINTS:
                del entry["endpoint"][key]
        else:
            del entry["endpoint"]
    return dict(out)


def named(path: str) -> str:
    """A path without the directories above, which are its makers'; what is relative, or a Hub id, stays."""
    return Path(path).name if path.startswith(("/", "~")) else path


def write_run_config(config: RunConfig, path: Path) -> None:
    """`run.yaml`, from which the run can be planned again."""
    path.write_text(
        yaml.safe_dump(escaped(public_config(config)), sort_keys=False, allow_unicode=True), encoding="utf-8"
    )


def describe(
    inputs: Inputs,
    splits: dict[str, dict[str, int]],
    rejects: dict[str, int],
    thought_out: int = 0,
    languages: dict[str, int] | None = None,
) -> dict[str, Any]:
    """The manifest without the files' digests.

    Args:
        splits: rows, seeds and files by split.
        rejects: rows by outcome.
        thought_out: rows of the data with thoughts.
        languages: rows of the data by language; none: they were not told.
    """
    plan, config = inputs.run.plan, inputs.run.config
    ledger = sum((r.ledger for r in inputs.rounds), Ledger())
    dropped: dict[str, int] = {}
    for r in inputs.rounds:
        for step, n in r.dropped.items():
            dropped[step] = dropped.get(step, 0) + n
    settings, rounds = public_config(config), [of_round(r) for r in inputs.rounds]
    return {
        "format": FORMAT,
        "name": config.release.name or inputs.run.name,
        "run": inputs.run.name,
        "made_from": inputs.digest,
        "fingerprint": plan.fingerprint,
        "created": plan.created,
        "version": __version__,
        "planned_with": plan.version,
        "config": settings,
        "frozen": plan.frozen,
        "prompts": render.templates(flow_of(config).prompts, plan.own_templates),
        "models": {name: model(config.models[name].path, pin) for name, pin in sorted(plan.models.items())},
        "embedding": model(config.merge.embed_model, plan.embed) if plan.embed else None,
        "seeds": {
            "path": named(config.seeds.path),
            "licence": config.seeds.licence,
            "records": plan.seeds,
            "rejected": plan.seed_rejects,
            "described": plan.undescribed,
            "digest": plan.frozen["seeds"],
            "contexts": plan.seed_contexts,
            "aside": plan.seed_aside,
        },
        "thoughts": {
            "models": plan.thinking_models,
            "seeds": plan.seed_thoughts,
            "rows": thought_out,
        },
        "languages": {
            "asked": config.method.language,
            "seeds": plan.seed_languages,
            "rows": languages,
        },
        "simulated": config.engine.kind.value == "simulated",
        "ledger": ledger.to_dict(),
        "prepared": inputs.prepared.ledger.to_dict() if inputs.prepared else None,
        "dropped": dropped,
        "funnel": funnel(ledger, dropped, flow_of(config).stages, settings["method"], steps(settings)),
        "coverage": coverage(rounds),
        "rounds": rounds,
        "work": asdict(allocation((t for r in inputs.all_rounds for t in r.tables()), config.site.gpus_per_node)),
        "splits": splits,
        "rejects": rejects,
        **({"decided": plan.decided} if plan.decided else {}),
        **({"people": inputs.people} if inputs.people else {}),
        **({"gold": golden} if (golden := gold.facts(inputs)) else {}),
    }


def result(run: Run, tables: Tables) -> dict[str, Any]:
    """What rows with columns of their own are: flow, and columns of both kinds of tables."""
    flow = flow_of(run.config)
    return {"flow": flow.name, "about": flow.about, "data": lines(tables.data), "rejects": lines(tables.rejects)}


def model(path: str, pin: ModelPin) -> dict[str, Any]:
    """A model: where it comes from, exactly which one it was, under which licence, how large, as planned."""
    hosted = {"served": pin.served, "endpoint": pin.directory} if pin.served else {}
    return {
        "path": named(path),
        "revision": pin.revision,
        "identity": pin.identity,
        "licence": pin.licence,
        "parameters": pin.parameters,
    } | hosted


def steps(config: dict[str, Any]) -> list[str]:
    """Steps of a run's merge."""
    m = config["merge"]
    on = {
        "contaminated": bool(m["decontamination"]["sources"]),
        "exact": m["exact"],
        "fuzzy": m["fuzzy"],
        "semantic": bool(m["semantic"] and m["embed_model"]),
        "surplus": bool(config["method"]["target_accepted"]),
    }
    return [name for name, is_on in on.items() if is_on]


def coverage(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Shards merged and expected, over all rounds, each as `of_round` describes it; which are missing; and which were
    merged with a later round, by their round and that one; which were not needed, if any, and the candidates spared."""
    each = {str(r["round"]): r["coverage"] for r in rounds}
    late = {number: c["late"] for number, c in each.items() if c.get("late")}
    unneeded = {number: c["unneeded"] for number, c in each.items() if c.get("unneeded")}
    return {
        "published": sum(c["published"] for c in each.values()),
        "expected": sum(c["expected"] for c in each.values()),
        "missing": {number: c["missing"] for number, c in each.items() if c["missing"]},
        **({"late": late} if late else {}),
        **({"unneeded": unneeded, "spared": sum(c.get("spared", 0) for c in each.values())} if unneeded else {}),
    }


def of_round(r: MergedRound) -> dict[str, Any]:
    """What the manifest says of one round."""
    return {
        "round": r.number,
        "candidates": r.plan.candidates,
        "target": r.plan.target,
        "ledger": r.ledger.to_dict(),
        "dropped": r.dropped,
        "survived": r.survived,
        "coverage": r.coverage,
        "merge": r.digest,
        "steps": r.manifest["steps"],
        "similarity": r.manifest["similarity"],
    }

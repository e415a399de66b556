"""The plan: what a run will do, frozen and digested. Attempts, resumes and merges refuse another fingerprint.

`planning.make` makes it.
"""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gra_hpc import __version__
from gra_hpc.config import engine_args
from gra_hpc.config.frozen import changes, differences, fingerprinted
from gra_hpc.config.settings import Policy, RunConfig
from gra_hpc.errors import FingerprintError, GraError, IncompleteError
from gra_hpc.flows.criteria import rubric_of
from gra_hpc.flows.expected import BYTES_A_TOKEN
from gra_hpc.flows.registry import find, flow_of
from gra_hpc.flows.render import Own, prompts_digest
from gra_hpc.foreign import all_fit
from gra_hpc.permissions import own_bytes
from gra_hpc.records import PAPER, Rubric, digest
from gra_hpc.run.code import code_digest
from gra_hpc.run.directory import RoundDir, RunDir
from gra_hpc.run.pins import ModelPin
from gra_hpc.sources.benchmarks import BenchmarkPin
from gra_hpc.storage import checked, read_object, sealed, write_atomic
from gra_hpc.terminal import word

if TYPE_CHECKING:
    import numpy as np

FORMAT = 4
READABLE = range(2, FORMAT + 1)
"""Format 2 did not note the models' sizes, format 3 not their special tokens, nor the seeds' digest."""


@dataclass(frozen=True)
class Plan:
    """`plan.json`."""

    fingerprint: str
    frozen: dict[str, Any]
    """What the fingerprint digests: method, committee, models, merge, seeds, prompts, code version."""
    version: str
    created: float
    """Unix time, in seconds."""
    shards: int
    seeds: int
    seed_rejects: int
    undescribed: int
    """Seeds that round 0 has to describe."""
    models: dict[str, ModelPin]
    embed: ModelPin | None
    format: int = FORMAT
    benchmarks: dict[str, BenchmarkPin] = field(default_factory=dict)
    """Sources of the decontamination."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Bytes and SHA-256 of what was written with the plan, by its path in the run."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Templates of the run's own, by name."""
    language: str = ""
    """Language that is asked for; empty: none is."""
    languages: dict[str, list[str]] = field(default_factory=dict)
    """Ids of the seeds of which another one is asked for, by it."""
    seed_languages: dict[str, int] = field(default_factory=dict)
    """Seeds by language, where each one's own is asked for."""
    seed_thoughts: int = 0
    """Seeds whose response came with thoughts."""
    seed_contexts: int = 0
    """Seeds with turns before their last exchange, or with tools."""
    seed_context_bytes: int = 0
    """Of these turns and tools, as prompts show them, all together."""
    seed_aside: dict[str, int] = field(default_factory=dict)
    """What was left aside in the seeds' source, by its kind (`seeds.SeedSet`)."""
    seed_unread: list[str] = field(default_factory=list)
    """Fields of the seeds' source that nothing was read from."""
    seed_unanswered: int = 0
    """Seeds without a response."""
    gold: dict[str, int] = field(default_factory=dict)
    """Gold questions by verdict (`run/gold.py`)."""
    decided: dict[str, Any] = field(default_factory=dict)
    """Of a run whose shards are another run's, decided again (`judging/again.py`): that run's name and fingerprint, its
    merges, its rounds' plans, the thresholds, then and now, and which shards were not needed, if any, by round."""

    @property
    def rounds(self) -> int:
        """Rounds of synthesis; describing the seeds is none."""
        return int(self.frozen["method"]["rounds"])

    @property
    def rubric(self) -> Rubric:
        """What its Reviewers score."""
        return Rubric.of(self.frozen)

    @property
    def own_templates(self) -> Own:
        """Templates of the run's own, as they are rendered."""
        return tuple(sorted(self.prompts.items()))

    def language_of(self) -> Callable[[str], str]:
        """The language that is asked for, by a seed's id; English is not asked for, unless by name."""
        other = {seed: name for name, ids in self.languages.items() for seed in ids}
        return lambda seed: other.get(seed, self.language)

    @property
    def thinks(self) -> bool:
        """Whether any model of the committee thinks: then the calls' tables have a column for it."""
        return bool(self.thinking_models)

    @property
    def thinking_models(self) -> list[str]:
        """The models that think before they answer, by name."""
        return [name for name, pin in sorted(self.models.items()) if pin.thinking and pin.thinking.on]

    @property
    def context(self) -> bool:
        """Whether samples may have context, their seed's: then their tables have a column for it."""
        return self.seed_contexts > 0

    @property
    def context_tokens(self) -> float:
        """Tokens, about, that a prompt has beyond its step's size where it carries its seed's context."""
        return self.seed_context_bytes / BYTES_A_TOKEN / max(1, self.seeds)

    @property
    def propensity(self) -> bool:
        """Whether Generators are drawn by their standing: then samples' tables have a column for the chance of it."""
        return bool(self.frozen["method"].get("policy") == Policy.performance.value)

    @property
    def thought_out(self) -> bool:
        """Whether samples may have thoughts, of a model or of their seed: then their tables have a column for them."""
        return self.thinks or (self.seed_thoughts > 0 and not find(self.frozen["method"]["flow"]).asks)

    @classmethod
    def load(cls, run: RunDir, own: bool = False) -> Plan:
        """The plan of a run.

        Args:
            own: it decides what runs: it must be this user's, and nobody else's to write.

        Raises:
            GraError: when it was made by an incompatible version.
            OwnershipError: it is in other hands.
        """
        data = read_object(run.plan_file, read=own_bytes if own else None)
        if data.get("format") not in READABLE:
            raise GraError(
                f"{run.plan_file}: plan format {data.get('format')}, this version reads {READABLE[0]} to {FORMAT}",
                run.anew(),
            )
        try:
            data["models"] = {k: ModelPin.read(v) for k, v in data["models"].items()}
            data["embed"] = ModelPin.read(data["embed"]) if data["embed"] else None
            data["benchmarks"] = {k: BenchmarkPin(**v) for k, v in data["benchmarks"].items()}
            plan = cls(**data)
            if not all(map(all_fit, (plan, *plan.models.values(), *plan.benchmarks.values()))):
                raise TypeError("a value of another type than a plan's")
            return plan
        except (AttributeError, KeyError, TypeError) as e:
            raise GraError(f"{run.plan_file}: not a plan ({e})", run.anew()) from None

    def verify(self, config: RunConfig, run: RunDir) -> None:
        """Refuse a configuration with another fingerprint, or another number of shards.

        Raises:
            FingerprintError: with the keys that differ.
        """
        if config.launch.shards not in (0, self.shards):
            raise FingerprintError(
                f"{run.path}: launch.shards={config.launch.shards}, planned with {self.shards}",
                f"plan a new run: {run.anew(f'launch.shards={config.launch.shards}')}",
            )
        now = frozen(
            config,
            self.frozen["seeds"],
            {k: v.identity for k, v in self.models.items()},
            self.embed,
            self.benchmarks,
            self.own_templates,
            self.frozen.get("gold", ""),
        )
        if digest(now) != self.fingerprint:
            raise FingerprintError(
                f"{run.path}: planned with other settings: {'; '.join(differences(self.frozen, now))}",
                f"plan a new run: {run.anew(*_as_words(self.frozen, now))}",
            )


def _as_words(planned: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """The settings that differ as they are typed; what has no plain value is left to the reader."""
    from gra_hpc.config.typed_yaml import typed  # commands that only look at a run do without YAML

    for key, _, value in changes(planned, now):
        if key.partition(".")[0] in _TYPED and isinstance(value, (bool, int, float, str)):
            yield typed(RunConfig, key, value)


_TYPED = ("committee", "engine", "launch", "merge", "method", "release")
"""Sections whose keys are frozen under their own names."""
WORDING = {"language": "auto", "domains": {}, "criteria": {}, "instruction_criteria": {}}
"""Settings that say what prompts are made of, as they are on the paper's path: frozen where they are others."""


def frozen(
    config: RunConfig,
    seeds: str,
    models: dict[str, str],
    embed: ModelPin | None,
    benchmarks: dict[str, BenchmarkPin],
    own: Own = (),
    gold: str = "",
) -> dict[str, Any]:
    """Everything that the samples of a run depend on, without where and how they are computed.

    Args:
        seeds: their digest, as that of the gold questions.
    """
    flow = flow_of(config)
    out: dict[str, Any] = fingerprinted(config)
    del out["method"]["prompts"]  # what is in the directory counts
    out["method"] = {k: v for k, v in out["method"].items() if k not in WORDING or v != WORDING[k]}
    for name, model in out["models"].items():
        del model["path"], model["revision"], model["licence"]
        model["identity"] = models.get(name, "")  # none: a run planned without it refuses it, by the differences
        if decide := engine_args.deciding(config.models[name].engine_args):
            model["engine_args"] = fingerprinted(decide)
    del out["merge"]["embed_model"]
    out["merge"]["embed_identity"] = embed.identity if embed else ""
    out["merge"]["benchmarks"] = {source: pin.sha256 for source, pin in benchmarks.items()}
    del out["method"]["gold"]  # as of the prompts
    if config.method.gold:
        out["gold"] = gold
    else:
        del out["method"]["gold_rate"]
    out |= {"seeds": seeds, "prompts": prompts_digest(flow.prompts, own), "version": __version__}
    out["code"] = code_digest(flow)
    if (rubric := rubric_of(config.method)) != PAPER:  # in its order, which prompts and tables have
        out["rubric"] = {kind: list(names) for kind, names in asdict(rubric).items()}
    return out


@dataclass(frozen=True)
class RoundPlan:
    """`round.json`: how many candidates a round makes. Round 0 describes the seeds that need it, one unit each."""

    round: int
    candidates: int
    shards: int
    target: int = 0
    """Rows wanted after the merge; 0: all that survive."""
    acceptance: float | None = None
    """Share of candidates expected to survive, from which `candidates` was computed for a target."""
    standing: dict[str, Any] = field(default_factory=dict)
    """`flows/gra/standing.py`, of the rounds before; empty: roles are drawn without it."""
    only: str = ""
    """The seeds that it works on: a bit each, in the plan's order, as base64 (`seeds_as_text`). Empty: all."""

    def to_dict(self) -> dict[str, Any]:
        """As it is written: without a standing, and without seeds that are left out, where there are none."""
        return {k: v for k, v in asdict(self).items() if k not in ("standing", "only") or v}

    @functools.cached_property
    def _places(self) -> np.ndarray:
        """Of each seed its place among those that the round works on; -1 for the others. int32 [seeds]; behind the
        last seed up to 7 more, of the bits that fill its byte."""
        import numpy as np

        on = np.unpackbits(np.frombuffer(base64.b64decode(self.only), np.uint8))
        return np.where(on, np.cumsum(on, dtype=np.int32) - 1, np.int32(-1))

    @functools.cached_property
    def _working(self) -> int:
        """Seeds that it works on, where it leaves some out."""
        return int(self._places.max(initial=-1)) + 1

    @classmethod
    def load(cls, directory: RoundDir) -> RoundPlan:
        """The plan of a round.

        Raises:
            IncompleteError: the round before it has not been merged yet, or nothing survived its merge.
            ReleaseError: it is not what the merge wrote.
            GraError: no such file, or another one.
        """
        file, run = directory.plan_file, directory.path.parent.parent
        by_merge = _by_merge(directory, run) if directory.number >= 2 else ""
        if not by_merge and not file.is_file():
            RunDir(run).check_there()
            raise GraError(f"{file}: is missing", f"bring it back, or {RunDir(run).anew()}")
        try:
            plan = cls(**read_object(file, "round", "candidates", "shards"))
            if not all_fit(plan) or plan.round != directory.number:
                raise TypeError("values of another type, or of another round")
            return plan
        except TypeError as e:
            raise GraError(f"{file}: not the plan of a round ({e})", by_merge or RunDir(run).anew()) from None

    def of_shard(self, shard: int, seeds: int) -> int:
        """Candidates of one shard, counted without drawing them."""
        if self.round == 0:
            return len(range(shard, self.candidates, self.shards))
        own = range(shard, seeds, self.shards)
        if self.only:
            return sum(self.of_seed(i, seeds) for i in own)
        # `of_seed` gives one more to so many seeds from `begin` on, and round the end
        more = self.candidates % seeds
        begin = (self.round - 1) * more % seeds
        ranges = ((begin, min(begin + more, seeds)), (0, max(begin + more - seeds, 0)))
        extra = sum(len(range(a + (shard - a) % self.shards, b, self.shards)) for a, b in ranges)
        return self.candidates // seeds * len(own) + extra

    def of_seed(self, index: int, seeds: int) -> int:
        """Candidates anchored on one seed: spread evenly.

        Which seeds get one more moves on from round to round: a target that needs fewer candidates than there are seeds
        does not rest on the same ones every time. A seed that the round leaves out has none.
        """
        if self.only:
            index, seeds = int(self._places[index]), self._working
            if index < 0:
                return 0
        more = self.candidates % seeds
        position = (index - (self.round - 1) * more) % seeds
        return self.candidates // seeds + (position < more)

    def save(self, directory: RoundDir) -> None:
        """Write the plan of round 0 or 1."""
        directory.path.mkdir(parents=True, exist_ok=True)
        write_atomic(directory.plan_file, sealed(self.to_dict()))


def seeds_as_text(on: Sequence[bool]) -> str:
    """`RoundPlan.only`: of each seed whether a round works on it."""
    bits = "".join("1" if one else "0" for one in on)
    width = -(-len(bits) // 8)
    return base64.b64encode(int(bits.ljust(8 * width, "0"), 2).to_bytes(width, "big")).decode()


def _by_merge(directory: RoundDir, run: Path) -> str:
    """What to do when the plan that a merge made cannot be read; it is there, and as it was written."""
    file, before = directory.plan_file, directory.number - 1
    then = f"move {file.parent} away, then gra merge {word(run)} --round {before}"
    try:
        recorded = read_object(file.with_name("manifest.json"), "files", then=then)["files"].get(file.name)
    except FileNotFoundError:
        RunDir(run).check_there()
        raise IncompleteError(
            f"round {directory.number} is not planned yet: round {before} has not been merged",
            f"gra merge {word(run)} --round {before}",
        ) from None
    if recorded is None:
        raise IncompleteError(
            f"none of the candidates of rounds 1 to {before} survived: round {directory.number} is not planned",
            f"gra inspect {word(run)} --status rejected  (or failed)",
        )
    checked(file, recorded, then)
    return then


def first_round(config: RunConfig, plan: Plan) -> RoundPlan:
    """Round 1: `samples_per_seed`, or enough for the target at the stated acceptance."""
    return size_round(1, config, plan.seeds, plan.shards, config.method.expected_acceptance)


def size_round(number: int, config: RunConfig, seeds: int, shards: int, acceptance: float) -> RoundPlan:
    """How many candidates a round needs.

    Args:
        acceptance: share of candidates that survive, stated or measured so far. For a target, as many more candidates
            are planned as make a shortfall rare: two standard deviations of the survivors, at least a twentieth.
    """
    target = config.method.target_accepted
    if not target:
        return RoundPlan(number, seeds * config.method.samples_per_seed, shards)
    rate = max(acceptance, 1e-3)
    margin = max(0.05, 2 * math.sqrt((1 - rate) / target)) if rate < 1 else 0.05
    return RoundPlan(number, math.ceil((1 + margin) * target / rate), shards, target, acceptance)

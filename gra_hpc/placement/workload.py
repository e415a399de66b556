"""Expected work of each model per sample: calls and tokens by role, from the method's config.

The defaults are stated here, in one place; a calibration file replaces them by what was measured:

    {"method": {"acceptance": 0.41, "instruction_pass": 0.8, "adjudicated": 0.06,
                "steps": {"response": {"prompt_tokens": 131, "completion_tokens": 388, "tries": 1.02}}},
     "performance": {"compute_efficiency": 0.46, "speed": {"qwen": 1.1}}}
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import orjson

from gra_hpc.config.settings import ROLES, MemberConfig, ModelConfig, RunConfig
from gra_hpc.errors import ConfigError
from gra_hpc.flows.expected import Asked, StepSize
from gra_hpc.flows.registry import every, flow_of
from gra_hpc.flows.units import seated


@dataclass(frozen=True)
class RoleLoad:
    """Work of one model in one role, per sample (expected values: fractions are normal)."""

    calls: float
    prompt_tokens: float
    """Over all these calls."""
    completion_tokens: float
    """Over all these calls, thoughts included."""
    cached_tokens: float = 0.0
    """Part of the prompt tokens that the prefix cache is expected to hold already."""
    thought_tokens: float = 0.0
    """Part of the completion tokens that are thoughts."""


@dataclass(frozen=True)
class ModelLoad:
    """Work of one model per sample, by role."""

    roles: Mapping[str, RoleLoad] = field(default_factory=dict)

    @property
    def calls(self) -> float:
        return sum(r.calls for r in self.roles.values())

    @property
    def prompt_tokens(self) -> float:
        return sum(r.prompt_tokens for r in self.roles.values())

    @property
    def completion_tokens(self) -> float:
        return sum(r.completion_tokens for r in self.roles.values())

    @property
    def cached_tokens(self) -> float:
        return sum(r.cached_tokens for r in self.roles.values())


EMBED = StepSize(60, 0)
"""The text of a sample that is embedded."""


def sizes() -> dict[str, StepSize]:
    """Stated defaults by step, of all flows; of two with a step of one name those of the first, which are ours."""
    found: dict[str, StepSize] = {}
    for flow in every():
        found |= {step: size for step, size in flow.sizes.items() if step not in found}
    return found | {"embed": EMBED}


@dataclass(frozen=True)
class MethodRates:
    """What the method's decisions come to. Stated defaults, until a calibration replaces them."""

    acceptance: float = 0.0
    """Share of candidates accepted. 0: `method.expected_acceptance`."""
    instruction_pass: float = 0.75
    """Share of instructions that no Reviewer gives a zero."""
    adjudicated: float = 0.1
    """Share of reviewed responses that go to the Adjudicator."""
    steps: Mapping[str, StepSize] = field(default_factory=sizes)
    measured: frozenset[str] = frozenset()
    """Steps whose answers' length is no stated default."""

    def size(self, question: Asked) -> StepSize:
        """How long a question is. What the run's settings add to a stated default, a measured length has already."""
        size = self.steps[question.step]
        if not question.answer_tokens or question.step in self.measured:
            return size
        return replace(size, completion_tokens=size.completion_tokens + question.answer_tokens)

    def calibrated(self, values: Mapping[str, Any]) -> MethodRates:
        """With measured values in place of defaults.

        Raises:
            ConfigError: a name that does not exist, or a value that is no number.
        """
        changes: dict[str, Any] = {}
        for key, value in values.items():
            if key == "steps" and isinstance(value, Mapping):
                steps, measured = dict(self.steps), set(self.measured)
                for step, size in value.items():
                    names = {f.name for f in fields(StepSize)}
                    if step not in self.steps or not isinstance(size, Mapping) or not set(size) <= names:
                        raise ConfigError(
                            f"calibration: method.steps.{step}: expected {', '.join(sorted(names))}"
                            f" for one of {', '.join(self.steps)}",
                            "gra calibrate RUN writes such a file",
                        )
                    steps[step] = replace(steps[step], **size)
                    measured |= {step} if "completion_tokens" in size else set()
                changes |= {key: steps, "measured": frozenset(measured)}
            elif key in ("acceptance", "instruction_pass", "adjudicated") and isinstance(value, (int, float)):
                changes[key] = float(value)
            else:
                raise ConfigError(
                    f"calibration: method.{key}={value!r}: expected acceptance, instruction_pass, adjudicated or steps",
                    "gra calibrate RUN writes such a file",
                )
        return replace(self, **changes)


def read_calibration(path: Path | str) -> tuple[MethodRates, dict[str, Any]]:
    """A calibration file: the method's rates, and changes for `performance.Constants.calibrated`.

    Raises:
        ConfigError: no such file, not JSON, or unknown keys.
    """
    try:
        data = orjson.loads(Path(path).read_bytes())
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}", "gra calibrate  (writes one)") from None
    except orjson.JSONDecodeError as e:
        raise ConfigError(f"{path}: not valid JSON ({e})", "gra calibrate  (writes one)") from None
    if not isinstance(data, dict) or not all(isinstance(data.get(k, {}), dict) for k in ("method", "performance")):
        raise ConfigError(f"{path}: expected an object with method and performance", "gra calibrate  (writes one)")
    return MethodRates().calibrated(data.get("method", {})), data.get("performance", {})


def calibration_of(config: RunConfig) -> tuple[MethodRates, dict[str, Any]]:
    """`site.calibration`, or the stated defaults where a site has none.

    Raises:
        ConfigError: as `read_calibration`.
    """
    return read_calibration(config.site.calibration) if config.site.calibration else (MethodRates(), {})


def asked(config: RunConfig, rates: MethodRates, stage: str = "samples") -> list[Asked]:
    """The method as expected numbers of questions: `samples` for a round, `prepare` for round 0."""
    flow = flow_of(config)
    return list(flow.expect_prepare) if stage == "prepare" else flow.expect(config, rates)


def method_load(
    config: RunConfig,
    rates: MethodRates | None = None,
    stage: str = "samples",
    thinking: Collection[str] = (),
    context_tokens: float = 0.0,
) -> dict[str, ModelLoad]:
    """Expected work per sample of every model in `config.models`; a model that is never asked has no roles.

    Args:
        config: method, committee and models.
        rates: acceptance and sizes; stated defaults if not given.
        stage: `samples` for a round; `prepare` for round 0, per seed to be described.
        thinking: models that think before they answer.
        context_tokens: of the seeds' contexts, an average over all seeds (`Plan.context_tokens`).
    """
    rates = rates or MethodRates()
    members = _members(config)
    totals: dict[str, dict[str, RoleLoad]] = {name: {} for name in config.models}
    seats = flow_of(config).seats(config)
    for question in asked(config, rates, stage):
        size = rates.size(question)
        shown = size.prompt_tokens + (context_tokens if question.context else 0.0)
        by_model: dict[str, float] = {}
        for name, count in seated(seats, question.role, config.method.flow, question.step).items():
            member = members[name]
            calls = count * question.times * min(size.tries, config.method.max_tries)
            if calls <= 0:
                continue
            prompt = calls * (shown + len(member.persona) / 4)
            answer = calls * min(size.completion_tokens, _longest(config, member, question.role))
            thoughts = calls * _thoughts(config, member, question.role, size, thinking)
            by_model[member.model] = by_model.get(member.model, 0.0) + count
            _add(totals[member.model], question.role, RoleLoad(calls, prompt, answer + thoughts, 0.0, thoughts))
        if question.role == "reviewer":
            for model, count in by_model.items():
                again = _repeated(config, model, count)
                cached = again * question.times * shown
                _add(totals[model], "reviewer", RoleLoad(0.0, 0.0, 0.0, cached))
    return {name: ModelLoad(roles) for name, roles in totals.items()}


def calls_per_sample(config: RunConfig, rates: MethodRates | None = None, thinking: Collection[str] = ()) -> float:
    """Calls in flight per sample in flight, on average: of its time, by tokens written, what several seats share."""
    rates = rates or MethodRates()
    members = _members(config)
    at_once = in_a_row = 0.0
    seats = flow_of(config).seats(config) if config.models else {}
    for question in asked(config, rates) if config.models else []:
        size, shares = rates.size(question), seated(seats, question.role, config.method.flow, question.step)
        count = sum(shares.values())
        if not count:
            continue
        thoughts = sum(n * _thoughts(config, members[s], question.role, size, thinking) for s, n in shares.items())
        written = size.completion_tokens + thoughts / count
        tokens = question.times * min(size.tries, config.method.max_tries) * written
        at_once += count * tokens
        in_a_row += min(1.0, count) * tokens
    return at_once / in_a_row if in_a_row else 1.0


def _add(roles: dict[str, RoleLoad], role: str, more: RoleLoad) -> None:
    old = roles.get(role, RoleLoad(0.0, 0.0, 0.0))
    roles[role] = RoleLoad(*(getattr(old, f.name) + getattr(more, f.name) for f in fields(RoleLoad)))


def _longest(config: RunConfig, member: MemberConfig, role: str) -> float:
    """The longest answer that sampling allows a member in a role, in tokens."""
    m = config.method
    layers = [member.sampling, m.role_sampling.get(role), m.sampling]
    longest = next((s.max_tokens for s in layers if s and s.max_tokens), 4096)
    return min(longest, m.verdict_tokens) if role in ROLES[1:] else longest


def _thoughts(config: RunConfig, member: MemberConfig, role: str, size: StepSize, thinking: Collection[str]) -> float:
    """Tokens that a member thinks before one answer, as far as sampling lets it."""
    if member.model not in thinking:
        return 0.0
    layers = [member.sampling, config.method.role_sampling.get(role), config.method.sampling]
    return min(size.thought_tokens, next((s.thinking_tokens for s in layers if s and s.thinking_tokens), 2048))


def _members(config: RunConfig) -> dict[str, MemberConfig]:
    """The committee; where none is named, each model is a member."""
    return config.committee or {name: MemberConfig(model=name) for name in config.models}


def _repeated(config: RunConfig, model: str, seats_of_model: float) -> float:
    """Expected Reviewers of one sample whose prompt this model has just seen: all of its seats but the first.

    Several members may share a model (personas), and Reviewers are asked the same but for the persona at the end.
    """
    members = _members(config)
    m = config.method
    if not m.policy.drawn or len(members) == 1:
        return max(0.0, seats_of_model - 1)
    own = sum(x.model == model for x in members.values())
    count = min(m.reviewers, len(members) - 1)
    none = math.comb(len(members) - own, count) / math.comb(len(members), count)
    return max(0.0, seats_of_model - (1 - none))


def embedding_load(config: RunConfig, rates: MethodRates | None = None) -> ModelLoad:
    """Work per sample of the embedding model: each accepted sample's instruction, once."""
    rates = rates or MethodRates()
    size = rates.steps["embed"]
    accepted = rates.acceptance or config.method.expected_acceptance
    return ModelLoad({"embed": RoleLoad(accepted, accepted * size.prompt_tokens, 0.0)})


def usual_load(embedder: bool = False) -> ModelLoad:
    """Where nothing else is known: one member of a committee of five, with random roles and the stated defaults."""
    config = RunConfig(models={str(i): ModelConfig(path=str(i)) for i in range(5)})
    return embedding_load(config) if embedder else method_load(config)["0"]

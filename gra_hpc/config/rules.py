"""What the values of a configuration must be. Types and keys are OmegaConf's and `presets`' business."""

from __future__ import annotations

from collections.abc import Callable

from omegaconf import MISSING

from gra_hpc.config.settings import ROLES, Flow, Policy, RunConfig
from gra_hpc.errors import ConfigError


def expecting(then: str) -> Callable[[bool, str, object, str], None]:
    """A function `need(ok, key, value, expected)` that refuses a value which is not as expected.

    Args:
        then: the next command to type.
    """

    def need(ok: bool, key: str, value: object, expected: str) -> None:
        if not ok:
            raise ConfigError(f"{key}={value}: expected {expected}", then)

    return need


_LEAST: dict[str, dict[str, float]] = {
    "method": {"verdict_tokens": 16, "summary_words": 3},
    "seeds": {"limit": 0, "max_chars": 1},
    "merge": {"memory_gb": 0.5},
    "engine": {
        "start_timeout_s": 1,
        "call_timeout_s": 1,
        "max_restarts": 0,
        "max_running": 1,
        "simulated_latency_s": 0,
    },
    "launch": {"journal_fsync_s": 0, "journal_fsync_calls": 1, "heartbeat_s": 0.1},
    "site": {
        "merge_cpus": 1,
        "merge_memory_gb": 0,
        "merge_time_minutes": 1,
        "cpus_per_task": 0,
        "cpus_per_gpu": 0,
        "memory_per_gpu_gb": 0,
        "parallel": 0,
        "memory_gb": 0,
    },
}
"""Smallest values of settings that have no other bound."""


_OWNED = {
    "tensor-parallel-size": "tensor_parallel",
    "gpu-memory-utilization": "kv_cache_gb",
    "kv-cache-memory-bytes": "kv_cache_gb",
    "num-gpu-blocks-override": "kv_cache_gb",
    "max-model-len": "max_model_len",
    "quantization": "quantization",
    "dtype": "dtype",
    "load-format": "load_format",
    "trust-remote-code": "trust_remote_code",
    "chat-template": "chat_template",
    "max-num-seqs": "engine.max_running",
    "enable-sleep-mode": "engine.residency",
    "data-parallel-size": "replicas",
    "pipeline-parallel-size": "tensor_parallel",
    "model": "path",
    "revision": "revision",
    "served-model-name": "",
    "uds": "",
    "host": "",
    "port": "",
}
"""Arguments of vLLM's server that are settled elsewhere, with the setting: of the model, or of the run (with a dot)."""

_DTYPES = ("auto", "bfloat16", "float16", "half", "float32", "float")
"""What vLLM takes as `--dtype`. Its load formats grow by plug-ins: they are its own to check."""


def _check_engine_args(name: str, engine_args: dict[str, object]) -> None:
    """Refuse arguments that would bypass what placement, the plan or the door of the engines count on."""
    for key in engine_args:
        own = _OWNED.get(str(key).lstrip("-").replace("_", "-"))
        if own is None:
            continue
        setting = own if "." in own else f"models.{name}.{own}"
        raise ConfigError(
            f"models.{name}.engine_args.{key}: an argument that is set by {setting if own else 'the engine itself'}",
            f"set {setting} instead" if own else "leave it out",
        )


def check(c: RunConfig) -> None:
    """Refuse impossible values.

    Raises:
        ConfigError: naming the key, its value and what was expected.
    """
    need = expecting("gra config show  (explains every key)")
    m = c.method
    need(bool(c.models) or m.flow is Flow.seeds, "models", "{}", "at least one model")
    if m.flow is not Flow.synthesize:  # each seed's own instruction, once
        need(m.rounds == 1, "method.rounds", m.rounds, f"1 with method.flow={m.flow.value}")
    if m.flow is Flow.seeds:
        need(m.samples_per_seed == 1, "method.samples_per_seed", m.samples_per_seed, "1 with method.flow=seeds")
        need(m.target_accepted == 0, "method.target_accepted", m.target_accepted, "0 with method.flow=seeds")
    for name, member in c.committee.items():
        need(member.model in c.models, f"committee.{name}.model", member.model, f"one of {', '.join(c.models)}")
    for name, model in c.models.items():
        need(model.path not in ("", MISSING), f"models.{name}.path", model.path, "a Hub id or a directory")
        need(model.dtype in _DTYPES, f"models.{name}.dtype", model.dtype, f"one of {', '.join(_DTYPES)}")
        need(model.max_model_len >= 256, f"models.{name}.max_model_len", model.max_model_len, "at least 256")
        need(model.tensor_parallel >= 0, f"models.{name}.tensor_parallel", model.tensor_parallel, "0 or more")
        need(model.replicas >= 0, f"models.{name}.replicas", model.replicas, "0 or more")
        need(model.kv_cache_gb >= 0, f"models.{name}.kv_cache_gb", model.kv_cache_gb, "0 or more")
        _check_engine_args(name, model.engine_args)
    need(c.seeds.path not in ("", MISSING), "seeds.path", c.seeds.path, "a file or a Hub dataset id")
    need(c.seeds.duplicates in ("reject", "keep"), "seeds.duplicates", c.seeds.duplicates, "reject or keep")
    need(1 <= m.reviewers <= 16, "method.reviewers", m.reviewers, "1 to 16")
    need(1 <= m.samples_per_seed <= 10000, "method.samples_per_seed", m.samples_per_seed, "1 to 10000")
    need(1 <= m.rounds <= 99, "method.rounds", m.rounds, "1 to 99")
    need(m.target_accepted >= 0, "method.target_accepted", m.target_accepted, "0 or more")
    need(0 < m.expected_acceptance <= 1, "method.expected_acceptance", m.expected_acceptance, "above 0, at most 1")
    need(
        1 <= m.examples_min <= m.examples_max <= 16,
        "method.examples_min",
        f"{m.examples_min} (max {m.examples_max})",
        "1 <= examples_min <= examples_max <= 16",
    )
    need(1 <= m.keywords <= 10, "method.keywords", m.keywords, "1 to 10")
    need(1 <= m.max_tries <= 20, "method.max_tries", m.max_tries, "1 to 20")
    for key in ("accept_mean", "adjudicate_mean"):
        need(1 <= getattr(m, key) <= 10, f"method.{key}", getattr(m, key), "1 to 10 (scores are 1 to 10)")
    need(m.accept_sd >= 0, "method.accept_sd", m.accept_sd, "0 or more")
    members = list(c.committee) or list(c.models)
    for role in m.role_sampling:
        need(role in ROLES, f"method.role_sampling.{role}", role, f"one of {', '.join(ROLES)}")
    if m.policy is Policy.fixed:
        for key, names in (
            ("generator", [m.fixed.generator]),
            ("reviewers", m.fixed.reviewers),
            ("adjudicator", [m.fixed.adjudicator]),
        ):
            need(bool(names) and set(names) <= set(members), f"method.fixed.{key}", names, f"of {', '.join(members)}")
        seats = [m.fixed.generator, *m.fixed.reviewers, m.fixed.adjudicator]
        need(
            len(set(seats)) == len(seats),
            "method.fixed",
            seats,
            "another member in every seat (one member in all of them: method.policy=single)",
        )
    if m.policy is Policy.single and m.fixed.generator:
        need(m.fixed.generator in members, "method.fixed.generator", m.fixed.generator, f"of {', '.join(members)}")
    samplings = {"method.sampling": m.sampling}
    samplings |= {f"method.role_sampling.{k}": v for k, v in m.role_sampling.items()}
    samplings |= {f"committee.{k}.sampling": v.sampling for k, v in c.committee.items() if v.sampling}
    for where, s in samplings.items():
        need(s.temperature is None or 0 <= s.temperature <= 2, f"{where}.temperature", s.temperature, "0 to 2")
        need(s.top_p is None or 0 < s.top_p <= 1, f"{where}.top_p", s.top_p, "above 0, at most 1")
        need(s.max_tokens is None or s.max_tokens >= 1, f"{where}.max_tokens", s.max_tokens, "1 or more")
        penalty = s.repetition_penalty
        need(penalty is None or 0 < penalty <= 2, f"{where}.repetition_penalty", penalty, "above 0, at most 2")
    for part, least in _LEAST.items():
        section = getattr(c, part)
        for key, value in least.items():
            need(getattr(section, key) >= value, f"{part}.{key}", getattr(section, key), f"{value:g} or more")
    g = c.merge
    need(0 < g.fuzzy_threshold <= 1, "merge.fuzzy_threshold", g.fuzzy_threshold, "above 0, at most 1")
    need(0 < g.semantic_threshold <= 1.01, "merge.semantic_threshold", g.semantic_threshold, "above 0, at most 1")
    need(g.shingle >= 1, "merge.shingle", g.shingle, "1 or more")
    need(g.permutations in (32, 64, 128, 256), "merge.permutations", g.permutations, "32, 64, 128 or 256")
    need(g.decontamination.ngram >= 3, "merge.decontamination.ngram", g.decontamination.ngram, "3 or more")
    need(0 <= c.release.validation < 1, "release.validation", c.release.validation, "0 to below 1")
    need(c.release.shard_mb >= 1, "release.shard_mb", c.release.shard_mb, "1 or more")
    for f in c.release.formats:
        need(f in ("alpaca", "sharegpt", "chat"), "release.formats", f, "alpaca, sharegpt or chat")
    for key in ("rows", "picture_rows", "scorer_rows"):
        value = getattr(c.release.diagnostics, key)
        need(0 <= value <= 20_000, f"release.diagnostics.{key}", value, "0 to 20000")
    n = c.launch
    need(n.shards >= 0, "launch.shards", n.shards, "0 or more")
    need(n.seeds_per_shard >= 1, "launch.seeds_per_shard", n.seeds_per_shard, "1 or more")
    need(n.window >= 1, "launch.window", n.window, "1 or more")
    need(n.parallel >= 0, "launch.parallel", n.parallel, "0 or more")
    need(c.site.gpu_style in ("gpus", "gres", "none"), "site.gpu_style", c.site.gpu_style, "gpus, gres or none")
    need(c.site.gpus_per_node >= 0, "site.gpus_per_node", c.site.gpus_per_node, "0 or more")
    need(c.site.time_minutes >= 1, "site.time_minutes", c.site.time_minutes, "1 or more")
    lead = c.site.signal_lead_s
    need(
        0 <= lead <= 0.2 * 60 * c.site.time_minutes,
        "site.signal_lead_s",
        lead,
        f"at most a fifth of the time limit ({int(12 * c.site.time_minutes)} s): beyond it submitit takes a time limit"
        " for a preemption",
    )
    container = c.site.container
    need(
        not container or container.split(":", 1)[0] in ("apptainer", "pyxis"),
        "site.container",
        container,
        "apptainer:IMAGE or pyxis:IMAGE",
    )

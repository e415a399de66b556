"""Composing the configuration: presets, overrides, and answers to mistakes."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from gra_hpc.config import explain, presets
from gra_hpc.config.directories import config_dirs
from gra_hpc.config.frozen import fingerprinted
from gra_hpc.config.settings import RunConfig
from gra_hpc.config.typed_yaml import typed
from gra_hpc.errors import ConfigError


def test_includes_then_file_then_site_then_overrides(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("method: {reviewers: 2, rounds: 2}\nmodels: {m: {path: x}}\n")
    (tmp_path / "top.yaml").write_text(f"include: [{tmp_path}/base.yaml]\nmethod: {{rounds: 3}}\nseeds: {{path: s}}\n")
    (tmp_path / "site.yaml").write_text("site: {partition: gpu, time_minutes: 60}\n")
    c = presets.compose(str(tmp_path / "top.yaml"), ["site.time_minutes=120"], str(tmp_path / "site.yaml"))
    assert (c.method.reviewers, c.method.rounds, c.site.partition, c.site.time_minutes) == (2, 3, "gpu", 120)
    assert list(c.committee) == ["m"]  # every model is a member unless a committee is named


def test_a_saved_configuration_reads_back_the_same(tmp_path: Path) -> None:
    c = presets.compose("demo", ["method.reviewers=2", "engine.env={A: b}"])
    (tmp_path / "run.yaml").write_text(presets.dump(c))
    assert presets.load(tmp_path / "run.yaml") == c


def test_names_with_dots_are_typed_as_they_are() -> None:
    c = presets.compose("alpaca", ["models.mistral-7b-v0.3.max_model_len=2048", "models.new2.5-7b.path=org/new"])
    assert c.models["mistral-7b-v0.3"].max_model_len == 2048 and c.models["new2.5-7b"].path == "org/new"
    seat = ["committee.a.b.model=mistral-7b-v0.3", "committee.a.b.persona=Be brief."]
    assert presets.compose("alpaca", seat).committee["a.b"].persona == "Be brief."
    assert "mistral-7b-v0.3" not in presets.compose("alpaca", ["models.mistral-7b-v0.3=null"]).models
    with pytest.raises(ConfigError, match=r"unknown key models\.mistral-7b-v0\.3\.pth; did you mean path\?"):
        presets.compose("alpaca", ["models.mistral-7b-v0.3.pth=x"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("method.reviewrs=2", "method.reviewrs; did you mean reviewers?"),
        ("accept_mean=7", "did you mean method.accept_mean?"),
        ("method.reviewers=many", "method.reviewers"),
        ("method.reviewers=0", "method.reviewers=0: expected 1 to 16"),
        ("method.policy=randm", "method.policy"),
        ("method.accept_mean=11", "method.accept_mean=11"),
        ("committee.ada.model=nope", "committee.ada.model=nope: expected one of smollm2"),
        ("method.sampling.top_p=2", "method.sampling.top_p"),
        ("committee.ada.sampling.top_p=0", "committee.ada.sampling.top_p"),
        ("method.verdict_tokens=0", "method.verdict_tokens"),
        ("seeds.limit=-5", "seeds.limit"),
        ("site.signal_lead_s=4000", "at most a fifth of the time limit"),
        ("models.smollm2.dtype=bfloat", "expected auto, bfloat16, float16, half, float32 or float"),
        ("models.smollm2.max_model_len=ten", "models.smollm2.max_model_len"),
        ("models.smollm2.pth=x", "did you mean path?"),
        (
            "models.smolm2.max_model_len=2048",
            "models.smolm2.path=: expected a Hub id or a directory (or an endpoint); did",
        ),
        (
            "models.smollm2.engine_args.tensor_parallel_size=2",
            "engine_args.tensor_parallel_size: an argument that is set by models.smollm2.tensor_parallel",
        ),
        ("models.smollm2.engine_args.gpu-memory-utilization=0.5", "set models.smollm2.kv_cache_gb instead"),
        ("models.smollm2.engine_args.kv_cache_memory_bytes=1000", "set models.smollm2.kv_cache_gb instead"),
        ("models.smollm2.engine_args.max-model-len=100", "set models.smollm2.max_model_len instead"),
        ("models.smollm2.engine_args.max_num_seqs=100", "set engine.max_running instead"),
        ("models.smollm2.engine_args.uds=/tmp/x", "set by the engine itself -> leave it out"),
        ("models.smollm2.engine_args.config=more.yaml", "set by the engine itself -> leave it out"),
        ("nonsense", "expected key=value"),
        ("engine.env={A: [1]}", "engine.env.A=[1]: expected one str"),
        ("site.setup=[a, {b: c}]", "site.setup[1]={'b': 'c'}: expected one str"),
        ("site.setup=[echo ${USER}]", "without braces"),
        ("site.container=docker:x", "apptainer:IMAGE or pyxis:IMAGE"),
    ],
)
def test_a_mistake_names_key_and_expectation(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as e:
        presets.compose("demo", [override])
    assert says in str(e.value)
    assert "\n" not in str(e.value)


def test_engine_args_that_nothing_else_owns_are_kept() -> None:
    words = ["models.smollm2.engine_args.kv_cache_dtype=fp8", "models.smollm2.engine_args.block-size=16"]
    found = presets.compose("demo", words).models["smollm2"].engine_args
    assert found == {"block_size": 32, "kv_cache_dtype": "fp8", "block-size": 16}


def test_texts_stay_as_they_were_typed(tmp_path: Path) -> None:
    """YAML alone would make truth values, numbers (also octal ones) and dates of them."""
    words = ["models.smollm2.system_role=yes", "seeds.name=no", "seeds.path=2024.10", "site.account=012_345",
             "models.smollm2.revision=2026-01-02", "engine.env={ON: yes, N: 010}", "method.rounds=010",
             "committee.ada.persona='null'"]  # fmt: skip
    preset = tmp_path / "mine.yaml"
    preset.write_text("include: [demo]\nsite: {setup: [module load 1.10, 1.10]}\nrelease: {licence: no}\n")
    for c in (presets.compose("demo", words), presets.compose(str(preset), words)):
        model = c.models["smollm2"]
        assert (model.system_role.value, model.revision) == ("yes", "2026-01-02")
        assert (c.seeds.name, c.seeds.path, c.site.account) == ("no", "2024.10", "012_345")
        assert (c.engine.env, c.method.rounds) == ({"ON": "yes", "N": "010"}, 10)
        assert c.committee["ada"].persona == "null"
    assert (c.site.setup, c.release.licence) == (["module load 1.10", "1.10"], "no")
    (tmp_path / "run.yaml").write_text(presets.dump(c))
    assert presets.load(tmp_path / "run.yaml") == c


def test_members_of_an_included_preset_can_be_taken_away(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "include: [demo]\nmodels: {other: {path: /o}}\n" + "committee: {eve: null, dee: null, fay: {model: other}}\n"
    )
    c = presets.compose(str(mine))
    assert (list(c.committee), list(c.models)) == (["ada", "ben", "cyd", "fay"], ["smollm2", "other"])
    c = presets.compose(str(mine), ["committee={}", "method.reviewers=1"])
    assert {n: m.model for n, m in c.committee.items()} == {"smollm2": "smollm2", "other": "other"}
    c = presets.compose(str(mine), ["committee.fay=null"])
    assert list(c.models) == ["smollm2"]  # nobody needs the other


def test_unknown_presets_and_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean demo"):
        presets.compose("dmo")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1\n")
    with pytest.raises(ConfigError, match=r"bad.yaml line \d"):
        presets.compose(str(bad))
    bad.write_text(f"include: [{bad}]")
    with pytest.raises(ConfigError, match="includes itself"):
        presets.compose(str(bad))


def test_every_field_has_a_docstring() -> None:
    def walk(kind: type) -> None:
        docs = explain.field_docs(kind)
        for f in dataclasses.fields(kind):
            assert docs.get(f.name), f"{kind.__name__}.{f.name}"

    from gra_hpc.config import settings

    for thing in vars(settings).values():
        if dataclasses.is_dataclass(thing) and isinstance(thing, type):
            walk(thing)


def test_explain_is_yaml_that_reads_back(tmp_path: Path) -> None:
    c = presets.compose("demo")
    text = "\n".join(explain.explain(c))
    assert "# Reject when the mean over Reviewers is below this." in text
    (tmp_path / "x.yaml").write_text(text)
    assert presets.load(tmp_path / "x.yaml") == c


def test_placement_is_not_part_of_the_fingerprint() -> None:
    c = presets.compose("demo")
    same = presets.compose(
        "demo",
        [
            "site.partition=x",
            "launch.window=3",
            "models.smollm2.replicas=2",
            "engine.max_restarts=9",
            "merge.allow_partial=true",
        ],
    )
    other = presets.compose("demo", ["method.accept_mean=7"])
    assert fingerprinted(c) == fingerprinted(same) != fingerprinted(other)


@pytest.mark.parametrize(
    "path", sorted(str(p) for d in config_dirs()[:1] for p in d.glob("*.yaml")), ids=lambda p: Path(p).stem
)
def test_every_shipped_preset_composes(path: str) -> None:
    assert OmegaConf.structured(RunConfig)
    assert presets.compose(path).models


@pytest.mark.parametrize(
    ("before", "key"),
    [
        ("site: {sbatch: {hint: nomultithread, nice: 5}}", "site.sbatch"),
        ("seeds: {fields: {instruction: question}}", "seeds.fields"),
        ("models: {smollm2: {engine_args: {enforce-eager: true}}}", "models.smollm2.engine_args"),
    ],
)
def test_braces_empty_any_map(tmp_path: Path, before: str, key: str) -> None:
    """On the command line, and in a preset that includes another."""
    (tmp_path / "first.yaml").write_text(f"include: [demo]\n{before}\n")

    def value(config: object) -> object:
        for part in key.split("."):
            config = config[part] if isinstance(config, dict) else getattr(config, part)
        return config

    assert value(presets.compose(str(tmp_path / "first.yaml"), []))
    assert value(presets.compose(str(tmp_path / "first.yaml"), [f"{key}={{}}"])) == {}
    empty = "{}"
    for part in reversed(key.split(".")):
        empty = f"{{{part}: {empty}}}"
    (tmp_path / "second.yaml").write_text(
        f"include: [{tmp_path / 'first.yaml'}]\n{empty.removeprefix('{').removesuffix('}')}\n"
    )
    assert value(presets.compose(str(tmp_path / "second.yaml"), [])) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("method.language", text) for text in ("German", "other: Klingon", "no", "", "a 'b' \"c\"", "[x", "ü: ß")],
        *[("method.review_response", False), ("method.reviewers", 2), ("method.accept_mean", 7.5)],
    ],
)
def test_a_setting_is_typed_so_that_it_is_read_back(key: str, value: bool | int | float | str) -> None:
    words = shlex.split(shlex.join([typed(RunConfig, key, value)]))
    found = presets.apply(OmegaConf.structured(RunConfig), words)
    assert OmegaConf.select(found, key) == value

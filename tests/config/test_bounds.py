"""Bounds beside their fields: every number has two, they are checked everywhere, and they are shown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from gra_hpc.config import explain, presets
from gra_hpc.config.fields import Bounds, bounded_values, bounds_of, setting, unfrozen
from gra_hpc.config.settings import RunConfig
from gra_hpc.config.typed_yaml import types_of
from gra_hpc.errors import ConfigError
from gra_hpc.evaluation import config as evaluation
from gra_hpc.evaluation.config import EvaluateConfig
from gra_hpc.experiments import config as experiments
from gra_hpc.experiments.config import ExperimentConfig
from gra_hpc.training import config as training
from gra_hpc.training.config import FinetuneConfig

ANY_WHOLE_NUMBER = {"method.seed"}
"""Numbers of 64 bits, which `presets` checks."""


def numbers(kind: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Every field of a configuration that holds numbers, with its key."""
    for f in dataclasses.fields(kind):
        hint = types_of(kind)[f.name]
        inner = [hint, *get_args(hint)]
        if {int, float} & set(inner):
            yield f"{prefix}{f.name}", f
        for part in inner:
            if dataclasses.is_dataclass(part):
                yield from numbers(part, f"{prefix}{f.name}.")


@pytest.mark.parametrize("kind", [RunConfig, FinetuneConfig, EvaluateConfig, ExperimentConfig])
def test_every_number_has_two_bounds_and_a_default_within(kind: type) -> None:
    found = dict(numbers(kind))
    assert found
    for key, f in found.items():
        if key in ANY_WHOLE_NUMBER:
            continue
        bounds = bounds_of(f)
        assert bounds, f"{kind.__name__}.{key} has no bounds"
        for value in (math.nan, math.inf, -math.inf):
            assert not bounds.holds(value), f"{key}: {bounds} allows {value}"
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        assert all(bounds.holds(part) for part in bounded_values(default)), f"{key}={default}: {bounds}"


@pytest.mark.parametrize(
    ("bounds", "words", "within", "without"),
    [
        ({"ge": 1, "le": 16}, "1 to 16", [1, 16], [0, 17]),
        ({"gt": 0, "le": 1}, "above 0, at most 1", [0.001, 1], [0, 1.001]),
        ({"ge": 0, "lt": 1}, "0 to below 1", [0, 0.999], [-0.1, 1]),
        ({"gt": 0, "lt": 1}, "above 0, below 1", [0.5], [0, 1]),
        ({"ge": 0.5, "le": 1_000_000}, "0.5 to 1,000,000", [0.5], [0.4, 1e7]),
        ({"choices": ("a", "b", "c")}, "a, b or c", ["a", "c"], ["", "d"]),
        ({"needed": "a file"}, "a file", ["x"], ["", "???"]),
    ],
)
def test_bounds_in_words(bounds: dict[str, Any], words: str, within: list[Any], without: list[Any]) -> None:
    b = Bounds(**bounds)
    assert str(b) == words
    assert all(map(b.holds, within)) and not any(map(b.holds, without))


def test_a_field_is_frozen_unless_it_says_otherwise() -> None:
    @dataclasses.dataclass
    class Made:
        a: list[int] = setting([1], ge=0, le=9)
        b: int = unfrozen(2)

    first, second = Made(), Made()
    first.a.append(3)
    assert second.a == [1], "each has a list of its own"
    a, b = dataclasses.fields(Made)
    assert (a.metadata.get("fingerprint", True), b.metadata.get("fingerprint", True)) == (True, False)
    with pytest.raises(TypeError):
        setting(1, most=3)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("launch.journal_fsync_s=.inf", "launch.journal_fsync_s=inf: expected 0 to 3,600"),
        ("launch.journal_fsync_s=.nan", "launch.journal_fsync_s=nan: expected 0 to 3,600"),
        ("launch.journal_fsync_s=1e300", "launch.journal_fsync_s=1e+300: expected 0 to 3,600"),
        ("launch.heartbeat_s=inf", "launch.heartbeat_s=inf"),
        ("engine.simulated_failures=7", "engine.simulated_failures=7.0: expected 0 to 1"),
        ("site.time_minutes=99999999", "site.time_minutes=99999999: expected 1 to 525,600"),
        ("site.memory_gb=-.inf", "site.memory_gb=-inf: expected 0 to 100,000"),
        ("models.smollm2.kv_cache_gb=.nan", "models.smollm2.kv_cache_gb=nan: expected 0 to 100,000"),
        ("models.smollm2.engine_args={rope: {factor: .inf}}", "engine_args.rope.factor=inf: expected a finite number"),
        (f"models.smollm2.engine_args={{a: {{b: {2**70}}}}}", "a.b=(71 bits): expected a number of 64 bits"),
        ("site.sbatch={x: [1, .nan]}", "site.sbatch.x=nan: expected a finite number"),
        ("method.role_sampling.reviewer.temperature=.nan", "role_sampling.reviewer.temperature=nan: expected 0 to 2"),
        (
            "method.role_sampling.judge.top_p=1",
            "role_sampling.judge=judge: expected generator, reviewer or adjudicator",
        ),
        ("release.formats=[alpaca, csv]", "release.formats=csv: expected alpaca, sharegpt or chat"),
        ("seeds.path=", "seeds.path=: expected a file or a Hub dataset id"),
    ],
)
def test_values_outside_are_refused(word: str, says: str) -> None:
    with pytest.raises(ConfigError) as e:
        presets.compose("demo", [word])
    assert says in str(e.value)


@pytest.mark.parametrize("value", ["1" * 5000, "0" + "1" * 5000, "2026-99-99", "-2026-01-01T99:00:00"])
def test_what_looks_like_a_number_or_a_date_and_is_none_gets_one_short_line(tmp_path: Path, value: str) -> None:
    for key in ("method.seed", "launch.heartbeat_s", "method.reviewers"):
        with pytest.raises(ConfigError, match=key) as e:
            presets.compose("demo", [f"{key}={value}"])
        assert len(str(e.value)) < 500 and "\n" not in str(e.value)
    preset = tmp_path / "p.yaml"
    preset.write_text(f"include: [demo]\nseeds: {{name: {value}}}\nmethod: {{seed: {value}}}\n")
    with pytest.raises(ConfigError, match=r"p\.yaml: method\.seed"):
        presets.compose(str(preset))
    preset.write_text(f"include: [demo]\nseeds: {{name: {value}}}\n")
    assert presets.compose(str(preset)).seeds.name == value, "a text stays as it was typed"


def test_the_other_configurations_too(tmp_path: Path) -> None:
    needed = ["model.path=m", "data.path=d", "site.gpus_per_node=8"]
    with pytest.raises(ConfigError, match=r"checkpoint\.every_minutes=inf: expected 0 to 525,600"):
        training.compose("paper", [*needed, "checkpoint.every_minutes=.inf"])
    with pytest.raises(ConfigError, match=r"site\.memory_gb=nan"):
        training.compose("paper", [*needed, "site.memory_gb=.nan"])
    with pytest.raises(ConfigError, match=r"deepspeed\.extra\.a\.b=inf: expected a finite number"):
        training.compose("paper", [*needed, "deepspeed.extra={a: {b: .inf}}"])
    with pytest.raises(ConfigError, match=r"backend\.kv_cache_gb=inf: expected 0 to 100,000"):
        evaluation.compose("paper", ["model.path=m", "backend.kv_cache_gb=.inf"])
    with pytest.raises(ConfigError, match=r"benchmarks\.b\.generation\.temperature=nan: expected a finite number"):
        evaluation.compose("paper", ["model.path=m", "benchmarks.b={metric: 'a,b', generation: {temperature: .nan}}"])
    with pytest.raises(ConfigError, match=r"training_seeds=-1: expected 0 to 4,294,967,295"):
        experiments.compose("paper", ["training_seeds=[0, -1]"])
    site = tmp_path / "mine.yaml"
    site.write_text("site: {gpu_memory_gb: .inf}\n")
    with pytest.raises(ConfigError, match=r"site\.gpu_memory_gb=inf: expected 0 to 100,000 -> mend .*mine\.yaml"):
        presets.site(str(site))


def test_bounds_are_shown() -> None:
    shown = list(explain.explain(presets.compose("demo")))
    assert "  # Keywords per record. [1 to 10]" in shown
    assert any(line.startswith("  # reject: ") and line.endswith(" [reject or keep]") for line in shown)


@pytest.mark.parametrize("language", ["auto", "any", "German", "Low German", "other: Klingon"])
def test_languages_that_may_be_asked_for(language: str) -> None:
    presets.compose("demo", [f"method.language={language!r}"])


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("Germn", "did you mean German?"),
        ("german", "did you mean German?"),
        ("anny", "did you mean any?"),
        ("Deutsch", "did you mean German?"),
        ("français", "did you mean French?"),
        ("Русский", "did you mean Russian?"),
        ("中文", "did you mean Chinese?"),
        ("pt-BR", "did you mean Portuguese?"),
        ("Klingon", "'other: Klingon'"),
        ("other:", "'other: NAME'"),
    ],
)
def test_a_slip_in_a_language_would_stand_in_every_prompt(language: str, said: str) -> None:
    with pytest.raises(ConfigError) as e:
        presets.compose("demo", [f"method.language={language!r}"])
    assert said in str(e.value)

"""Settings, the table, the bootstrap interval, and what an array does with what is left."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gra_hpc.config import output_settings
from gra_hpc.errors import ConfigError, FingerprintError, IncompleteError
from gra_hpc.evaluation import table
from gra_hpc.evaluation.config import compose
from gra_hpc.evaluation.directory import EvaluateDir, Result
from gra_hpc.evaluation.process.heldout import interval
from gra_hpc.storage import read_json, to_json

TEN = ["gsm8k", "math", "humaneval", "mbpp", "hellaswag", "arc_c", "gpqa", "bbh", "mmlu", "ifeval"]


def test_the_papers_ten() -> None:
    c = compose("paper", ["model.path=m"])
    assert c.names == TEN and all(b.counts for b in c.benchmarks.values())
    assert [n for n, b in c.benchmarks.items() if b.unsafe_code] == ["humaneval", "mbpp"]


@pytest.mark.slow
def test_the_tasks_exist() -> None:
    """In the installed harness: names are looked up, nothing is loaded."""
    pytest.importorskip("lm_eval")
    from gra_hpc.evaluation.process.harness import task_manager, task_name

    c = compose("paper", ["model.path=m"])
    manager = task_manager("mmlu", c.benchmarks["mmlu"])
    for name, benchmark in c.benchmarks.items():
        assert task_name(name, benchmark, manager)
    c.benchmarks["mmlu"].task = "mmluu"
    with pytest.raises(ConfigError, match=r"benchmarks\.mmlu\.task=mmluu: no such task; did you mean"):
        task_name("mmlu", c.benchmarks["mmlu"], manager)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["only=[gsm8]"], r"only=gsm8.*did you mean gsm8k"),
        (["benchmarks.gsm8k.metric=acc"], "METRIC,FILTER"),
        (["benchmarks.gsm8k.shot=3"], r"unknown key benchmarks\.gsm8k\.shot; did you mean shots"),
        (["benchmarks.mine={kind: heldout}"], r"benchmarks\.mine\.path"),
        (["backend.kind=vlm"], r"backend\.kind"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose("paper", ["model.path=m", *words])


def result(name: str, value: float, kind: str = "harness") -> Result:
    unit = "%" if kind == "harness" else "nats per token"
    return Result(name, kind, "acc,none", value, value - 1, value + 1, 100, unit, 2.0, "f", kind == "harness")


def test_merge(tmp_path: Path) -> None:
    c = compose("mini")
    out = EvaluateDir(output_settings.freeze(tmp_path / "out", c))
    with pytest.raises(IncompleteError, match=r"no result of yes_no, capitals, heldout .*-> gra evaluate"):
        table.merge(out, c)
    for name, value in (("yes_no", 60.0), ("capitals", 40.0), ("heldout", 2.5)):
        assert name in table.remaining(out, c)
        out.benchmark(name).mkdir(parents=True)
        kind = "heldout" if name == "heldout" else "harness"
        out.result(name).write_bytes(to_json(result(name, value, kind).to_dict()))
    results = table.merge(out, c)
    done = read_json(out.done)
    assert done["metrics"] == {"yes_no": 60.0, "capitals": 40.0, "heldout": 2.5, "mean": 50.0}
    assert done["intervals"]["heldout"] == [1.5, 3.5]
    assert "| heldout | 2.5000 | 1.5000 to 3.5000 | 100 |" in out.table.read_text()
    assert list(table.plain(results))[-1].split()[:2] == ["mean", "50.00"]
    with pytest.raises(FingerprintError, match="seed"):
        output_settings.freeze(tmp_path / "out", compose("mini", ["seed=1"]))


def test_interval() -> None:
    """Covers the truth about as often as it says, and is the same for the same seed."""
    draw = random.Random(1)
    covered = 0
    for trial in range(200):
        tokens = [draw.randint(5, 50) for _ in range(60)]
        losses = [n * draw.gauss(2.0, 0.5) for n in tokens]
        mean, low, high = interval(losses, tokens, 500, trial)
        assert low <= mean <= high
        covered += low <= 2.0 <= high
    assert 180 <= covered <= 198
    assert interval([1.0, 2.0], [1, 2], 100, 3) == interval([1.0, 2.0], [1, 2], 100, 3)

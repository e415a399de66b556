"""The benchmarks' data: fetched once from a Hub on the loopback device, then found without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gra_hpc.errors import IncompleteError
from gra_hpc.evaluation.config import compose
from gra_hpc.evaluation.job import stage_data
from tests.mini_hub import mini_hub

TASK = """\
task: gra_tiny
dataset_path: org/tiny
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["yes", "no"]
doc_to_target: answer
metric_list: [{metric: acc}]
"""


@pytest.mark.slow  # three processes that import the harness
def test_fetched_once_then_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    dataset, tasks = tmp_path / "dataset", tmp_path / "tasks"
    dataset.mkdir()
    tasks.mkdir()
    (tasks / "tiny.yaml").write_text(TASK)
    (dataset / "test.jsonl").write_text(json.dumps({"question": "Is water wet?", "answer": "yes"}) + "\n")
    words = ["model.path=m", f"site.scratch={tmp_path}/scratch", "only=[tiny]"]
    words.append(f"benchmarks.tiny={{task: gra_tiny, include: {tasks}, metric: 'acc,none'}}")
    config = compose("mini", words)
    said: list[str] = []
    with mini_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(IncompleteError, match="data of 1 benchmarks are missing: tiny"):
            stage_data(tmp_path / "out", config, said.append)
        hub.add("datasets/org/tiny", dataset)
        stage_data(tmp_path / "out", config, said.append)
    assert said == ["tiny: not to be had", "tiny: found without the network"]
    assert list((tmp_path / "scratch").rglob("*.arrow"))

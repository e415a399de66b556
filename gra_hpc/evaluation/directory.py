"""The directory of an evaluation.

OUT/config.yaml                          frozen when first submitted
    benchmarks/NAME/result.json          written last, whole; beside it what it rests on
    results.json  table.md  done.json    the merge; done.json is written last
    logs/  submissions/
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gra_hpc.errors import StorageError
from gra_hpc.foreign import all_fit
from gra_hpc.run.directory import JobDir
from gra_hpc.storage import read_object
from gra_hpc.terminal import word


@dataclass(frozen=True)
class EvaluateDir(JobDir):
    """Paths of one evaluation."""

    KIND = "an evaluation"
    COMMAND = "evaluate"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def table(self) -> Path:
        return self.path / "table.md"

    def benchmark(self, name: str) -> Path:
        return self.path / "benchmarks" / name

    def result(self, name: str) -> Path:
        return self.benchmark(name) / "result.json"


@dataclass
class Result:
    """What one benchmark gave."""

    name: str
    kind: str
    metric: str
    value: float
    """Per cent for the harness's shares, nats per token for a loss."""
    low: float
    high: float
    """Confidence interval of 95%."""
    questions: int
    unit: str
    seconds: float
    fingerprint: str
    counts: bool = True
    details: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Result:
        """As its job left it.

        Raises:
            StorageError: it is another one.
        """
        try:
            found = cls(**read_object(path))
            if all_fit(found):
                return found
        except TypeError:
            pass
        raise StorageError(
            f"{path}: not the result of a benchmark", f"move it away, gra evaluate {word(path.parents[2])}"
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

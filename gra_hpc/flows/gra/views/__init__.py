"""What people are shown of GRA: `before` a run, how it decides; afterwards a `sample`, and the members' `standing`.
Nothing here decides what is asked: it may change while a run is under way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gra_hpc.config.settings import RunConfig
from gra_hpc.flows.gra.views import before, sample
from gra_hpc.flows.registry import Samples, Views

if TYPE_CHECKING:
    import pyarrow as pa


def _detail(rows: pa.Table) -> pa.Array:
    from gra_hpc.flows.gra.views import bounds  # numpy and pyarrow: not for every command

    return bounds.bounds(rows)


def _standing(config: RunConfig, given: Mapping[str, Any], samples: Samples) -> Iterator[str]:
    from gra_hpc.flows.gra.views import standing

    return standing.lines(config, given, samples)


VIEWS = Views(before.plan, standing=_standing, detail=_detail, conversation=sample.lines)

"""Flows of these folders as a user's package brings them: by entry points."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint

import pytest

from gra_hpc.config import flow_sections

_CACHES = (flow_sections.section, flow_sections.config_of)


@contextmanager
def brought(name: str) -> Iterator[None]:
    """The flow of that folder is there within."""
    point = EntryPoint(name, f"tests.flows.foreign.{name}.flow:FLOW", flow_sections.GROUP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow_sections, "brought", lambda: {name: point})
        yield
    for cache in _CACHES:
        cache.cache_clear()

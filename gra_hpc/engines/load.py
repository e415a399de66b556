"""Expected work of each model per sample: calls and tokens by role, from the method's config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RoleLoad:
    """Work of one model in one role, per sample (expected values: fractions are normal)."""

    calls: float
    prompt_tokens: float
    """Over all these calls."""
    completion_tokens: float
    """Over all these calls."""
    cached_tokens: float = 0.0
    """Part of the prompt tokens that the prefix cache is expected to hold already."""


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

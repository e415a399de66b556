"""The domains of a run: the paper's seven, or the user's own (`method.domains`)."""

from __future__ import annotations

from gra_hpc.config.settings import MethodConfig
from gra_hpc.records import DOMAINS

DOMAIN_NAMES = {
    "coding": "Coding (write, understand or debug code)",
    "math": "Math",
    "qa": "QA (factual, specialised answers)",
    "reasoning": "Reasoning (causal, logical, multi-step)",
    "role_play": "Role Play",
    "language": "Language (translate, summarise, classify)",
    "creation": "Creation (original writing)",
}
"""What the Generator is told."""
DESCRIBED = (
    "coding (write, understand or debug code), math, qa (factual, specialised answers), reasoning (causal, logical,"
    " multi-step), role_play, language (translate, summarise, classify), creation (original writing)"
)
"""What a seed's domain is chosen from."""


def domains_of(method: MethodConfig) -> tuple[str, ...]:
    """Their names."""
    return tuple(method.domains) or DOMAINS


def label(method: MethodConfig, name: str) -> str:
    """A domain as the Generator is told of it."""
    return labels(method)[name]


def labels(method: MethodConfig) -> dict[str, str]:
    """All domains as the Generator is told of them."""
    own = {n: f"{n.replace('_', ' ')}{f' ({m})' if m else ''}" for n, m in method.domains.items()}
    return own or DOMAIN_NAMES


def described(method: MethodConfig) -> str:
    """The domains that a seed's is chosen from, with what they are."""
    return ", ".join(f"{n}{f' ({m})' if m else ''}" for n, m in method.domains.items()) or DESCRIBED

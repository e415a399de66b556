"""What a run's texts are signed by (`signatures/`), by its shards and by its merges."""

from __future__ import annotations

from gra_hpc.config.settings import RunConfig
from gra_hpc.run.code import signing_digest
from gra_hpc.run.plan import Plan
from gra_hpc.signatures.minhash import banding
from gra_hpc.signatures.signer import Signer
from gra_hpc.signatures.signing import Rule


def rule_of(config: RunConfig, plan: Plan) -> Rule:
    """The rule that follows from the run's settings."""
    c = config.merge
    pins = plan.benchmarks.values() if c.decontamination.sources else ()
    return Rule(
        signing_digest(),
        c.shingle,
        banding(c.fuzzy_threshold, c.permutations) if c.fuzzy else None,
        c.decontamination.ngram,
        tuple(pin.sha256 for pin in pins),
    )


def signer_of(config: RunConfig, plan: Plan) -> Signer:
    """Signs what is published."""
    return Signer(rule_of(config, plan), plan.benchmarks)

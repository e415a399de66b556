"""What a run's texts are signed by (`signatures/`), by its shards and by its merges."""

from __future__ import annotations

from gra_hpc.config.settings import RunConfig
from gra_hpc.flows.keys import RECORDS, Keys
from gra_hpc.flows.registry import flow_of
from gra_hpc.records import digest
from gra_hpc.run.code import signing_digest
from gra_hpc.run.plan import Plan
from gra_hpc.signatures.minhash import banding
from gra_hpc.signatures.signer import Signer
from gra_hpc.signatures.signing import Rule


def keys_of(config: RunConfig) -> Keys:
    """What a run's rows are compared by; those of a flow that compares none are never signed."""
    return flow_of(config).keys or RECORDS


def _code(keys: Keys) -> str:
    """What stands for the code that signs, and for the columns, where they are not those of records."""
    own = (*keys.columns, *keys.code)
    return signing_digest() if own == (*RECORDS.columns, *RECORDS.code) else digest(signing_digest(), *own)


def rule_of(config: RunConfig, plan: Plan) -> Rule:
    """The rule that follows from the run's settings."""
    c = config.merge
    pins = plan.benchmarks.values() if c.decontamination.sources else ()
    return Rule(
        _code(keys_of(config)),
        c.shingle,
        banding(c.fuzzy_threshold, c.permutations) if c.fuzzy else None,
        c.decontamination.ngram,
        tuple(pin.sha256 for pin in pins),
    )


def signer_of(config: RunConfig, plan: Plan) -> Signer:
    """Signs what is published."""
    return Signer(rule_of(config, plan), keys_of(config), plan.benchmarks)

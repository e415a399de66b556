"""What an attempt that has made all its candidates publishes: its rows in their order, with embeddings and counts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gra_hpc.flows.registry import flow_of
from gra_hpc.flows.units import Unit
from gra_hpc.records import ACCEPTED
from gra_hpc.run import attempts, gold, publish
from gra_hpc.run.attempt_state import Attempt
from gra_hpc.run.ledger import Ledger


def embeddings_of(state: Attempt) -> list[bytes | None]:
    """Embeddings of the accepted samples, so that the merge needs no GPU; None for the others."""
    out: list[bytes | None] = [state.vectors.get(s.id) for s in state.samples]
    accepted = [i for i, s in enumerate(state.samples) if s.status == ACCEPTED and out[i] is None]
    keys = flow_of(state.config).keys
    if state.plan.embed and keys and accepted and state.round_plan.round:
        from gra_hpc.models.embedder import encode

        texts = [keys.embedded(state.samples[i]) for i in accepted]
        vectors = encode(texts, Path(state.plan.embed.directory))
        for i, v in zip(accepted, vectors, strict=True):
            out[i] = v.tobytes()
    return out


def publish_all(
    state: Attempt, units: list[Unit], embeddings: list[bytes | None], stats: dict[str, Any], began: float
) -> bool:
    """Publish the shard.

    Args:
        units: all of its candidates.
        embeddings: of `state.samples`.
        stats: what the engines did.
        began: when, as a Unix time.

    Returns:
        Whether it is this attempt's work that is published; not so if another one was first.
    """
    flow, order = flow_of(state.config), {u.sample.id: i for i, u in enumerate(units)}
    rows = sorted(zip(state.samples, embeddings, strict=True), key=lambda pair: order[pair[0].id])
    ledger = Ledger.of(len(units), ((s.status, s.stage, s.reason) for s in state.samples))
    return publish.publish(
        state.shard,
        state.dir,
        fingerprint=state.plan.fingerprint,
        round_=state.round_plan.round,
        ledger=ledger,
        samples=[s for s, _ in rows],
        embeddings=[e for _, e in rows],
        calls=state.journal.used(),
        signer=state.shared.signer(state.config, state.plan) if flow.keys and state.round_plan.round else None,
        thoughts=state.plan.thinks,
        schema=flow.schema(state.plan.thought_out, state.plan.context, state.plan.propensity, state.plan.rubric),
        details={
            "basis": state.basis,
            "tokens": {k: state.tokens[k] for k in sorted(state.tokens)},
            **({"tools": dict(sorted(state.tools.items()))} if state.tools else {}),
            **({"endless_thoughts": dict(sorted(state.endless.items()))} if state.endless else {}),
            **({"gold": gold.entries(state.golden)} if state.gold else {}),
            "timings": {"started": began, "ended": time.time(), "seconds": round(state.beat.lasted, 3)},
            "host": state.beat.host,
            "engines": stats,
            "journals": [
                {
                    "attempt": s.path.parent.name,
                    "calls": s.calls,
                    "corrupt": s.corrupt,
                    "corrupt_at": s.corrupt_at,
                    "torn_bytes": s.torn,
                    "problem": s.problem,
                }
                for s in state.journal.scans
            ],
        },
        counted=lambda: {
            "corrupt_journal_lines": state.journal.corrupt,
            "unread_journals": state.journal.unread,
            "lost_calls": len(state.journal.lost),
        },
        attempts=[*attempts.earlier(state.shard, state.dir), state.dir],
    )

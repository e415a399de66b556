"""Loss on held-out, human-written answers: mean negative log-likelihood per response token, with a bootstrap interval.

The answers go through the model's chat template, and only the assistant's tokens count, its end of turn included: the
same tokens that fine-tuning learns from (`training.rank.tokens.encode`). Rows are resampled, not tokens: the tokens of
one answer are not independent.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from gra_hpc.errors import SeedError
from gra_hpc.evaluation.config import BenchmarkConfig, EvaluateConfig, located
from gra_hpc.training.examples import read_examples
from gra_hpc.training.rank.tokens import IGNORED, Encoded, encodings

log = logging.getLogger(__name__)

TOKENS_PER_BATCH = 4096
"""Tokens of one forward pass, padding included."""


def interval(
    losses: Sequence[float], tokens: Sequence[int], resamples: int, seed: int, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean loss per token over rows, and the percentile bootstrap interval of it.

    Args:
        losses: summed loss of each row, in nats.
        tokens: tokens with a loss of each row.
        resamples: draws of as many rows, with replacement.
        seed: of the draws.
        level: of the interval.
    """
    total, count = np.asarray(losses, float), np.asarray(tokens, float)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(total), (resamples, len(total)))
    means = total[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(total.sum() / count.sum()), float(low), float(high)


def rows_of(config: EvaluateConfig, benchmark: BenchmarkConfig, tokenizer: Any) -> tuple[list[Encoded], dict[str, int]]:
    """The rows as tokens, and what was left out.

    Raises:
        Unfit: the chat template takes none of them.
        SeedError: none fits into the model's context.
    """
    path = str(located(benchmark.path) or benchmark.path)
    found = read_examples(path, split="validation", limit=benchmark.limit, scratch=config.site.scratch)
    encoded = list(encodings(tokenizer, found.conversations, found.refused))
    fitting = [e for e in encoded if len(e.input_ids) <= config.model.max_model_len]
    if not fitting:
        raise SeedError(
            f"{benchmark.path}: no row of at most {config.model.max_model_len} tokens", "set model.max_model_len higher"
        )
    left_out = dict(found.refused)
    if len(fitting) < len(encoded):
        left_out["longer than model.max_model_len"] = len(encoded) - len(fitting)
    return fitting, left_out


def losses_of(model: Any, rows: Sequence[Encoded], pad: int) -> list[float]:
    """Summed loss of each row, in nats and in their order.

    Args:
        model: a causal language model of transformers.
        rows: the tokens.
        pad: id of a token to fill with.
    """
    import torch

    order = sorted(range(len(rows)), key=lambda i: len(rows[i].input_ids))
    out = [0.0] * len(rows)
    while order:
        some = [order.pop()]
        longest = len(rows[some[0]].input_ids)
        while order and (len(some) + 1) * longest <= TOKENS_PER_BATCH:
            some.append(order.pop())
        ids = torch.full((len(some), longest), pad)
        labels = torch.full((len(some), longest), IGNORED)
        mask = torch.zeros((len(some), longest), dtype=torch.long)
        for k, i in enumerate(some):
            n = len(rows[i].input_ids)
            ids[k, :n] = torch.tensor(rows[i].input_ids)
            labels[k, :n] = torch.tensor(rows[i].labels)
            mask[k, :n] = 1
        with torch.inference_mode():
            logits = model(ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False).logits
            for k, i in enumerate(some):
                out[i] = float(
                    torch.nn.functional.cross_entropy(
                        logits[k, :-1].float(), labels[k, 1:].to(model.device), ignore_index=IGNORED, reduction="sum"
                    )
                )
    return out

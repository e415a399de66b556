"""Instruction-following difficulty (IFD; Li et al. 2024), by a small causal language model in a process of its own.

For each row, the mean loss over the tokens of its response, given the instruction, over that without it. Near 0: the
instruction gives the response away; near 1: it hardly helps; above 1: it misleads. The same tokens are counted in both:
the response stands after the instruction in the scorer's own chat template (or a plain form), and alone after its
first special token.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from gra_hpc.models.worker import answered, begin

PROMPT_TOKENS, RESPONSE_TOKENS = 512, 256
"""Longer instructions lose their beginning, longer responses their end."""
BATCH_TOKENS = 2048


def difficulty(pairs: Sequence[tuple[str, str]], model_dir: Path | str, python: str = "") -> list[float | None]:
    """IFD of instruction and response pairs; none for a response without tokens.

    Raises:
        GraError: the worker failed; the message holds its last words.
    """
    if not pairs:
        return []
    with answered(
        "gra_hpc.release.diagnostics.difficulty",
        list(pairs),
        str(Path(model_dir).absolute()),
        what=f"scoring with {model_dir}",
        python=python,
        TOKENIZERS_PARALLELISM="false",
    ) as directory:
        return list(orjson.loads((directory / "scores.json").read_bytes()))


def main(directory: str, model_dir: str) -> None:
    """Worker: score the pairs it is asked for into `scores.json` of its directory."""
    pairs = begin(directory)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(model_dir, local_files_only=True, dtype=kind).to(device).eval()
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    jobs: list[tuple[int, int, list[int], list[int]]] = []
    for i, (instruction, response) in enumerate(pairs):
        answer = tokenizer(response, add_special_tokens=False)["input_ids"][:RESPONSE_TOKENS]
        if answer:
            jobs.append((i, 0, _prompt(tokenizer, instruction)[-PROMPT_TOKENS:], answer))
            jobs.append((i, 1, [first], answer))
    jobs.sort(key=lambda j: (len(j[2]) + len(j[3]), j[:2]))
    losses: list[list[float]] = [[float("nan")] * 2 for _ in pairs]
    with torch.inference_mode():
        while jobs:
            longest = len(jobs[-1][2]) + len(jobs[-1][3])
            size = max(1, BATCH_TOKENS // longest)
            batch, jobs = jobs[-size:], jobs[:-size]
            for (i, which, _, _), loss in zip(batch, _losses(model, batch, device), strict=True):
                losses[i][which] = loss
    scores = [given / alone if alone > 0 else None for given, alone in losses]  # nan > 0 is false
    (Path(directory) / "scores.json").write_bytes(orjson.dumps(scores))


def _prompt(tokenizer: Any, instruction: str) -> list[int]:
    """Tokens of the instruction as the scorer's chat template puts it, up to where the answer begins."""
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": instruction}], tokenize=False, add_generation_prompt=True
        )
    else:
        text = f"Instruction:\n{instruction}\n\nResponse:\n"
    return list(tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"])


def _losses(model: Any, batch: Sequence[tuple[int, int, list[int], list[int]]], device: str) -> list[float]:
    """Mean loss over each job's answer, in nats per token."""
    import torch

    longest = max(len(p) + len(a) for _, _, p, a in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for k, (_, _, prompt, answer) in enumerate(batch):
        ids[k, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        mask[k, : len(prompt) + len(answer)] = 1
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
    out = []
    for k, (_, _, prompt, answer) in enumerate(batch):
        at = logits[k, len(prompt) - 1 : len(prompt) + len(answer) - 1].float()
        target = torch.tensor(answer, device=at.device)
        out.append(float(torch.nn.functional.cross_entropy(at, target)))
    return out


if __name__ == "__main__":
    main(*sys.argv[1:])

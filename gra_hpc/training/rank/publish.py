"""The end of a fine-tuning job: the model, its loss curve, and last `done.json`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from gra_hpc import __version__
from gra_hpc.once import write_once
from gra_hpc.storage import full_disk_as_error, sha256, to_json, write_atomic
from gra_hpc.training.directory import FinetuneDir, checkpoints
from gra_hpc.training.rank import curve, tokens
from gra_hpc.training.rank.attempt import Attempt, history
from gra_hpc.training.rank.checkpoints import remove
from gra_hpc.whole_directory import Staging, sweep

log = logging.getLogger(__name__)

LIBRARIES = ("torch", "transformers", "trl", "deepspeed", "accelerate", "flash_attn")


def publish(attempt: Attempt, trainer: Any, began: float) -> None:
    """Save the model in a directory of its own, rename it into place, then say that the job is done.

    All ranks take part: with ZeRO-3 the weights are gathered.
    """
    out = attempt.out
    with contextlib.ExitStack() as stack, full_disk_as_error(out.path):
        staging = stack.enter_context(Staging(out.model)) if dist.get_rank() == 0 else None
        where = [str(staging.out) if staging else ""]
        dist.broadcast_object_list(where, src=0)
        trainer.save_model(where[0])
        dist.barrier()
        if staging:
            _finish(attempt, trainer, staging, began)
    dist.barrier()


def _finish(attempt: Attempt, trainer: Any, staging: Staging, began: float) -> None:
    out, config = attempt.out, attempt.config
    _generation(trainer, attempt.tokenizer, staging.out)
    (staging.out / "training_args.bin").unlink(missing_ok=True)  # a pickle, with paths of this machine
    staging.publish(better=lambda: not (out.model / "config.json").is_file())  # another copy of this job may have won
    steps = history(trainer)
    write_atomic(out.losses, curve.lines(steps))
    curve.plot(steps, out.plot, out.path.name)
    losses = [s["loss"] for s in steps]
    tenth = max(1, len(losses) // 10)
    done = {
        "kind": "finetune",
        "fingerprint": config.fingerprint,
        "model": out.model.name,
        "metrics": {
            "steps": trainer.state.global_step,
            "loss_first": losses[0],
            "loss_last": losses[-1],
            "loss_mean_last_tenth": sum(losses[-tenth:]) / tenth,
            "rows": attempt.data["rows"],
            "examples": attempt.data["examples"],
            "tokens": attempt.data["tokens"],
            "trained_tokens": attempt.data["trained_tokens"],
            "with_thoughts": attempt.data.get("with_thoughts", 0),
            "left_out": attempt.data["left_out"],
            "left_aside": attempt.data.get("left_aside", {}),
            "attempts": attempt.attempts,
            "seconds_last_attempt": round(time.time() - began, 1),
            "ranks": dist.get_world_size(),
        },
        "data": attempt.data["source"],
        "files": {p.name: sha256(p) for p in sorted(out.model.iterdir()) if p.is_file()},
        "versions": {"gra-hpc": __version__, **_versions()},
    }
    write_once(out.done, to_json(done))
    log.info("done: %s", out.model)
    clean(out, attempt)


def clean(out: FinetuneDir, attempt: Attempt) -> None:
    """Remove what only a further attempt would need."""
    for left in out.path.glob(".*.tmp"):  # of attempts that were killed while they wrote
        if left.is_file():
            left.unlink(missing_ok=True)
    for target in (out.model, out.tokens):
        sweep(target)
    if attempt.config.checkpoint.keep_at_end:
        return
    for checkpoint in checkpoints(out):
        remove(checkpoint)


def _generation(trainer: Any, tokenizer: Any, directory: Path) -> None:
    """Let engines stop where the assistant's turn ends, which need not be the base model's end-of-text token."""
    generation = trainer.model.generation_config
    ends = generation.eos_token_id
    known = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    end = tokens.end_of_turn(tokenizer)
    if end is not None and end not in known:
        generation.eos_token_id = [end, *known]
    generation.save_pretrained(str(directory))


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found

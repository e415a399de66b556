"""One attempt at a fine-tuning job, on one of its ranks: the trainer, what it starts from, and when it saves.

Checkpoints are DeepSpeed's and the Trainer's own (weights, optimiser by rank, schedule, random states, position in the
data). Each attempt writes below a directory of its own; `complete.json` comes last, after a barrier, and a checkpoint
without it is never used.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import orjson
import torch
import torch.distributed as dist
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from gra_hpc.permissions import closed_directory
from gra_hpc.signals import Stop
from gra_hpc.storage import opened_here
from gra_hpc.training.config import Dtype, FinetuneConfig
from gra_hpc.training.directory import FinetuneDir, newest
from gra_hpc.training.rank import tokens
from gra_hpc.training.rank.checkpoints import prune, refuse_foreign, seal, sweep
from gra_hpc.training.rank.meeting import WAIT_S, join
from gra_hpc.training.rank.model import load_model, load_tokenizer
from gra_hpc.training.rank.settings import deepspeed_settings

log = logging.getLogger(__name__)

TELL_S = 10
"""Seconds between two lines about the loss in the log."""
NOTHING, SAVE, STOP = 0, 1, 2


@dataclass
class Attempt:
    """What an attempt works with."""

    out: FinetuneDir
    config: FinetuneConfig
    device: str
    arguments: SFTConfig
    tokenizer: Any
    data: dict[str, Any]
    """The manifest of the prepared examples."""
    start: Path | None
    """The checkpoint it starts from."""
    attempts: int
    """How many attempts there have been, with this one."""

    @classmethod
    def begin(cls, out: FinetuneDir, config: FinetuneConfig, device: str) -> Attempt:
        """Join the other ranks, prepare the data (rank 0), and agree on where to start."""
        if device == "cpu":
            # DeepSpeed would compile an all-reduce over shared memory, on every node, when first started: that needs a
            # compiler, takes a minute, and leaves segments in /dev/shm when a rank is killed. gloo does without.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        name = os.environ["GRA_ATTEMPT"]
        join(device)
        arguments = _arguments(config, device, out.checkpoints / name)
        # DeepSpeed learns of the group that this joined: ZeRO-3 divides the model among the ranks while it is made.
        deepspeed.init_distributed(dist.get_backend(), auto_mpi_discovery=False, verbose=False)
        tokenizer = load_tokenizer(config)
        # connects them: else they would look for each other until the data are ready
        dist.broadcast_object_list([None], src=0)
        start: list[Any] = [None, None, 0]
        if dist.get_rank() == 0:
            closed_directory(out.checkpoints)
            closed_directory(out.checkpoints / name)
            data = tokens.prepare(config, tokenizer, out.tokens)
            best = newest(out)
            if best:
                refuse_foreign(best)
            sweep(out)
            start = [best and str(best.path), data, len(list(out.checkpoints.iterdir()))]
            log.info("starts from %s", f"step {best.step}" if best else "the beginning")
        dist.broadcast_object_list(start, src=0)
        path, data, attempts = start
        return cls(out, config, device, arguments, tokenizer, data, Path(path) if path else None, attempts)

    def trainer(self, stop: Stop) -> SFTTrainer:
        """The trainer, with its model and data."""
        set_seed(self.config.seed)
        trainer = SFTTrainer(
            model=load_model(self.config, self.device),
            args=self.arguments,
            train_dataset=tokens.load(self.out.tokens),
            processing_class=self.tokenizer,
            callbacks=[Saving(self, stop)],
        )
        trainer.remove_callback(PrinterCallback)  # `Saving` tells the loss
        return trainer


class Saving(TrainerCallback):
    """Decides, together with all ranks, when to save and when to stop; makes checkpoints whole."""

    def __init__(self, attempt: Attempt, stop: Stop) -> None:
        self.attempt, self.stop = attempt, stop
        self.saved = time.monotonic()
        self.told = 0.0
        self.live = Path(str(attempt.arguments.output_dir)) / "loss.jsonl"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """The most urgent wish of any rank is everybody's: a signal may reach one rank a step earlier than another."""
        wish = STOP if self.stop.asked else NOTHING
        c = self.attempt.config.checkpoint
        by_step = c.every_steps and state.global_step % c.every_steps == 0
        by_time = c.every_minutes and time.monotonic() - self.saved >= 60 * c.every_minutes
        if not wish and (by_step or by_time):
            wish = SAVE
        asked = torch.tensor(wish, device=args.device)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        wish = int(asked)
        if state.global_step >= state.max_steps:
            control.should_save = False  # the model itself comes next
            return control
        control.should_save = wish != NOTHING
        if wish == STOP:
            control.should_training_stop = True
        return control

    def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        """All ranks have written their part: name them, and so make them count."""
        dist.barrier()
        self.saved = time.monotonic()
        if dist.get_rank() == 0:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            seal(path, state.global_step)
            log.info("step %d saved", state.global_step)
            prune(self.attempt.out, self.attempt.config.checkpoint.keep)

    def on_log(self, _: Any, state: Any, *__: Any, logs: Any = None, **___: Any) -> None:
        """The losses so far, for people who watch; the ones that count go with the checkpoints."""
        if state.is_world_process_zero and logs and "loss" in logs:
            with open(self.live, "ab", opener=opened_here) as f:
                f.write(orjson.dumps({"step": state.global_step, **logs}) + b"\n")
            now = time.monotonic()
            if now - self.told >= TELL_S or state.global_step == state.max_steps:
                self.told = now
                log.info("step %d of %d: loss %.4f", state.global_step, state.max_steps, logs["loss"])


def _arguments(config: FinetuneConfig, device: str, directory: Path) -> SFTConfig:
    """The Trainer's arguments. Making them joins the ranks: their device is asked for."""
    o = config.optimizer
    arguments = SFTConfig(
        output_dir=str(directory),
        per_device_train_batch_size=o.micro_batch,
        gradient_accumulation_steps=config.accumulation,
        num_train_epochs=o.epochs,
        max_steps=o.max_steps or -1,
        learning_rate=o.learning_rate,
        lr_scheduler_type=o.schedule,
        warmup_steps=o.warmup,
        weight_decay=o.weight_decay,
        adam_beta1=o.beta1,
        adam_beta2=o.beta2,
        max_grad_norm=o.max_grad_norm,
        optim="adamw_torch",
        bf16=config.model.dtype is Dtype.bfloat16,
        gradient_checkpointing=config.model.gradient_checkpointing,
        use_cpu=device == "cpu",
        ddp_backend="gloo" if device == "cpu" else "nccl",
        ddp_timeout=WAIT_S,
        deepspeed=deepspeed_settings(config),
        # the data come as tokens with labels: see `tokens`
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=config.data.max_length,
        packing=config.data.packing,
        packing_strategy="bfd",
        save_strategy="no",  # `Saving` asks for each
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        seed=config.seed,
        data_seed=config.seed,
        dataloader_pin_memory=device == "cuda",
    )
    _ = arguments.device
    return arguments


def history(trainer: SFTTrainer) -> list[dict[str, Any]]:
    """Loss, learning rate and gradient norm of every step, from the first attempt on."""
    keys = ("loss", "learning_rate", "grad_norm", "epoch", "mean_token_accuracy", "entropy")
    return [
        {"step": entry["step"], **{k: entry[k] for k in keys if k in entry}}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]

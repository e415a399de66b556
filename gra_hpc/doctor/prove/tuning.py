"""Two steps of fine-tuning in bfloat16, as `gra finetune` makes them: its job, its ranks, its DeepSpeed."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import shutil
import signal
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from gra_hpc.config import output_settings
from gra_hpc.config.site import Executor
from gra_hpc.doctor.prove.bench import Bench
from gra_hpc.doctor.prove.outcome import NotHereError
from gra_hpc.doctor.prove.proof import Proof
from gra_hpc.errors import GraError
from gra_hpc.log_tail import last_words
from gra_hpc.training.config import (
    BaseModelConfig,
    CheckpointConfig,
    Device,
    FinetuneConfig,
    OptimizerConfig,
    RanksConfig,
    TrainingDataConfig,
    checked,
)
from gra_hpc.training.directory import FinetuneDir
from gra_hpc.workers import child_environment

log = logging.getLogger(__name__)

STEPS = 2
END_S = 10
"""A job that is told to end gets this long."""


async def tuning(proof: Proof, bench: Bench) -> str:
    """Train, and read the losses.

    Raises:
        NotHereError: the packages of fine-tuning are not installed.
        GraError: the job failed, with its last words.
    """
    missing = [name for name in ("torch", "deepspeed", "trl", "transformers") if find_spec(name) is None]
    if missing:
        raise NotHereError(f"{', '.join(missing)} not installed", "pip install 'gra-hpc[finetune]'")
    if not bench.on_cpu and not bench.gpus:
        raise NotHereError(bench.no_engines or "no device", "see node")
    ranks = min(2, bench.gpus if not bench.on_cpu else bench.node.cores)
    out = FinetuneDir(output_settings.freeze(proof.directory / "tuning", _settings(proof.directory, bench, ranks)))
    file = proof.directory / "tuning" / "job.log"
    code = await _run([sys.executable, "-P", "-m", "gra_hpc.cli", "finetune", str(out.path)], file)
    if code:
        said = last_words(file, r"^gra: (.*)", r"Error") or f"exit code {code}"
        raise GraError(said.split(" -> ")[0], f"read {file}, and the ranks' logs beside it")
    losses = [float(json.loads(line)["loss"]) for line in out.losses.read_text(encoding="utf-8").splitlines()]
    if len(losses) != STEPS or not all(map(math.isfinite, losses)):
        raise GraError(f"losses of {STEPS} steps: {losses}", f"read {file}")
    shutil.rmtree(out.model, ignore_errors=True)  # several times the room of all else here
    where = "CPU" if bench.on_cpu else "GPU"
    told = ", ".join(f"{loss:.2f}" for loss in losses)
    return f"{STEPS} steps, {ranks} rank{'s' * (ranks > 1)} on the {where}, ZeRO-2: losses {told}"


def _settings(directory: Path, bench: Bench, ranks: int) -> FinetuneConfig:
    """A job of two steps over a few rows of our own."""
    rows = directory / "rows.jsonl"
    texts = [f"What is {i} plus {i}?" for i in range(8 * STEPS)]
    lines = [{"instruction": t, "response": f"{i} plus {i} is {2 * i}."} for i, t in enumerate(texts)]
    rows.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    model = bench.model
    return checked(
        FinetuneConfig(
            model=BaseModelConfig(
                path=model.path,
                random_weights=model.load_format == "dummy",
                trust_remote_code=model.trust_remote_code,
                chat_template=model.chat_template,
            ),
            data=TrainingDataConfig(path=str(rows), max_length=128, packing=False),
            optimizer=OptimizerConfig(max_steps=STEPS, global_batch=2 * ranks, micro_batch=1),
            checkpoint=CheckpointConfig(every_minutes=0.0),
            launch=RanksConfig(per_node=ranks, device=Device.cpu if bench.on_cpu else Device.cuda),
            site=replace(bench.config.site, executor=Executor.local, gpus_per_node=0 if bench.on_cpu else ranks),
        )
    )


async def _run(command: list[str], file: Path) -> int:
    """Run a job to its end; it does not outlive this piece's time.

    Returns:
        Its exit code.
    """
    with file.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=asyncio.subprocess.STDOUT,
            env=child_environment(),
            start_new_session=True,
        )
        try:
            return await process.wait()
        finally:
            if process.returncode is None:  # its ranks end with it
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    async with asyncio.timeout(END_S):
                        await process.wait()
                except TimeoutError:
                    os.killpg(process.pid, signal.SIGKILL)
                    await process.wait()

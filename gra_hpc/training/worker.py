"""One rank of a fine-tuning job: `python -m gra_hpc.training.worker OUT`, started by `gra_hpc.launch.ranks`.

Rank, world size and rendezvous are in the environment, as torchrun sets them. It ends with code 0 when the model is
published, and with 75 when it was told to stop and has saved its state.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import warnings
from pathlib import Path

from gra_hpc import hub
from gra_hpc.errors import ConfigError, GraError
from gra_hpc.training import config as configs
from gra_hpc.training.config import Attention, Device, Dtype, FinetuneConfig
from gra_hpc.training.directory import FinetuneDir

log = logging.getLogger(__name__)

STOPPED = os.EX_TEMPFAIL
"""Exit code: told to stop; the state is saved."""


class Stop:
    """SIGUSR2 and SIGTERM, noted; the ranks agree on what to do at the end of a step."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, *_: object) -> None:
        self.asked = True


def main() -> None:
    """Train, publish, and say in the exit code how it ended."""
    stop = Stop()
    rank = int(os.environ["RANK"])
    logging.basicConfig(
        format=f"%(asctime)s %(levelname)s rank {rank} %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("gra_hpc").setLevel(logging.INFO if rank == 0 else logging.WARNING)
    # told by libraries about each other's arguments, which DeepSpeed's own configuration settles
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    hub.offline()
    out = FinetuneDir.existing(sys.argv[1])
    try:
        finished = train(out, configs.load(out.config), stop)
    except GraError as e:
        print(f"finetune: {e}", file=sys.stderr, flush=True)
        os._exit(e.exit_code)  # the other ranks may hang in a collective; the launcher ends them
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0 if finished else STOPPED)  # engines and process groups are torn down by the kernel, at once


def train(out: FinetuneDir, config: FinetuneConfig, stop: Stop) -> bool:
    """Train to the end, from the newest checkpoint if there is one.

    Returns:
        Whether it came to the end; if not, its state is saved.
    """
    device = choose_device(config)
    began = time.time()
    from gra_hpc.training.attempt import (
        Attempt,  # after the device is chosen: DeepSpeed looks when it is imported
    )
    from gra_hpc.training.publish import publish

    attempt = Attempt.begin(out, config, device)
    trainer = attempt.trainer(stop)
    trainer.train(resume_from_checkpoint=str(attempt.start) if attempt.start else None)
    if trainer.state.global_step < trainer.state.max_steps:
        return False
    publish(attempt, trainer, began)
    return True


def choose_device(config: FinetuneConfig) -> str:
    """cuda or cpu; sets what DeepSpeed reads from the environment.

    Raises:
        ConfigError: GPUs are asked for and there are none, or bfloat16 training on a CPU.
    """
    import torch

    wanted = config.launch.device
    device = "cuda" if wanted is not Device.cpu and torch.cuda.is_available() else "cpu"
    if wanted is Device.cuda and device == "cpu":
        raise ConfigError("launch.device=cuda: PyTorch sees no GPU on this node", "gra doctor SITE --job")
    if wanted is Device.auto and device == "cpu" and config.site.gpus_per_node:
        raise ConfigError(
            f"site.gpus_per_node={config.site.gpus_per_node}, but PyTorch sees no GPU on this node",
            "launch.device=cpu, or gra doctor SITE --job",
        )
    if device == "cpu":
        # Without it DeepSpeed guesses by what is installed. With it, it talks through gloo (no oneCCL is needed).
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return device


def attention(config: FinetuneConfig, device: str) -> str:
    """Transformers' name of the attention to use."""
    import importlib.util

    wanted = config.model.attention
    if wanted is not Attention.auto:
        return wanted.value
    fits = device == "cuda" and config.model.dtype is Dtype.bfloat16
    return "flash_attention_2" if fits and importlib.util.find_spec("flash_attn") else "sdpa"


def model_path(config: FinetuneConfig) -> str:
    """The directory of the model.

    Raises:
        ConfigError: neither a directory nor in a cache.
    """
    path = config.model.path
    if Path(path).is_dir():
        inner = Path(path) / "model"  # the directory of another fine-tuning job
        return str(inner if (inner / "config.json").is_file() else path)
    found = hub.find(path, config.model.revision, "model", config.site.scratch)
    if not found:
        raise ConfigError(f"model.path={path}: no such directory, and not in a cache", f"gra stage {path}")
    return str(found)


if __name__ == "__main__":
    main()

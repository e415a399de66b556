"""One rank of a fine-tuning job: `python -m gra_hpc.training.rank.worker OUT`, started by `gra_hpc.training.ranks`.

Rank, world size and rendezvous are in the environment, as torchrun sets them. It ends with code 0 when the model is
published, and with 75 when it was told to stop and has saved its state.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings

from gra_hpc.errors import GraError
from gra_hpc.log_lines import log_to_stderr
from gra_hpc.models import hub
from gra_hpc.signals import Stop
from gra_hpc.terminal import complain
from gra_hpc.training import config as configs
from gra_hpc.training.config import FinetuneConfig
from gra_hpc.training.directory import FinetuneDir
from gra_hpc.training.rank.model import choose_device

log = logging.getLogger(__name__)

STOPPED = os.EX_TEMPFAIL
"""Exit code: told to stop; the state is saved."""


def main() -> None:
    """Train, publish, and say in the exit code how it ended."""
    stop = Stop()
    rank = int(os.environ["RANK"])
    log_to_stderr(f"%(asctime)s %(levelname)s rank {rank} %(name)s: %(message)s")
    logging.getLogger("gra_hpc").setLevel(logging.INFO if rank == 0 else logging.WARNING)
    # told by libraries about each other's arguments, which DeepSpeed's own configuration settles
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    hub.offline()
    os.umask(os.umask(0) | 0o022)  # checkpoints hold pickles: whoever may write them decides what runs
    out = FinetuneDir.existing(sys.argv[1])
    try:
        finished = train(out, configs.load(out.config), stop)
    except GraError as e:
        complain(f"finetune: {e}")
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
    # after the device is chosen: DeepSpeed looks when it is imported
    from gra_hpc.training.rank.attempt import Attempt
    from gra_hpc.training.rank.publish import publish

    attempt = Attempt.begin(out, config, device)
    trainer = attempt.trainer(stop)
    trainer.train(resume_from_checkpoint=str(attempt.start) if attempt.start else None)
    if trainer.state.global_step < trainer.state.max_steps:
        return False
    publish(attempt, trainer, began)
    return True


if __name__ == "__main__":
    main()

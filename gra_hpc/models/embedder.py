"""Sentence embeddings, computed in a process of their own, so that neither the merge nor a shard imports torch.

`encode` writes the texts to a temporary directory, runs `python -m gra_hpc.models.embedder` on them
(sentence-transformers, on a GPU where there is one, offline) and reads the vectors back.
The worker dies with its parent.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gra_hpc.errors import GraError
from gra_hpc.workers import child_environment, die_with_parent, leave_signals_to_parent

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "true",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
_TAIL = 400
"""Characters of a failed worker's last words that are shown."""


def encode(
    texts: Sequence[str], model_dir: Path | str, *, python: str = "", devices: str | None = None, batch: int = 64
) -> np.ndarray:
    """Embed texts.

    Args:
        texts: what to embed; longer texts are cut at the model's length.
        model_dir: directory of a sentence-transformers model.
        python: interpreter with sentence-transformers; empty: this one.
        devices: CUDA_VISIBLE_DEVICES of the worker; none: as this process.
        batch: texts per forward pass.

    Returns:
        float16 [n, d], each row of length one.

    Raises:
        GraError: the worker failed; the message holds its last words.
    """
    import numpy as np
    import orjson

    if not texts:
        return np.empty((0, 0), np.float16)
    if not (Path(model_dir) / "config.json").is_file():
        raise GraError(
            f"{model_dir}: not a sentence embedding model (no config.json)",
            "merge.embed_model=DIR, or merge.semantic=false",
        )
    environment = child_environment(**_OFFLINE)
    if devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = devices
    with tempfile.TemporaryDirectory(prefix="gra-embed-") as temporary:
        directory = Path(temporary)
        (directory / "texts.json").write_bytes(orjson.dumps(list(texts)))
        command = [
            python or sys.executable,
            "-m",
            "gra_hpc.models.embedder",
            str(model_dir),
            str(directory),
            str(batch),
        ]
        with (
            (directory / "log").open("wb") as words,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=words, stderr=subprocess.STDOUT, env=environment
            ) as process,
        ):
            try:
                code = process.wait()
            except BaseException:
                process.kill()
                raise
        if code != 0:
            last = (directory / "log").read_text(errors="replace", encoding="utf-8").strip()[-_TAIL:]
            lines = [line for line in last.splitlines() if line.strip()]
            if "sentence_transformers" in last and "No module named" in last:
                raise GraError(
                    "embedding: sentence-transformers is not installed", "pip install 'gra-hpc[cpu]'  (or [gpu])"
                )
            raise GraError(
                f"embedding with {model_dir} failed (exit code {code}): {lines[-1] if lines else 'no output'}",
                "merge.embed_model=DIR of a sentence-transformers model, or merge.semantic=false",
            )
        vectors = np.load(directory / "vectors.npy")
    if vectors.shape[0] != len(texts):
        raise GraError(f"embedding with {model_dir}: {vectors.shape[0]} vectors for {len(texts)} texts")
    return vectors


def main(model_dir: str, directory: str, batch: str) -> None:
    """Worker: embed `texts.json` of a directory into its `vectors.npy`."""
    die_with_parent()
    leave_signals_to_parent()
    os.environ.update(_OFFLINE)
    import numpy as np
    import orjson
    from sentence_transformers import SentenceTransformer

    texts = orjson.loads((Path(directory) / "texts.json").read_bytes())
    model = SentenceTransformer(model_dir, local_files_only=True)
    vectors = model.encode(
        texts, batch_size=int(batch), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
    )
    vectors = np.asarray(vectors, np.float32)
    if not np.isfinite(vectors).all():
        raise SystemExit("the model gives vectors that are not finite")
    with (Path(directory) / "vectors.npy").open("wb") as f:
        np.save(f, vectors.astype("<f2"))


if __name__ == "__main__":
    main(*sys.argv[1:])

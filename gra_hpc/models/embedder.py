"""Sentence embeddings, computed in a process of their own, so that neither the merge nor a shard imports torch.

sentence-transformers does it, on a GPU where there is one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from gra_hpc.errors import GraError
from gra_hpc.models.worker import answered, begin
from gra_hpc.storage import read_regular

if TYPE_CHECKING:
    import numpy as np


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

    if not texts:
        return np.empty((0, 0), np.float16)
    if not (Path(model_dir) / "config.json").is_file():
        raise GraError(
            f"{model_dir}: not a sentence embedding model (no config.json)",
            "merge.embed_model=DIR, or merge.semantic=false",
        )
    _refuse_code(Path(model_dir))
    environment = {"TOKENIZERS_PARALLELISM": "true"}
    if devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = devices
    with answered(
        "gra_hpc.models.embedder",
        list(texts),
        str(Path(model_dir).absolute()),
        str(batch),
        what=f"embedding with {model_dir}",
        then="merge.embed_model=DIR of a sentence-transformers model, or merge.semantic=false",
        python=python,
        **environment,
    ) as directory:
        vectors = np.load(directory / "vectors.npy")
    if vectors.shape[0] != len(texts):
        raise GraError(f"embedding with {model_dir}: {vectors.shape[0]} vectors for {len(texts)} texts")
    return vectors


def _refuse_code(model_dir: Path) -> None:
    """Before version 6 sentence-transformers runs the modules of a local directory, whether or not its code is trusted.

    Raises:
        GraError: a module that is not its own.
    """
    for path in (*model_dir.glob("modules.json"), *model_dir.rglob("router_config.json")):
        try:
            found = orjson.loads(read_regular(path))
            listed = found["types"].values() if isinstance(found, dict) else [m["type"] for m in found]
            strange = [m for m in listed if not str(m).startswith("sentence_transformers.")]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise GraError(f"{path}: not the modules of an embedding model ({e})", "merge.embed_model=DIR") from None
        if strange:
            raise GraError(
                f"{path}: module {strange[0]} is no part of sentence-transformers: its code would run as you",
                "merge.embed_model=another one",
            )


def main(directory: str, model_dir: str, batch: str) -> None:
    """Worker: embed the texts it is asked for into `vectors.npy` of its directory."""
    texts = begin(directory)
    import numpy as np
    from sentence_transformers import SentenceTransformer

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

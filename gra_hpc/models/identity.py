"""A model's identity: a digest of all that its answers depend on, wherever its files lie.

Weights are read whole, once, at the speed of the disk or of SHA-256 (about 2 GB a second and core), and remembered by
size, times and inode in the user's own cache (`Book`): a changed byte of a file is seen, and an unchanged file is not
read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import orjson

from gra_hpc.config.settings import ModelConfig
from gra_hpc.errors import EngineError, StorageError
from gra_hpc.models.files import SMALL, WEIGHTS
from gra_hpc.owner import cache_directory
from gra_hpc.storage import read_json, to_json, write_atomic

Say = Callable[[str], object]
State = list[int]

TOLD_BYTES = 2_000_000_000
"""Reading less than this is not worth a word."""
TELL_S = 15.0
THREADS = 4
"""Files read at a time."""
_CHUNK = 4 << 20


def state_of(path: Path) -> State:
    """What changes when a file does: size, time of its content, time of any change, inode."""
    s = path.stat()
    return [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino]


class Book:
    """Digests of one directory's files, each with the state that the file had.

    Two processes that write one book at once know the same: the later one's stays.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    @classmethod
    def of(cls, directory: Path) -> Book:
        """The user's own, of a directory. What others could have written is not believed."""
        name = hashlib.blake2b(os.fsencode(directory.resolve()), digest_size=16).hexdigest()
        return cls(cache_directory() / "digests" / f"{name}.json")

    def digests(self, paths: Iterable[Path], say: Say = lambda _: None, again: bool = False) -> dict[str, str]:
        """Hex SHA-256 of files, by name.

        Args:
            paths: files of different names.
            say: told what is read, if it is much.
            again: read all of them, known or not.

        Raises:
            OSError: one cannot be read.
        """
        known = self._read()
        states = {path: state_of(path) for path in paths}
        unknown = [p for p, state in states.items() if again or known.get(p.name, [None])[0] != state]
        found = _sha256_of(unknown, sum(states[p][0] for p in unknown), say)
        if unknown:
            # What was written to meanwhile is not remembered: the next one reads it again.
            now = {p.name: (states[p], found[p.name]) for p in unknown if state_of(p) == states[p]}
            with contextlib.suppress(OSError, StorageError):  # then they are read again
                self.write({**known, **now})
        return {p.name: found.get(p.name) or known[p.name][1] for p in states}

    def states(self) -> dict[str, State]:
        """States of the files, by name, when their digests were made."""
        return {name: state for name, (state, _) in self._read().items()}

    def write(self, entries: Mapping[str, tuple[State, str]]) -> None:
        """Replace what is known, by name.

        Raises:
            OSError, StorageError: that cannot be written.
        """
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self.file, to_json({name: list(entry) for name, entry in entries.items()}), durable=False)

    def _read(self) -> dict[str, tuple[State, str]]:
        try:
            status = self.file.lstat()
            if status.st_uid != os.getuid() or status.st_mode & 0o022:
                return {}
            said = read_json(self.file)
            return {name: (list(state), str(digest)) for name, (state, digest) in said.items()}
        except (OSError, StorageError, AttributeError, TypeError, ValueError):
            return {}


def _sha256_of(paths: list[Path], total: int, say: Say) -> dict[str, str]:
    """Read files whole, several at a time."""
    if not paths:
        return {}
    done = [0] * len(paths)

    def read(number: int) -> str:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(_CHUNK))
        with paths[number].open("rb", buffering=0) as f:
            while n := f.readinto(buffer):
                digest.update(buffer[:n])
                done[number] += n
        return digest.hexdigest()

    much = total >= TOLD_BYTES
    if much:
        say(f"reading {total / 1e9:.1f} GB of {paths[0].parent} once, for their digests ...")
    with ThreadPoolExecutor(min(THREADS, len(os.sched_getaffinity(0)))) as pool:
        futures = [pool.submit(read, i) for i in range(len(paths))]
        while wait(futures, timeout=TELL_S).not_done:
            if much:
                say(f"  {sum(done) / 1e9:.1f} of {total / 1e9:.1f} GB")
        return {path.name: future.result() for path, future in zip(paths, futures, strict=True)}


def identity(
    directory: Path, model: ModelConfig, book: Book | None = None, say: Say = lambda _: None, nested: bool = False
) -> str:
    """Digest of what a model's answers depend on.

    Covers the content of the weight files and of the small files (config.json, tokenizer, chat template, code), and the
    entry's own settings that change answers. Of weights that are not loaded (`load_format=dummy`) only names and sizes.

    Args:
        book: what is known of the directory's files; none: the user's own.
        say: told what is read, if it is much.
        nested: with the small files of its directories (a sentence embedding model's `1_Pooling/config.json`).

    Raises:
        EngineError: when the directory cannot be read.
    """
    h = hashlib.blake2b(digest_size=16)
    try:
        files = [p for p in sorted(directory.iterdir()) if not p.name.startswith(".") and p.is_file()]
        weights = [p for p in files if p.suffix in WEIGHTS and model.load_format != "dummy"]
        digests = (book or Book.of(directory)).digests(weights, say)
        for path in files:
            if path.suffix in WEIGHTS:
                h.update(f"weights {path.name} {path.stat().st_size} {digests.get(path.name, '')}\n".encode())
            elif path.suffix in SMALL:
                _add(h, path, path.name)
        for path in sorted(directory.glob("*/*")) if nested else ():
            if path.suffix in SMALL and path.is_file():
                _add(h, path, str(path.relative_to(directory)))
        if model.chat_template:
            h.update(b"template\n" + Path(model.chat_template).read_bytes())
    except OSError as e:
        raise EngineError(f"{e.filename}: {e.strerror}") from None
    settings = [model.dtype, model.quantization, model.load_format, model.system_role.value, model.trust_remote_code]
    h.update(orjson.dumps(settings))
    return h.hexdigest()


def _add(h: hashlib.blake2b, path: Path, name: str) -> None:
    content = path.read_bytes()
    h.update(f"file {name} {len(content)}\n".encode())
    h.update(content)

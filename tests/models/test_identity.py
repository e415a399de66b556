"""A model's identity: of its whole content, wherever it lies; read once, and again only when a file has changed."""

from __future__ import annotations

import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from gra_hpc.config.settings import ModelConfig, SystemRole
from gra_hpc.errors import EngineError
from gra_hpc.models import identity as module
from gra_hpc.models.identity import Book, identity
from gra_hpc.owner import cache_directory
from gra_hpc.run.pins import ModelPin, verify_embed

SIZE = 1_000_000


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "a-model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"num_attention_heads": 4}))
    (path / "model.safetensors").write_bytes(os.urandom(SIZE))
    (path / "tokenizer.json").write_text("{}")
    return path


def entry(path: Path, **changes: object) -> ModelConfig:
    return replace(ModelConfig(path=str(path), max_model_len=2048), **changes)  # type: ignore[arg-type]


class Reads:
    """Counts the files that are read whole."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: list[str] = []
        real = module._sha256_of

        def counted(paths: list[Path], *rest: object) -> dict[str, str]:
            self.files += [p.name for p in paths]
            return real(paths, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(module, "_sha256_of", counted)

    def since(self) -> list[str]:
        seen, self.files = self.files, []
        return seen


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def test_identity_follows_content_not_place(model: Path, tmp_path: Path) -> None:
    one = identity(model, entry(model))
    copy = tmp_path / "elsewhere" / "snapshot"
    shutil.copytree(model, copy)
    (copy / "README.md").write_text("not part of it")
    (copy / ".cache").mkdir()
    assert identity(copy, entry(copy, max_model_len=1024, replicas=3)) == one
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in model.iterdir():
        (linked / file.name).symlink_to(file)
    assert identity(linked, entry(linked)) == one


@pytest.mark.parametrize(
    "change",
    [
        lambda d: (d / "config.json").write_text('{"num_attention_heads": 8}'),
        lambda d: (d / "tokenizer.json").write_text('{"a": 1}'),
        lambda d: os.truncate(d / "model.safetensors", SIZE - 1),
        lambda d: overwrite(d / "model.safetensors", 0, 200_000),
        lambda d: overwrite(d / "model.safetensors", SIZE - 1, 1),
        lambda d: overwrite(d / "model.safetensors", SIZE // 2, 1),
        lambda d: (d / "model.safetensors").rename(d / "other.safetensors"),
        lambda d: (d / "chat_template.jinja").write_text("new"),
    ],
)
def test_identity_changes_with_what_answers_depend_on(model: Path, change: object) -> None:
    one = identity(model, entry(model))
    change(model)  # type: ignore[operator]
    assert identity(model, entry(model)) != one


def test_identity_changes_with_settings(model: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("OWN")
    variants = [
        {}, {"dtype": "float32"}, {"quantization": "fp8"}, {"load_format": "dummy"}, {"system_role": SystemRole.no},
        {"chat_template": str(own)},
    ]  # fmt: skip
    assert len({identity(model, entry(model, **v)) for v in variants}) == len(variants)


def overwrite(file: Path, at: int, size: int) -> None:
    """Other bytes in a file of the same size, and its old time put back."""
    before = file.stat()
    with file.open("r+b") as f:
        f.seek(at)
        old = f.read(size)
        f.seek(at)
        f.write(bytes(b ^ 1 for b in old))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_weights_are_read_once(model: Path, reads: Reads) -> None:
    one = identity(model, entry(model))
    assert reads.since() == ["model.safetensors"]
    assert identity(model, entry(model, dtype="float32")) != one
    assert reads.since() == []
    (model / "second.safetensors").write_bytes(b"x")
    identity(model, entry(model))
    assert reads.since() == ["second.safetensors"]
    overwrite(model / "model.safetensors", 17, 3)
    identity(model, entry(model))
    assert reads.since() == ["model.safetensors"]
    identity(model, entry(model, load_format="dummy"))
    assert reads.since() == []


def test_a_file_of_another_inode_is_read_again(model: Path, reads: Reads) -> None:
    """Same name, size and time; it may be another model's."""
    one, file = identity(model, entry(model)), model / "model.safetensors"
    before = file.stat()
    (model / "new").write_bytes(os.urandom(SIZE))
    os.utime(model / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (model / "new").replace(file)
    assert identity(model, entry(model)) != one
    assert reads.since() == ["model.safetensors"] * 2


@pytest.mark.parametrize("damage", ["{", "[]", '{"model.safetensors": 1}', '{"model.safetensors": [[1], "x", 2]}', ""])
def test_a_damaged_book_is_an_empty_one(model: Path, reads: Reads, damage: str) -> None:
    one = identity(model, entry(model))
    Book.of(model).file.write_text(damage)
    assert identity(model, entry(model)) == one
    assert reads.since() == ["model.safetensors"] * 2


def test_what_others_could_have_written_is_not_believed(model: Path, reads: Reads) -> None:
    book = Book.of(model).file
    one = identity(model, entry(model))
    said = json.loads(book.read_text())
    said["model.safetensors"][1] = "0" * 64
    book.write_text(json.dumps(said))
    assert identity(model, entry(model)) != one, "it is believed"
    book.chmod(0o666)
    assert identity(model, entry(model)) == one
    assert reads.since() == ["model.safetensors"] * 2


def test_nowhere_to_remember(model: Path, tmp_path: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GRA_CACHE", str(tmp_path / "file" / "below"))
    assert identity(model, entry(model)) == identity(model, entry(model))
    assert reads.since() == ["model.safetensors"] * 2


def test_what_is_written_to_while_it_is_read_is_not_remembered(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module._sha256_of

    def meanwhile(paths: list[Path], *rest: object) -> dict[str, str]:
        found = real(paths, *rest)  # type: ignore[arg-type]
        overwrite(paths[0], 5, 5)
        return found

    monkeypatch.setattr(module, "_sha256_of", meanwhile)
    one = identity(model, entry(model))
    monkeypatch.undo()
    assert identity(model, entry(model)) != one


def test_two_at_once(model: Path) -> None:
    """Many directories' books are written by several threads at the same time; each stays whole."""
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(identity(model, entry(model)))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 8 and len(set(found)) == 1
    assert set(Book.of(model).states()) == {"model.safetensors"}
    assert not list((cache_directory() / "digests").glob(".*"))


def test_long_reading_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOLD_BYTES", SIZE)
    real, waits = module.wait, iter([0.0, 0.0])
    monkeypatch.setattr(module, "wait", lambda futures, timeout: real(futures, next(waits, None)))
    monkeypatch.setattr(module, "_CHUNK", 1)  # a slow disk
    said: list[str] = []
    identity(model, entry(model), say=said.append)
    assert said[0] == f"reading 0.0 GB of {model} once, for their digests ..."
    assert said[1:] == ["  0.0 of 0.0 GB"] * 2
    said.clear()
    identity(model, entry(model), say=said.append)
    assert said == []


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "1_Pooling/config.json"])
def test_an_embedding_model_that_changed_is_refused(model: Path, file: str) -> None:
    """Pooling decides its vectors too."""
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (model / "tokenizer_config.json").write_text("{}")
    pin = ModelPin.of(model, ModelConfig(path=str(model)), lambda _: None, nested=True)
    verify_embed(pin, "org/embed")
    overwrite(model / file, 0, 1)
    with pytest.raises(EngineError, match=r"changed since the run was planned -> gra fetch org/embed"):
        verify_embed(pin, "org/embed")

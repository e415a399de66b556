"""Engines of an environment without bytecode have a place for it, and others have none."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

from gra_hpc.engines import bytecode
from gra_hpc.engines.bytecode import FORBIDS, PREFIX, is_compiled, with_bytecode


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A vLLM without bytecode."""
    made = tmp_path / "site-packages" / "vllm"
    (made / "engine").mkdir(parents=True)
    (made / "engine" / "arg_utils.py").write_text("A = 1\n")
    (made / "_version.py").write_text("version = '0.32.0'\n")
    (made.parent / "vllm-0.32.0.dist-info").mkdir()
    return made


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache directory."""
    monkeypatch.setenv("GRA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_forbids_bytecode_gives_way_to_a_place_of_ones_own(package: Path, cache: Path, tmp_path: Path) -> None:
    env = with_bytecode({FORBIDS: "1", "A": "b"}, package, tmp_path)
    place = Path(env.pop(PREFIX))
    assert env == {"A": "b"} and place.parent == cache / "bytecode"
    assert place.parent.stat().st_mode & 0o777 == place.stat().st_mode & 0o777 == 0o700
    code = f"import sys; sys.path.insert(0, {str(package.parent)!r}); import vllm.engine.arg_utils"
    subprocess.run([sys.executable, "-S", "-c", code], check=True, env={PREFIX: str(place)})
    assert [p.name.split(".")[0] for p in place.rglob("arg_utils.*.pyc")] == ["arg_utils"]
    assert not list(package.rglob("*.pyc"))


def test_where_bytecode_is_or_will_be_nothing_changes(package: Path, tmp_path: Path) -> None:
    assert with_bytecode({}, package, tmp_path) == {}, "it can be written beside the sources"
    mine = {FORBIDS: "1", PREFIX: "/mine"}
    assert with_bytecode(mine, package, tmp_path) == mine
    assert with_bytecode({FORBIDS: "1"}, None, tmp_path) == {FORBIDS: "1"}
    source = package / "engine" / "arg_utils.py"
    target = source.parent / "__pycache__" / "arg_utils.cpython-311.pyc"
    for mode in (py_compile.PycInvalidationMode.TIMESTAMP, py_compile.PycInvalidationMode.UNCHECKED_HASH):
        py_compile.compile(str(source), str(target), doraise=True, invalidation_mode=mode)
        assert is_compiled(package) and with_bytecode({FORBIDS: "1"}, package, tmp_path) == {FORBIDS: "1"}
    py_compile.compile(
        str(source), str(target), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP
    )
    os.utime(source, (1, 1))
    assert not is_compiled(package), "of another source, as in images whose files were copied"


def test_another_place_where_the_cache_directory_cannot_be_used(package: Path, cache: Path, tmp_path: Path) -> None:
    cache.write_text("a file, as a read-only home is no directory to write to\n")
    env = with_bytecode({FORBIDS: "1"}, package, tmp_path / "node")
    assert Path(env[PREFIX]).parent == tmp_path / "node" / "bytecode"
    (tmp_path / "node" / "bytecode").chmod(0o777)
    again = with_bytecode({FORBIDS: "1"}, package, tmp_path / "node")
    assert Path(again[PREFIX]).parent != tmp_path / "node" / "bytecode", "others could have written there"


def test_environments_of_one_path_have_bytecode_of_their_own(package: Path, cache: Path, tmp_path: Path) -> None:
    """Two images at one path, whose files all bear one time: by what is installed they are told apart."""
    first = with_bytecode({FORBIDS: "1"}, package, tmp_path)[PREFIX]
    for number in range(bytecode.MOST):
        os.utime(first, (number + 1, number + 1))
        (package.parent / f"torch-2.{number}.dist-info").mkdir()
        assert with_bytecode({FORBIDS: "1"}, package, tmp_path)[PREFIX] != first
    assert len(list((cache / "bytecode").iterdir())) == bytecode.MOST and not Path(first).exists()

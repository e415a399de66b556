"""What decides what runs as this user is read only from this user's files, which nobody else may write."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import pytest

from gra_hpc import permissions
from gra_hpc.config import presets
from gra_hpc.errors import OwnershipError
from gra_hpc.evaluation import config as evaluation
from gra_hpc.permissions import closed_directory, foreign, in_other_hands, others_may_write, ours_alone, own_bytes
from gra_hpc.run.plan import Plan
from gra_hpc.run.run import Run
from gra_hpc.training import config as training
from gra_hpc.training.directory import Checkpoint
from gra_hpc.training.rank.checkpoints import refuse_foreign
from tests.merge.fabricate import make_run, seed

root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


@pytest.mark.parametrize(("mode", "read"), [(0o600, True), (0o644, True), (0o646, False), (0o622, False)])
def test_own_bytes_by_mode(tmp_path: Path, mode: int, read: bool) -> None:
    file = tmp_path / "f"
    file.write_text("x")
    file.chmod(mode)
    if read:
        assert own_bytes(file) == b"x"
    else:
        with pytest.raises(OwnershipError, match=f"others may write it .mode {mode:o}.*chmod go-w"):
            own_bytes(file)


def test_a_group_that_is_the_user_alone_is_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many systems give every user a group of the same name, and the umask 002."""
    me = pwd.getpwuid(os.getuid())
    file = tmp_path / "f"
    file.touch()
    file.chmod(0o664)
    for name, members, private in ((me.pw_name, [], True), (me.pw_name, ["eve"], False), ("staff", [], False)):
        group = permissions.grp.struct_group((name, "x", me.pw_gid, members))
        monkeypatch.setattr(permissions.grp, "getgrgid", lambda _, group=group: group)
        permissions._private.cache_clear()
        assert others_may_write(os.stat_result((0o100664, 0, 0, 1, os.getuid(), me.pw_gid, 0, 0, 0, 0))) is not private
    permissions._private.cache_clear()


@root
def test_files_of_others(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("x")
    os.chown(file, 65534, 65534)
    assert foreign(file) and foreign(tmp_path / "nothing") and not foreign(Path("/"))
    with pytest.raises(OwnershipError, match="belongs to nobody, and would decide what runs as you -> do this"):
        own_bytes(file, "do this")
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(OwnershipError, match="belongs to"):
        own_bytes(tmp_path / "link")
    place = tmp_path / "d"
    place.mkdir()
    assert ours_alone(place) and not in_other_hands(place)
    place.chmod(0o1777)
    assert not ours_alone(place) and not in_other_hands(place)
    place.chmod(0o777)
    assert in_other_hands(place)


def test_a_closed_directory_is_closed_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = closed_directory(tmp_path / "a" / "b")
        assert stat.S_IMODE(made.stat().st_mode) == 0o755
        made.chmod(0o2777)
        assert stat.S_IMODE(closed_directory(made).stat().st_mode) == 0o2755  # what is made in it stays the group's
        assert stat.S_IMODE(closed_directory(made, 0o700).stat().st_mode) == 0o2700
        assert stat.S_IMODE(closed_directory(made).stat().st_mode) == 0o2700  # nothing is opened
    finally:
        os.umask(before)


def test_settings_that_others_may_write_are_only_looked_at(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [seed(0)], shards=1)
    for file in (run.config_file, run.plan_file):
        file.chmod(0o666)
        with pytest.raises(OwnershipError, match=f"{file.name}: others may write it"):
            Run.open(run.path)
        assert Run.to_look_at(run.path).config.models
        file.chmod(0o644)
    run.plan_file.chmod(0o666)
    with pytest.raises(OwnershipError):
        Plan.load(run, own=True)
    for load in (training.load, evaluation.load):
        (tmp_path / "config.yaml").write_text("{}")
        (tmp_path / "config.yaml").chmod(0o666)
        with pytest.raises(OwnershipError, match=r"config\.yaml: others may write it"):
            load(tmp_path / "config.yaml")


@pytest.mark.parametrize("what", ["directory", "file", "attempt", "link"])
def test_a_checkpoint_that_others_could_write_is_not_loaded(tmp_path: Path, what: str) -> None:
    """Optimiser and random states are pickles."""
    checkpoint = Checkpoint(tmp_path / "attempt" / "checkpoint-3")
    state = checkpoint.path / "global_step3" / "optim_states.pt"
    state.parent.mkdir(parents=True)
    state.write_text("x")
    refuse_foreign(checkpoint)
    {"directory": state.parent, "file": state, "attempt": checkpoint.path.parent}.get(what, tmp_path).chmod(0o777)
    if what == "link":
        state.rename(tmp_path / "elsewhere")
        state.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OwnershipError, match="others may have put it there, and what it holds runs as you"):
        refuse_foreign(checkpoint)


@pytest.mark.parametrize("what", ["directory", "file", "include", "theirs", "their directory"])
def test_presets_in_other_hands_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """They say which Python runs: `./configs` is no better than who may write it. GRA_TRUST is the way out."""
    if what.startswith("their") and os.getuid():
        pytest.skip("only root can give files away")
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/base.yaml").write_text("include: [demo]\n")
    Path("configs/mine.yaml").write_text("include: [base]\n")
    presets.compose("mine")
    if what == "directory":
        Path("configs").chmod(0o777)
    elif what in ("file", "include"):
        Path("configs/mine.yaml" if what == "file" else "configs/base.yaml").chmod(0o666)
    else:
        os.chown("configs/base.yaml" if what == "theirs" else "configs", 65534, 65534)
    for name in ("mine", "configs/mine.yaml"):
        with pytest.raises(OwnershipError, match=r"run code as you -> .*GRA_TRUST="):
            presets.compose(name)
    monkeypatch.setenv("GRA_TRUST", str(tmp_path / "configs"))
    presets.compose("mine")

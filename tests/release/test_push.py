"""Upload of a release, to a stand-in for the Hub on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import HubStandIn

from gra_hpc.errors import ReleaseError
from gra_hpc.release.push import push
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with HubStandIn() as stand_in:
        yield stand_in


def test_everything_arrives_and_is_counted(built: Run, hub: HubStandIn) -> None:
    pushed = push(built.release, "me/data", token=hub.token, endpoint=hub.url)
    names = {*read_json(built.release / "manifest.json")["files"], "manifest.json"}
    assert set(hub.files) == names and pushed.files == len(names)
    assert all(hub.files[n] == (built.release / n).read_bytes() for n in names)
    assert hub.private is True and hub.token not in str(pushed)
    assert f"{len(names)} files" in str(pushed)


def test_pushing_again_sends_nothing_and_old_files_go(built: Run, hub: HubStandIn) -> None:
    hub.files["data/train-00001-of-00002.parquet"] = b"of an earlier release"
    hub.files["notes.txt"] = b"somebody's"
    push(built.release, "me/data", token=hub.token, endpoint=hub.url)
    assert "data/train-00001-of-00002.parquet" not in hub.files and "notes.txt" in hub.files
    sent = hub.uploads
    push(built.release, "me/data", token=hub.token, endpoint=hub.url)
    assert hub.uploads == sent


def test_what_does_not_arrive_whole_is_named(built: Run, hub: HubStandIn) -> None:
    hub.spoil = "README.md"
    with pytest.raises(ReleaseError, match=r"did not arrive whole: README\.md has \d+ bytes there"):
        push(built.release, "me/data", token=hub.token, endpoint=hub.url)


def test_an_unsound_release_is_not_pushed(built: Run, hub: HubStandIn, tmp_path: Path) -> None:
    release = Path(shutil.copytree(built.release, tmp_path / "release"))
    (release / "run.yaml").unlink()
    with pytest.raises(ReleaseError, match=r"not pushed: run\.yaml: missing"):
        push(release, "me/data", token=hub.token, endpoint=hub.url)
    assert hub.requests == []


def test_a_refused_token_is_not_shown(built: Run, hub: HubStandIn) -> None:
    with pytest.raises(ReleaseError, match="upload failed") as caught:
        push(built.release, "me/data", token="hf_wrong_token", endpoint=hub.url)
    assert "hf_wrong_token" not in str(caught.value) and "hf auth login" in caught.value.then


def test_no_hub_there(built: Run, hub: HubStandIn) -> None:
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(ReleaseError, match="upload failed"):
        push(built.release, "me/data", token="x", endpoint=hub.url)
    hub.__enter__()

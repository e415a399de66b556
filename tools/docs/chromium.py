"""Chromium, driven by its DevTools protocol over a pipe: real keys, a real reload, a real download."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

CHROMIUM = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), "")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--remote-debugging-pipe", "--window-size=1000,820",
)  # fmt: skip
KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Escape": 27}


class Browser:
    """One page in a browser."""

    def __init__(self, to: BinaryIO, of: BinaryIO) -> None:
        self._to, self._of, self._id, self._session = to, of, 0, ""
        self.events: list[dict[str, Any]] = []
        """What the browser told unasked."""

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command, and wait for its result."""
        self._id += 1
        message: dict[str, Any] = {"id": self._id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while True:
            found = self._read()
            if found.get("id") == self._id:
                assert "error" not in found, found
                return dict(found["result"])
            self.events.append(found)

    def wait(self, event: str) -> dict[str, Any]:
        """The next event of a name, of those that have come already first."""
        while True:
            for i, found in enumerate(self.events):
                if found.get("method") == event:
                    return dict(self.events.pop(i)["params"])
            self.events.append(self._read())

    def _read(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._of.read(1)) != b"\0":
            assert byte, "the browser is gone"
            text += byte
        return dict(json.loads(text))

    def open(self, page: Path, downloads: Path) -> None:
        """A page, in a tab of its own."""
        self.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads), eventsEnabled=True)
        tab = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        self.ask("Page.enable")
        self.ask("Log.enable")
        self.ask("Runtime.enable")
        self.ask("Page.navigate", url=f"file://{page}")
        self.wait("Page.loadEventFired")

    def reload(self) -> None:
        self.ask("Page.reload")
        self.wait("Page.loadEventFired")

    def key(self, name: str) -> None:
        """Press a key."""
        code = KEYS.get(name) or ord(name.upper())
        text = {} if name in KEYS else {"text": name}
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=name, windowsVirtualKeyCode=code, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=name, windowsVirtualKeyCode=code)

    def write(self, text: str) -> None:
        for character in text:
            self.key(character)

    def value(self, script: str) -> Any:
        """What a script's expression is."""
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    @property
    def complaints(self) -> list[str]:
        """Errors of scripts, and what was blocked."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(e["params"]) for e in self.events if e.get("method") in kinds]


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own; it ends with the block."""
    ours_in, theirs_out = os.pipe()
    theirs_in, ours_out = os.pipe()

    def as_three_and_four() -> None:
        a, b = os.dup(theirs_in), os.dup(theirs_out)
        os.dup2(a, 3)
        os.dup2(b, 4)

    process = subprocess.Popen(
        [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}"], preexec_fn=as_three_and_four, close_fds=False,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        with os.fdopen(ours_out, "wb") as to, os.fdopen(ours_in, "rb") as of:
            one = Browser(to, of)
            yield one
            one._session = ""
            one.ask("Browser.close")
    finally:
        process.terminate()
        process.wait(30)

"""A Hub on the loopback device: enough of its HTTP interface to fetch repositories from directories."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_BYTES = 100_000
"""Larger files are stored with LFS: their digest is a SHA-256, that of the others a git blob's SHA-1."""


@dataclass
class Repo:
    """One repository at one commit."""

    files: dict[str, Path]
    gated: bool = False
    lie: set[str] = field(default_factory=set)
    """Files served with a byte changed."""

    def content(self, name: str) -> bytes:
        return self.files[name].read_bytes()

    @property
    def commit(self) -> str:
        state = hashlib.sha1()
        for name in sorted(self.files):
            state.update(f"{name} {self.files[name].stat().st_size}\n".encode())
        return state.hexdigest()

    def entry(self, name: str) -> dict[str, Any]:
        """Size and digests of a file, as the tree lists them."""
        data = self.content(name)
        out: dict[str, Any] = {"size": len(data), "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
        if len(data) > LFS_BYTES:
            sha = hashlib.sha256(data).hexdigest()
            out["lfs"] = {"oid": sha, "sha256": sha, "size": len(data), "pointerSize": 130}
        return out


@dataclass
class MiniHub:
    """The server: `repos` maps `models/org/name` and `datasets/org/name`."""

    url: str
    repos: dict[str, Repo]
    requests: list[str] = field(default_factory=list)

    def add(self, name: str, directory: Path, **options: Any) -> Repo:
        """Serve a directory."""
        files = {str(p.relative_to(directory)): p for p in sorted(directory.rglob("*")) if p.is_file()}
        self.repos[name] = repo = Repo(files, **options)
        return repo


@contextmanager
def mini_hub() -> Iterator[MiniHub]:
    """A running server, stopped at the end of the block."""
    hub: MiniHub

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            return

        def reply(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.requests.append(f"{self.command} {path}")
            parts = path.split("/")
            if parts[0] == "api":
                self.api(parts[1], "/".join(parts[2:4]), parts[4:])
            else:
                kind = "datasets" if parts[0] == "datasets" else "models"
                rest = parts[1:] if kind == "datasets" else parts
                self.resolve(kind, "/".join(rest[:2]), rest[2:])

        def repo(self, kind: str, name: str) -> Repo | None:
            repo = hub.repos.get(f"{kind}/{name}")
            if repo is None:
                self.reply(404, b"{}", X_Error_Code="RepoNotFound")
            elif repo.gated:
                self.reply(403, b"{}", X_Error_Code="GatedRepo")
                return None
            return repo

        def api(self, kind: str, name: str, rest: list[str]) -> None:
            repo = self.repo(kind, name)
            if repo is None:
                return
            if rest[:1] == ["revision"] and rest[1] not in ("main", repo.commit):
                self.reply(404, b"{}", X_Error_Code="RevisionNotFound")
                return
            entries = {n: repo.entry(n) for n in repo.files}
            if rest[:1] == ["tree"]:
                body: Any = [{"type": "file", "path": n, **e} for n, e in entries.items()]
            else:
                siblings = [
                    {"rfilename": n, "size": e["size"], "blobId": e["oid"], **({"lfs": e["lfs"]} if "lfs" in e else {})}
                    for n, e in entries.items()
                ]
                body = {"id": name, "sha": repo.commit, "siblings": siblings, "private": False, "tags": []}
                body |= {"downloads": 0, "likes": 0, "modelId": name}
            self.reply(200, json.dumps(body).encode(), Content_Type="application/json")

        def resolve(self, kind: str, name: str, rest: list[str]) -> None:
            repo = self.repo(kind, name)
            if repo is None:
                return
            file = "/".join(rest[2:])
            if rest[0] != "resolve" or file not in repo.files:
                self.reply(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=repo.commit)
                return
            data, entry = repo.content(file), repo.entry(file)
            if file in repo.lie:
                data = data[:-1] + bytes([data[-1] ^ 1])
            etag = entry["lfs"]["sha256"] if "lfs" in entry else entry["oid"]
            self.reply(200, data, ETag=f'"{etag}"', X_Repo_Commit=repo.commit)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub = MiniHub(f"http://127.0.0.1:{server.server_port}", {})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()

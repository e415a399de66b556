"""A stand-in for the Hub's upload protocol on a local port: what huggingface_hub asks for, kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote, urlsplit


@dataclass
class HubStandIn:
    """Serves one dataset repository on 127.0.0.1."""

    token: str = "hf_secret"
    spoil: str = ""
    """A file of which the last byte is lost."""
    files: dict[str, bytes] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)
    as_lfs: set[str] = field(default_factory=set)
    commits: int = 0
    private: bool | None = None
    uploads: int = 0
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> HubStandIn:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def oid(self) -> str:
        return hashlib.sha1(str(self.commits).encode()).hexdigest()

    def entry(self, path: str) -> dict[str, object]:
        """A file as the tree lists it."""
        data = self.files[path]
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        out: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": blob}
        if path in self.as_lfs:
            out["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return out


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            out = b""
            while size := int(self.rfile.readline(), 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, value: object, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _handle(self) -> None:
        hub, path, body = self.hub, unquote(urlsplit(self.path).path), self._body()
        hub.requests.append(f"{self.command} {path}")
        if path.startswith("/upload/"):
            hub.lfs[path.removeprefix("/upload/")] = body
            hub.uploads += 1
            return self._answer({})
        if self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._answer({"error": "Invalid credentials"}, 401)
        if path == "/api/repos/create":
            asked = json.loads(body)
            hub.private = asked.get("private", asked.get("visibility") == "private")
            return self._answer({"url": f"{hub.url}/datasets/me/{asked['name']}", "id": f"me/{asked['name']}"})
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            return self._answer({"transfer": "basic", "objects": [self._object(o) for o in objects]})
        if "/preupload/" in path:
            return self._answer({"files": [self._mode(f) for f in json.loads(body)["files"]]})
        if "/commit/" in path:
            self._commit(body)
            return self._answer(
                {"success": True, "commitOid": hub.oid, "commitUrl": f"{hub.url}/datasets/me/data/commit/{hub.oid}"}
            )
        if "/tree/" in path:
            return self._answer([hub.entry(p) for p in sorted(hub.files)])
        if path.startswith("/api/datasets/"):
            siblings = [{"rfilename": p} for p in sorted(hub.files)]
            return self._answer({"id": "me/name", "sha": hub.oid, "siblings": siblings, "private": True})
        return self._answer({"error": f"not here: {path}"}, 404)

    do_GET = do_POST = do_PUT = do_HEAD = _handle

    def _mode(self, file: dict[str, object]) -> dict[str, object]:
        path = str(file["path"])
        mode = "lfs" if path.endswith((".parquet", ".html")) else "regular"
        oid = self.hub.entry(path) if path in self.hub.files else None
        remote = (oid.get("lfs") or {"oid": oid["oid"]})["oid"] if oid else None  # type: ignore[index]
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": remote}

    def _object(self, asked: dict[str, object]) -> dict[str, object]:
        if asked["oid"] in self.hub.lfs:
            return dict(asked)
        return {**asked, "actions": {"upload": {"href": f"{self.hub.url}/upload/{asked['oid']}"}}}

    def _commit(self, body: bytes) -> None:
        hub = self.hub
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                hub.files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                hub.files[value["path"]] = hub.lfs[value["oid"]]
                hub.as_lfs.add(value["path"])
            elif item["key"] == "deletedFile":
                hub.files.pop(value["path"], None)
        if hub.spoil in hub.files:
            hub.files[hub.spoil] = hub.files[hub.spoil][:-1]
        hub.commits += 1

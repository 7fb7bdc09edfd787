"""A stand-in for Hugging Face's hub on the loopback: repositories are dictionaries of files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHA = "a" * 40


class Hub:
    """What the server has, and what it was asked for.

    Attributes:
        files: repository -> name -> content.
        asked: method and path of every request.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._get(body=False)

    def do_GET(self) -> None:
        self._get(body=True)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.asked.append(f"POST {self.path}")
        commit = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/[^/?]+.*", self.path)
        if self.path == "/api/repos/create":
            about = json.loads(data)
            name = f"{about.get('organization') or 'me'}/{about['name']}"
            self.hub.files.setdefault(name, {})
            self._json({"url": f"{self.hub.url}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif commit and commit[2] == "preupload":
            asked = json.loads(data)["files"]
            self._json(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked
                    ]
                }
            )
        elif commit:
            for line in data.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.hub.files[commit[1]][entry["value"]["path"]] = content
            self._json(
                {"commitUrl": f"{self.hub.url}/{commit[1]}/commit/{SHA}", "commitOid": SHA, "success": True}
            )
        else:
            self._error()

    def _get(self, body: bool) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path)
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        if info and info[1] in self.hub.files:
            names = [{"rfilename": name} for name in self.hub.files[info[1]]]
            self._json(
                {"id": info[1], "modelId": info[1], "sha": SHA, "siblings": names, "private": False}, body
            )
        elif tree and tree[1] in self.hub.files:
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                for name, content in self.hub.files[tree[1]].items()
            ]
            self._json(entries, body)
        elif file and file[2] in self.hub.files.get(file[1], {}):
            content = self.hub.files[file[1]][file[2]]
            self._answer(200, content, body, {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": SHA})
        else:
            self._error()

    def _json(self, value: Any, body: bool = True) -> None:
        self._answer(200, json.dumps(value).encode(), body, {"Content-Type": "application/json"})

    def _error(self) -> None:
        self._answer(404, b'{"error": "not found"}', self.command != "HEAD", {"X-Error-Code": "RepoNotFound"})

    def _answer(self, status: int, content: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


def _etag(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    """A server for the time of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(hub: Hub | None, folder: Any, monkeypatch: Any) -> None:
    """Let huggingface_hub use this server (None: be offline), and a cache folder of its own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", hub is None)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9" if hub is None else hub.url)
    template = f"{constants.ENDPOINT}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)

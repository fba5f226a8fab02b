"""A Hugging Face hub on this machine: the three requests that fetching a model makes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """``files`` of the one repository ``repository``. The first answer with the content of ``breaks`` ends half-way."""

    daemon_threads = True

    def __init__(self, repository: str, files: dict[str, bytes], breaks: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository, self.files, self.breaks = repository, files, breaks
        #: SHA-256 that it says, where not the true one.
        self.lies: dict[str, str] = {}
        #: Name and first byte of every content that was asked for.
        self.asked: list[tuple[str, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def sha256(self, name: str) -> str:
        return self.lies.get(name) or hashlib.sha256(self.files[name]).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, content: bool) -> None:
        hub, (path, _, query) = self.server, self.path.lstrip("/").partition("?")
        if path.startswith(f"api/models/{hub.repository}"):
            siblings = []
            for name, data in hub.files.items():
                stored = {"size": len(data), "sha256": hub.sha256(name), "pointerSize": 1}
                more = {"size": len(data), "blobId": "0" * 40, "lfs": stored} if "blobs=" in query else {}  # only if asked for
                siblings.append({"rfilename": name, **more})
            card = {"license": "apache-2.0"}
            about = {"id": hub.repository, "sha": COMMIT, "siblings": siblings, "cardData": card, "private": False, "tags": []}
            self._send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})
            return
        name = path.removeprefix(f"{hub.repository}/resolve/{COMMIT}/")
        if name not in hub.files:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        data = hub.files[name]
        wanted = self.headers.get("Range", "")
        first = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted.startswith("bytes=") and content else 0
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hub.sha256(name)}"', "Accept-Ranges": "bytes"}
        if content:
            hub.asked.append((name, first))
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        short = content and hub.breaks == name
        self._send(206 if first else 200, data[first:], headers, content, len(data) // 2 if short else None)
        if short:
            hub.breaks = ""
            self.close_connection = True

    def _send(self, code: int, body: bytes, headers: dict[str, str], content: bool = True, limit: int | None = None) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if content and self.command == "GET":
            self.wfile.write(body[:limit])


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()

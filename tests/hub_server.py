"""The few routes of the Hugging Face hub that its client needs to download a snapshot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit


class HubServer(ThreadingHTTPServer):
    """One repository. `revisions`: names of branches or tags -> commit; `files`: path -> content,
    the same at every commit. `requests` holds what was asked for: `METHOD /path`."""

    def __init__(
        self, repository: str, revisions: Mapping[str, str], files: Mapping[str, bytes]
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository = repository
        self.revisions = dict(revisions)
        self.files = dict(files)
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(server: HubServer) -> Iterator[HubServer]:
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are kept, not printed."""

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        status, headers, body = self._found(path)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _found(self, path: str) -> tuple[int, dict[str, str], bytes]:
        api, files = f"/api/models/{self.server.repository}/", f"/{self.server.repository}/resolve/"
        if path.startswith(f"{api}revision/"):
            commit = self.server.revisions.get(path.removeprefix(f"{api}revision/"))
            if commit is None:
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            return _json({"id": self.server.repository, "sha": commit, "siblings": []})
        if path.startswith(f"{api}tree/"):
            return _json([_entry(path, content) for path, content in self.server.files.items()])
        if path.startswith(files):
            commit, _, name = path.removeprefix(files).partition("/")
            content = self.server.files[name]
            return 200, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": commit}, content
        return 404, {"X-Error-Code": "RepoNotFound"}, b""


def _json(content: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _entry(path: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()

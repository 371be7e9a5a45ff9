"""The routes of the Hugging Face hub that its client needs to make repositories, to commit to them
(LFS for *.gguf) and to download from them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Repository:
    """`revisions`: names of branches or tags -> commit; `commits`: commit -> path -> content.
    Without the server's token a private one is not seen; the files of a gated one are refused."""

    revisions: dict[str, str]
    commits: dict[str, dict[str, bytes]]
    private: bool = False
    gated: bool = False
    messages: list[str] = field(default_factory=list)

    def commit_of(self, revision: str) -> str | None:
        commit = self.revisions.get(revision, revision)
        return commit if commit in self.commits else None


class HubServer(ThreadingHTTPServer):
    """A hub, at first with one repository that has the same files at every commit, or with none.

    `requests` holds what was asked for: `METHOD /path`; `authorizations` what each said of who
    asks; `ranges` which parts of files were asked for. token: the one that may write, and see what
    is private. cut_after: bytes after which the next bodies that are longer, of a download or an
    upload, are cut off, one for each item. before_commit: called before each commit is looked at.
    """

    def __init__(
        self,
        repository: str | None = None,
        revisions: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
        *,
        token: str | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        if repository is not None:
            named = dict(revisions or {})
            commits = {commit: dict(files or {}) for commit in named.values()}
            self.repositories[repository] = Repository(named, commits)
        self.token = token
        self.objects: dict[str, bytes] = {}
        self.cut_after: list[int] = []
        self.before_commit: Callable[[], None] = lambda: None
        self.requests: list[str] = []
        self.authorizations: list[str | None] = []
        self.ranges: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes in the middle is what some tests are about."""


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


class _Cut(Exception):
    """The connection ends in the middle of a body."""


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_GET(self) -> None:
        self._answer(self._read)

    def do_HEAD(self) -> None:
        self._answer(self._read)

    def do_POST(self) -> None:
        self._answer(self._write)

    def do_PUT(self) -> None:
        self._answer(self._store)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are kept, not printed."""

    def _answer(self, find: Any) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        self.server.authorizations.append(self.headers["Authorization"])
        try:
            status, headers, body = find(path)
            self._send(status, headers, body)
        except _Cut:
            self.close_connection = True

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        length = len(body)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if asked and status == 200:
            first = int(asked[1])
            self.server.ranges.append(asked[0])
            headers = {**headers, "Content-Range": f"bytes {first}-{length - 1}/{length}"}
            status, body = 206, body[first:]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            limit = self._limit(len(body))
            self.wfile.write(body if limit is None else body[:limit])
            if limit is not None:
                raise _Cut

    def _limit(self, length: int) -> int | None:
        """Returns after how many bytes this body is to be cut off; None for not at all."""
        limits = self.server.cut_after
        return limits.pop(0) if limits and length > limits[0] else None

    def _body(self) -> bytes:
        length = int(self.headers["Content-Length"])
        limit = self._limit(length)
        body = self.rfile.read(length if limit is None else limit)
        if limit is not None:
            raise _Cut
        return body

    @property
    def _known(self) -> bool:
        return self.headers["Authorization"] == f"Bearer {self.server.token}"

    def _seen(self, name: str) -> Repository | None:
        repository = self.server.repositories.get(name)
        hidden = repository is not None and repository.private and not self._known
        return None if hidden else repository

    def _read(self, path: str) -> Answer:
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            name, kind, revision = found.groups()
            repository = self._seen(name)
            if repository is None:
                return _missing("RepoNotFound")
            commit = repository.commit_of(revision or "main")
            if commit is None:
                return _missing("RevisionNotFound")
            files = repository.commits[commit]
            if kind == "tree":
                return _json([_entry(path, content) for path, content in files.items()])
            about = {"id": name, "sha": commit, "siblings": [], "private": repository.private}
            return _json(about)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(*found.groups())
        return _missing("RepoNotFound")

    def _file(self, name: str, revision: str, path: str) -> Answer:
        repository = self._seen(name)
        if repository is None:
            return _missing("RepoNotFound")
        if repository.gated and not self._known:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        commit = repository.commit_of(revision)
        if commit is None:
            return _missing("RevisionNotFound")
        content = repository.commits[commit].get(path)
        if content is None:
            status, headers, body = _missing("EntryNotFound")
            return status, {**headers, "X-Repo-Commit": commit}, body
        oid = _sha256(content) if _is_large(path) else _oid(content)
        return 200, {"ETag": f'"{oid}"', "X-Repo-Commit": commit}, content

    def _write(self, path: str) -> Answer:
        body = self._body()
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if not self._known:
            return _refused()
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/(batch|verify)", path):
            return self._large(found[2], json.loads(body))
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/([^/]+)", path)
        repository = self._seen(found[1]) if found else None
        if found is None or repository is None:
            return _missing("RepoNotFound")
        kind, revision = found[2], found[3]
        if kind == "branch":
            if revision in repository.revisions:
                return 409, {}, b"{}"
            repository.revisions[revision] = repository.revisions["main"]
            return _json({})
        if revision not in repository.revisions:
            return _missing("RevisionNotFound")
        if kind == "preupload":
            return _json({"files": [_mode(file["path"]) for file in json.loads(body)["files"]]})
        lines = [json.loads(line) for line in body.splitlines()]
        return self._commit(found[1], repository, revision, lines)

    def _create(self, asked: Mapping[str, Any]) -> Answer:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repositories:
            return 409, {}, json.dumps({"url": f"{self.server.url}/{name}"}).encode()
        first = {".gitattributes": b"*.gguf filter=lfs\n"}
        commit = _commit_id(first, "")
        self.server.repositories[name] = Repository(
            {"main": commit}, {commit: first}, private=asked.get("visibility") == "private"
        )
        return _json({"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def _large(self, kind: str, asked: Mapping[str, Any]) -> Answer:
        if kind == "verify":
            stored = self.server.objects.get(asked["oid"])
            whole = stored is not None and len(stored) == asked["size"]
            return _json({}) if whole else (404, {}, b"{}")
        objects = []
        for each in asked["objects"]:
            wanted = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.server.objects:
                base = urlsplit(self.path).path.removesuffix("/batch")
                wanted["actions"] = {
                    "upload": {"href": f"{self.server.url}/large/{each['oid']}", "header": {}},
                    "verify": {"href": f"{self.server.url}{base}/verify", "header": {}},
                }
            objects.append(wanted)
        return _json({"transfer": "basic", "objects": objects})

    def _store(self, path: str) -> Answer:
        body, oid = self._body(), path.removeprefix("/large/")
        if _sha256(body) != oid:
            return 422, {}, b"{}"
        self.server.objects[oid] = body
        return 200, {}, b""

    def _commit(
        self, name: str, repository: Repository, revision: str, lines: list[dict[str, Any]]
    ) -> Answer:
        self.server.before_commit()
        head = repository.revisions[revision]
        files = dict(repository.commits[head])
        (header,) = [line["value"] for line in lines if line["key"] == "header"]
        if header.get("parentCommit", head) != head:
            return 412, {}, b'{"error": "A commit has happened since. Please refresh."}'
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server.objects:
                    return 400, {}, b'{"error": "a large file was not uploaded"}'
                files[value["path"]] = self.server.objects[value["oid"]]
        commit = _commit_id(files, head)
        repository.commits[commit] = files
        repository.revisions[revision] = commit
        repository.messages.append(header["summary"])
        return _json(
            {"commitUrl": f"{self.server.url}/{name}/commit/{commit}", "commitOid": commit}
        )


def _json(content: object) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _missing(code: str) -> Answer:
    return 404, {"X-Error-Code": code}, b""


def _refused() -> Answer:
    message = "Invalid credentials in Authorization header"
    return 401, {"X-Error-Message": message}, json.dumps({"error": message}).encode()


def _mode(path: str) -> dict[str, object]:
    mode = "lfs" if _is_large(path) else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False}


def _entry(path: str, content: bytes) -> dict[str, object]:
    entry = {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
    if _is_large(path):
        entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
    return entry


def _is_large(path: str) -> bool:
    return path.endswith(".gguf")


def _commit_id(files: Mapping[str, bytes], parent: str) -> str:
    entries = [f"{path} {_oid(content)}" for path, content in sorted(files.items())]
    return _oid("\n".join([parent, *entries]).encode())


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

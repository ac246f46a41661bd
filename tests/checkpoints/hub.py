"""A hub small enough to break: what huggingface_hub asks of one repository, over HTTP."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

WEIGHTS = "model.safetensors"


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed says no goodbye; a traceback about it would stand in the next test's output."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Hub:
    """Serves `revisions` of one repository, of models or of datasets, and notes what was asked.

    Attributes:
        revisions: name of a branch, tag or commit to the folder that it shows.
        token: without it the repository is gated; None for an open one.
        cut: bytes of the weights after which the connection ends, once per entry.
        stall: bytes of the weights after which nothing more comes.
        claimed_size: what the weights are said to have.
        claimed_hash: what the weights are said to be.
    """

    def __init__(self, repository: str, revisions: dict[str, Path], kind: str = "models") -> None:
        self.repository = repository
        self.kind = kind
        self.revisions = revisions
        self.token: str | None = None
        self.cut: list[int] = []
        self.stall: int | None = None
        self.stalled = threading.Event()
        self.claimed_size: int | None = None
        self.claimed_hash: str | None = None
        self.asked: list[tuple[str, str, str | None]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *args: object) -> None:
                pass

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def ranges(self) -> list[str | None]:
        """The parts of the weights that were asked for."""
        return [part for method, path, part in self.asked if method == "GET" and path.endswith(WEIGHTS)]

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path = urlsplit(request.path).path
        part = request.headers.get("Range")
        self.asked.append((request.command, path, part))
        place = f"/{self.repository}/" if self.kind == "models" else f"/{self.kind}/{self.repository}/"
        api, files = f"/api/{self.kind}/{self.repository}/", f"{place}resolve/"
        if not path.startswith((api, files)):
            return refuse(request, 404, "RepoNotFound")
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return refuse(request, 401 if request.headers.get("Authorization") is None else 403, "GatedRepo")
        kind, revision, *rest = path.removeprefix(api if path.startswith(api) else place).split("/")
        folder = self.revisions.get(revision)
        if folder is None:
            return refuse(request, 404, "RevisionNotFound")
        commit = commit_of(folder)
        self.revisions[commit] = folder
        if kind == "revision":
            return send(request, {"id": self.repository, "sha": commit, "siblings": []})
        if kind == "tree":
            return send(request, [self.entry(file, folder) for file in sorted(folder.rglob("*")) if file.is_file()])
        return self.send_file(request, folder / "/".join(rest), commit, part, body)

    def entry(self, file: Path, folder: Path) -> dict[str, object]:
        entry = {
            "type": "file",
            "path": file.relative_to(folder).as_posix(),
            "size": file.stat().st_size,
            "oid": etag_of(file),
        }
        return entry | (
            {"lfs": {"oid": etag_of(file), "size": self.size(file), "pointerSize": 99}} if is_large(file) else {}
        )

    def size(self, file: Path) -> int:
        return self.claimed_size or file.stat().st_size if is_large(file) else file.stat().st_size

    def send_file(self, request: BaseHTTPRequestHandler, file: Path, commit: str, part: str | None, body: bool) -> None:
        if not file.is_file():
            return refuse(request, 404, "EntryNotFound")
        data = file.read_bytes()
        start = int(part.removeprefix("bytes=").split("-")[0]) if part else 0
        tag = self.claimed_hash if self.claimed_hash and is_large(file) else etag_of(file)
        request.send_response(206 if part else 200)
        request.send_header("ETag", f'"{tag}"')
        request.send_header("X-Repo-Commit", commit)
        if is_large(file):
            request.send_header("X-Linked-ETag", f'"{tag}"')
            request.send_header("X-Linked-Size", str(self.size(file)))
        if part:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        if not body:
            return None
        if is_large(file) and self.stall is not None:
            request.wfile.write(data[start : self.stall])
            request.wfile.flush()
            self.stalled.set()
            threading.Event().wait(60)
        elif is_large(file) and self.cut:
            request.wfile.write(data[start : self.cut.pop(0)])
            request.close_connection = True
        else:
            request.wfile.write(data[start:])
        return None


def is_large(file: Path) -> bool:
    return file.name == WEIGHTS


def etag_of(file: Path) -> str:
    return (hashlib.sha256 if is_large(file) else hashlib.sha1)(file.read_bytes()).hexdigest()


def commit_of(folder: Path) -> str:
    return hashlib.sha1(str(folder).encode()).hexdigest()


def send(request: BaseHTTPRequestHandler, content: object) -> None:
    data = json.dumps(content).encode()
    request.send_response(200)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


def refuse(request: BaseHTTPRequestHandler, status: int, code: str) -> None:
    request.send_response(status)
    request.send_header("X-Error-Code", code)
    request.send_header("X-Error-Message", "no")
    request.send_header("Content-Length", "0")
    request.end_headers()

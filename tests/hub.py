"""A hub small enough to break: what huggingface_hub asks of one repository, over HTTP, to read it and to write it."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import yaml

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
        private: whether others see it.
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
        self.private = False
        self.asked: list[tuple[str, str, str | None]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_POST(self) -> None:
                hub.take(self)

            def do_PUT(self) -> None:
                hub.take(self)

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
        if path == api.removesuffix("/"):
            path += "/revision/main"
        if not path.startswith((api, files)) or not self.revisions:
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
            found = [{"rfilename": name_of(file, folder), "size": self.size(file)} for file in files_of(folder)]
            content = {"id": self.repository, "sha": commit, "private": self.private, "siblings": found}
            return send(request, content)
        if kind == "tree":
            return send(request, [self.entry(file, folder) for file in files_of(folder)])
        return self.send_file(request, folder / "/".join(rest), commit, part, body)

    def entry(self, file: Path, folder: Path) -> dict[str, object]:
        entry = {
            "type": "file",
            "path": name_of(file, folder),
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


class Store(Hub):
    """A hub that is empty at first, and takes one repository from those who have its token.

    Attributes:
        writer: the token.
        place: where the folder of each commit is made.
        refusals: status, code and message with which a call is refused, by the end of its path.
        commits: what was said of each.
        cards: the card of each call that asked whether it is right.
        objects: content of the large file storage, by SHA-256.
        wrong: keys of a header that are refused whatever their value.
        hints: what is said of a header that is taken.
    """

    def __init__(self, repository: str, place: Path, writer: str = "secret") -> None:
        super().__init__(repository, {})
        self.writer, self.place = writer, place
        self.refusals: dict[str, tuple[int, str, str]] = {}
        self.commits: list[str] = []
        self.cards: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.wrong: list[str] = []
        self.hints: list[str] = []

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        if not self.refused(request):
            super().answer(request, body)

    def refused(self, request: BaseHTTPRequestHandler) -> bool:
        for end, (status, code, message) in self.refusals.items():
            if urlsplit(request.path).path.endswith(end):
                refuse(request, status, code, message)
                return True
        given = request.headers.get("Authorization")
        known = given == f"Bearer {self.writer}"
        if not known and given is not None:
            refuse(request, 401, "", "Invalid credentials in Authorization header")
            return True
        return False

    def take(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path).path
        self.asked.append((request.command, path, None))
        data = request.rfile.read(int(request.headers.get("Content-Length") or 0)) or chunked(request)
        if self.refused(request):
            return None
        if path.startswith("/object/"):  # its address is signed: whoever has it may write
            self.objects[path.removeprefix("/object/")] = data
            return send(request, {})
        if request.headers.get("Authorization") is None and path != "/api/validate-yaml":
            return refuse(request, 401, "", "Invalid username or password.")
        api = f"/api/models/{self.repository}"
        if path == "/api/repos/create":
            return self.create(request, json.loads(data))
        if path == "/api/validate-yaml":
            return self.validate(request, json.loads(data)["content"])
        if path == f"{api}/preupload/main":
            modes = [
                {"path": file["path"], "uploadMode": mode_of(file), "shouldIgnore": False, "oid": None}
                for file in json.loads(data)["files"]
            ]
            return send(request, {"files": modes})
        if path == f"/{self.repository}.git/info/lfs/objects/batch":
            return send(
                request, {"transfer": "basic", "objects": [self.wanted(each) for each in json.loads(data)["objects"]]}
            )
        if path == f"{api}/commit/main":
            return self.commit(request, [json.loads(line) for line in data.splitlines()])
        return refuse(request, 404, "RepoNotFound")

    def create(self, request: BaseHTTPRequestHandler, asked: dict[str, str]) -> None:
        assert f"{asked['organization']}/{asked['name']}" == self.repository
        folder = self.place / "0"
        folder.mkdir(parents=True)
        (folder / ".gitattributes").write_text("*.pte filter=lfs diff=lfs merge=lfs -text\n")
        self.revisions["main"], self.private = folder, asked.get("visibility") == "private"
        send(request, {"url": f"{self.address}/{self.repository}"})

    def validate(self, request: BaseHTTPRequestHandler, card: str) -> None:
        """What the hub is known to ask of a header, of which more is said in its documentation."""
        self.cards.append(card)
        header = yaml.safe_load(card.split("---\n")[1])
        wrong = self.wrong + [
            key for key in ("license", "library_name", "pipeline_tag") if not isinstance(header.get(key, ""), str)
        ]
        if "license_name" in header and header["license"] != "other":
            wrong.append("license_name")
        content = {
            "errors": [{"message": f"{key} is wrong"} for key in wrong],
            "warnings": [{"message": hint} for hint in self.hints],
        }
        send(request, content, 400 if wrong else 200)

    def wanted(self, each: dict[str, str]) -> dict[str, object]:
        address = {"upload": {"href": f"{self.address}/object/{each['oid']}"}}
        return dict(each) if each["oid"] in self.objects else {**each, "actions": address}

    def commit(self, request: BaseHTTPRequestHandler, lines: list[dict[str, dict[str, str]]]) -> None:
        folder = self.place / str(len(self.commits) + 1)
        shutil.copytree(self.revisions["main"], folder)
        for line in lines:
            kind, value = line["key"], line["value"]
            target = folder / value.get("path", "")
            if kind == "header":
                self.commits.append(value["summary"])
            elif kind == "deletedFile":
                target.unlink()
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(base64.b64decode(value["content"]) if kind == "file" else self.objects[value["oid"]])
        self.revisions["main"] = folder
        address = f"{self.address}/{self.repository}/commit/{commit_of(folder)}"
        send(request, {"commitUrl": address, "commitOid": commit_of(folder)})


def chunked(request: BaseHTTPRequestHandler) -> bytes:
    """The body of a request that does not say its length at first."""
    if request.headers.get("Transfer-Encoding") != "chunked":
        return b""
    data = b""
    while size := int(request.rfile.readline(), 16):
        data += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return data


def mode_of(file: dict[str, str]) -> str:
    return "lfs" if is_large(Path(file["path"])) else "regular"


def files_of(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


def name_of(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def is_large(file: Path) -> bool:
    return file.name == WEIGHTS or file.suffix == ".pte"


def etag_of(file: Path) -> str:
    return (hashlib.sha256 if is_large(file) else hashlib.sha1)(file.read_bytes()).hexdigest()


def commit_of(folder: Path) -> str:
    return hashlib.sha1(str(folder).encode()).hexdigest()


def send(request: BaseHTTPRequestHandler, content: object, status: int = 200) -> None:
    data = json.dumps(content).encode()
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


def refuse(request: BaseHTTPRequestHandler, status: int, code: str, message: str = "no") -> None:
    request.send_response(status)
    if code:
        request.send_header("X-Error-Code", code)
    request.send_header("X-Error-Message", message)
    request.send_header("Content-Length", "0")
    request.end_headers()

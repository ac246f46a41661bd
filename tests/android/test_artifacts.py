from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import artifacts
import pytest
from artifacts import Artifact, BuildError, NotServedError

CONTENT = b"what the lock names"


@pytest.fixture
def registry(monkeypatch, tmp_path):
    """A registry on this machine: what it answers by path (the last answer stays), and what it was asked for."""
    registry = SimpleNamespace(answers={}, asked=[], waits=[])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            registry.asked.append(self.path)
            answers = registry.answers.get(self.path, [(404, b"")])
            status, content = answers.pop(0) if len(answers) > 1 else answers[0]
            cut = status == "cut"  # the connection ends before all has come
            self.send_response(200 if cut else status)
            self.send_header("Content-Length", str(len(content) + (100 if cut else 0)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("ET_MAVEN", f"{address}/first/ {address}/second")
        monkeypatch.setenv("ET_NPM", f"{address}/npm")
        monkeypatch.setenv("ET_ANDROID_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(artifacts, "time", SimpleNamespace(sleep=registry.waits.append))
        yield registry
        server.shutdown()


def _artifact(content=CONTENT, **changes):
    fields = {"scope": "app", "group": "org.example.lib", "name": "part", "version": "1.2", "kind": "jar"}
    return Artifact(**{**fields, "sha256": hashlib.sha256(content).hexdigest(), **changes})


PATH = "org/example/lib/part/1.2/part-1.2.jar"


def _files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_is_downloaded_once_and_then_taken_from_the_cache(registry, tmp_path):
    registry.answers[f"/first/{PATH}"] = [(200, CONTENT)]
    path = artifacts.fetch(_artifact())
    assert path == tmp_path / "cache" / PATH
    assert path.read_bytes() == CONTENT
    assert artifacts.fetch(_artifact()) == path
    assert registry.asked == [f"/first/{PATH}"]
    assert _files(tmp_path) == [path]


@pytest.mark.parametrize("damaged", [b"", CONTENT[:-1], CONTENT + b"x"])
def test_a_damaged_file_in_the_cache_is_downloaded_again(registry, tmp_path, damaged):
    target = tmp_path / "cache" / PATH
    target.parent.mkdir(parents=True)
    target.write_bytes(damaged)
    registry.answers[f"/first/{PATH}"] = [(200, CONTENT)]
    assert artifacts.fetch(_artifact()).read_bytes() == CONTENT
    assert len(registry.asked) == 1


def test_a_download_with_another_hash_is_refused_and_leaves_nothing(registry, tmp_path):
    registry.answers[f"/first/{PATH}"] = [(200, b"something else")]
    with pytest.raises(BuildError, match=rf"/first/{PATH} has SHA-256 .*: do not use this file\.$"):
        artifacts.fetch(_artifact())
    assert _files(tmp_path) == []


def test_a_file_of_unknown_hash_is_never_used(registry, tmp_path):
    registry.answers[f"/first/{PATH}"] = [(200, CONTENT)]
    with pytest.raises(BuildError, match="do not use this file"):
        artifacts.fetch(_artifact(sha256="-"))
    assert _files(tmp_path) == []


@pytest.mark.parametrize("first", [(404, b""), (200, b"something else")])
def test_the_next_registry_is_asked_when_one_does_not_have_the_file(registry, first):
    registry.answers[f"/first/{PATH}"] = [first]
    registry.answers[f"/second/{PATH}"] = [(200, CONTENT)]
    assert artifacts.fetch(_artifact()).read_bytes() == CONTENT


def test_a_file_that_no_registry_has_is_said_to_be_not_served(registry):
    with pytest.raises(NotServedError, match=r"is not served \(404\)\.$"):
        artifacts.fetch(_artifact())
    assert registry.waits == []  # asking again would not help


def test_a_package_of_npm_is_asked_for_as_npm_names_it(registry):
    registry.answers["/npm/part/-/part-1.2.tgz"] = [(200, CONTENT)]
    assert artifacts.fetch(_artifact(group="npm", kind="tgz")).name == "part-1.2.tgz"


@pytest.mark.parametrize("trouble", [(503, b""), ("cut", CONTENT[:5])])
def test_a_download_that_fails_is_tried_again(registry, trouble):
    registry.answers[f"/first/{PATH}"] = [trouble, trouble, (200, CONTENT)]
    assert artifacts.fetch(_artifact()).read_bytes() == CONTENT
    assert len(registry.asked) == 3
    assert registry.waits == [1, 2]


@pytest.mark.parametrize("trouble", [(503, b""), ("cut", CONTENT[:5])])
def test_a_registry_that_stays_out_of_reach_is_named_though_another_lacks_the_file(registry, trouble, tmp_path):
    registry.answers[f"/first/{PATH}"] = [trouble]
    with pytest.raises(BuildError, match=rf"/first/{PATH} cannot be downloaded \(.+\): check the connection"):
        artifacts.fetch(_artifact())
    assert _files(tmp_path) == []


def test_one_file_wanted_for_two_purposes_may_come_twice_at_the_same_time(registry, monkeypatch):
    """Both downloads have been written before either is put in its place."""
    registry.answers[f"/first/{PATH}"] = [(200, CONTENT)]
    together = threading.Barrier(2, timeout=10)
    write = Path.write_bytes

    def write_and_wait(path, content):
        write(path, content)
        together.wait()

    monkeypatch.setattr(Path, "write_bytes", write_and_wait)
    files = artifacts.fetch_all([_artifact(), _artifact(scope="test")])
    assert [path.read_bytes() for path in files.values()] == [CONTENT, CONTENT]
    assert len(files) == 2
    assert len(_files(artifacts.cache_folder())) == 1


def test_a_write_that_fails_leaves_nothing_in_the_cache(registry, monkeypatch, tmp_path):
    registry.answers[f"/first/{PATH}"] = [(200, CONTENT)]
    write = Path.write_bytes

    def write_half(path, content):
        write(path, content[:3])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="No space"):
        artifacts.fetch(_artifact())
    assert _files(tmp_path) == []


def test_the_lock_is_read_as_it_was_written(tmp_path):
    wanted = [_artifact(), _artifact(scope="runtime", group="npm", kind="tgz", sha256="-")]
    artifacts.write_lock(reversed(wanted), "12ab", tmp_path / "some.lock")
    assert artifacts.read_roots(tmp_path / "some.lock") == "12ab"
    assert artifacts.read_lock(tmp_path / "some.lock") == sorted(wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["some.lock"]


def test_a_lock_need_not_say_what_it_was_made_from(tmp_path):
    (tmp_path / "some.lock").write_text("# Made by hand.\napp a:b:1 jar 00\n")
    assert artifacts.read_roots(tmp_path / "some.lock") is None


@pytest.mark.parametrize("line", ["app a:b:1 jar", "app a:b jar 00", "app a:b:1 jar 00 more", "app a:b:c:1 jar 00"])
def test_a_line_of_the_lock_that_is_wrong_is_named(tmp_path, line):
    path = tmp_path / "some.lock"
    path.write_text(f"# a comment\napp a:b:1 jar 00  # another\n\n{line}\n")
    with pytest.raises(BuildError, match=r"^some\.lock, line 4: expected"):
        artifacts.read_lock(path)

"""The stage cache: results named by what they depend on, whole or absent, safe to share.

An entry is a folder `<cache>/<stage>/<key>/` with the stage's files and an `entry.json` that lists their hashes.
It is built under a temporary name and renamed, so a reader sees all of it or nothing; a lock per key lets a second
run wait for the first one instead of doing the same work.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import hashlib
import json
import logging
import os
import platform
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from et_pipeline.host import runs, sync

log = logging.getLogger(__name__)

RECORD = "entry.json"
ABANDONED_S = 7 * 24 * 3600  # no stage fills a folder so long
_IN_THE_WAY = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
_PACKAGE = Path(__file__).parent


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_files(folder: Path, paths: Sequence[Path], tick: Callable[[int, int], None]) -> dict[str, str]:
    """SHA-256 of files by their name in the folder; `tick` takes how many bytes are read, and how many there are."""
    hashes = {}
    done, total = 0, sum(path.stat().st_size for path in paths)
    for path in paths:
        checksum = hashlib.sha256()
        with path.open("rb") as stream:
            while piece := stream.read(1 << 24):
                checksum.update(piece)
                done += len(piece)
                tick(done, total)
        hashes[path.relative_to(folder).as_posix()] = checksum.hexdigest()
    return hashes


def digest(material: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(material, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@cache
def code_version(module: str) -> str:
    """Hash of a module's source and of all of this package that it imports, however deep.

    A stage's result is reused only as long as the code that made it is the same; nobody has to remember to raise a
    version number.
    """
    sources: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _module_path(name)
        if path is None or name in sources:
            continue
        sources[name] = sha256_file(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return digest(sources)


def _module_path(name: str) -> Path | None:
    if not name.startswith(_PACKAGE.name + "."):  # the package itself is the Python API, which is above all stages
        return None
    path = _PACKAGE.joinpath(*name.split(".")[1:])
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions of the libraries that a stage's result depends on."""
    return {name: metadata.version(name) for name in names}


class Entry:
    """A finished stage result: its folder and its record."""

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        self.folder = folder
        self.record = record

    @property
    def content(self) -> str:
        """Hash of the entry's files: what later stages' keys depend on."""
        return digest(self.record["files"])

    @property
    def figures(self) -> dict[str, Any]:
        """What the stage reported."""
        return self.record["figures"]

    @property
    def cost(self) -> dict[str, float]:
        """wall_s, cpu_s and peak_rss_bytes of the run that made it."""
        return self.record["cost"]


def find(folder: Path) -> Entry | None:
    """Open an entry, or return None where there is none or its files are not what its record says."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError):
        log.warning("%s is damaged; building it again", folder / RECORD)
        return None
    for name, known in record["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != known["size"] or sha256_file(path) != known["sha256"]:
            log.warning("%s is not what it was when it was made (truncated or altered); building it again", path)
            return None
    return Entry(folder, record)


def build(
    folder: Path,
    make: Callable[[Path], tuple[dict[str, Any], dict[str, float]]],
    key: Mapping[str, Any],
    waiting: Callable[[], None] = lambda: None,
) -> tuple[Entry, bool]:
    """Return the entry at `folder`, making it first if it is not there.

    Args:
        folder: where the entry lives once it is whole.
        make: fills an empty folder and returns (figures, cost).
        key: what the entry depends on, kept in the record for people to read.
        waiting: called once if another run is building this very entry.

    Returns:
        The entry, and whether it was there already.
    """
    with locked(folder, waiting):
        entry = find(folder)
        if entry is not None:
            return entry, True
        remove_leftovers(folder)
        temporary = temporary_for(folder)
        try:
            figures, cost = make(temporary)
            files = {
                path.relative_to(temporary).as_posix(): {"size": path.stat().st_size, "sha256": sha256_file(path)}
                for path in sorted(temporary.rglob("*"))
                if path.is_file()
            }
            record = {"key": dict(key), "files": files, "figures": figures, "cost": cost}
            # Not sorted: what is read from here must have the order of what a first run hands on.
            (temporary / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
            theirs = publish(temporary, folder, lambda: find(folder))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return theirs or Entry(folder, record), False


def temporary_for(folder: Path) -> Path:
    """Make an empty folder beside `folder`, to be filled and then published; its name says who fills it."""
    # Not by tempfile, whose folders nobody else may read: this one becomes a bundle.
    temporary = folder.with_name(f"{folder.name}.{platform.node()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    return temporary


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary folders of killed runs: of this machine those whose process is gone, of others old ones.

    Who holds the lock should find no others. Where a file system has no locks that hold, somebody may fill them still.
    """
    for leftover in folder.parent.glob(f"{folder.name}.*.tmp"):
        host, _, pid = leftover.name.removeprefix(f"{folder.name}.").rsplit(".", 2)[0].rpartition(".")
        here = host == platform.node() and pid.isdigit()
        if not runs(int(pid)) if here else time.time() - leftover.stat().st_mtime > ABANDONED_S:
            shutil.rmtree(leftover, ignore_errors=True)


def publish(temporary: Path, folder: Path, good: Callable[[], Entry | None] = lambda: None) -> Entry | None:
    """Make a finished temporary folder appear under its final name, durably.

    Args:
        temporary: what `temporary_for` made.
        folder: replaced if there is one, also one that another run publishes at this moment.
        good: what is there, if it is to be kept and ours to be forgotten.

    Returns:
        What `good` found.
    """
    for path in sorted(temporary.rglob("*")):
        sync(path)
    sync(temporary)
    while True:
        try:
            temporary.rename(folder)
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
        else:
            break
        if (theirs := good()) is not None:
            return theirs
        old = temporary_for(folder)
        with contextlib.suppress(FileNotFoundError):  # others have moved it away
            folder.rename(old / "old")
        shutil.rmtree(old)
    sync(folder.parent)
    return None


@contextmanager
def locked(folder: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of a folder; `waiting` is called once if another process holds it.

    Its file stays, empty: on NFS who waits for one that is removed gets it still, and who comes makes another.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f"{folder.name}.lock")  # the kernel drops it when its holder dies
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()

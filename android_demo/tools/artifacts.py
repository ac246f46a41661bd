"""The lock file and the downloads that it names.

`dependencies.lock` holds every file that the build takes from a registry, each with its SHA-256, so that a build on any
machine uses the same bytes. Downloads are kept in a cache and checked again at each use.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "dependencies.lock"
ROOTS = "# Of the dependencies, platforms and tools that were resolved: "  # a SHA-256 follows
MAVEN = ("https://repo.maven.apache.org/maven2", "https://maven.google.com")
NPM = "https://registry.npmjs.org"
ATTEMPTS = 4
TIMEOUT_S = 60
_fetched: dict[Path, str] = {}  # SHA-256 of the files that this process has compared with the lock


class BuildError(Exception):
    """Something that the user can mend; the message is one sentence."""


class NotServedError(BuildError):
    """No registry has the file."""


@dataclass(frozen=True, order=True)
class Artifact:
    """One file of a registry.

    Attributes:
        scope: What it is for: 'core', 'engine' and 'app' (in the APK, for that module), 'core-test', 'test',
            'platform' (only sets versions of others), 'compiler', 'dokka', 'merger', 'tool', 'gradle', 'robolectric',
            'runtime'.
        group: Maven's group, or 'npm'.
        name: Maven's artifact, or the npm package.
        version: Its version.
        kind: File name extension.
        sha256: Of the content; '-' if it is not known, and then the file must not be used.
    """

    scope: str
    group: str
    name: str
    version: str
    kind: str
    sha256: str

    @property
    def path(self) -> str:
        """Path in a repository."""
        if self.group == "npm":
            return f"{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.{self.kind}"
        return f"{self.group.replace('.', '/')}/{self.name}/{self.version}/{self.name}-{self.version}.{self.kind}"

    @property
    def repositories(self) -> Sequence[str]:
        """Where to ask for it; ET_MAVEN and ET_NPM name other places, such as a company's mirror."""
        if self.group == "npm":
            addresses = os.environ.get("ET_NPM", NPM)
        else:
            addresses = os.environ.get("ET_MAVEN", " ".join(MAVEN))
        return [address.rstrip("/") for address in addresses.split()]

    def __str__(self) -> str:
        return f"{self.group}:{self.name}:{self.version}"


def cache_folder() -> Path:
    """Where downloads are kept."""
    return Path(os.environ.get("ET_ANDROID_CACHE", Path.home() / ".cache" / "et_pipeline" / "android"))


def read_lock(path: Path = LOCK) -> list[Artifact]:
    """Reads the lock file: one artifact a line, '#' begins a comment."""
    artifacts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("#")[0].split()
        if not fields:
            continue
        if len(fields) != 4 or fields[1].count(":") != 2:
            raise BuildError(f"{path.name}, line {number}: expected 'scope group:name:version type sha256'.")
        scope, coordinate, kind, sha256 = fields
        group, name, version = coordinate.split(":")
        artifacts.append(Artifact(scope, group, name, version, kind, sha256))
    return artifacts


def read_roots(path: Path = LOCK) -> str | None:
    """The hash of what the lock file was made from; None where it says none."""
    found = re.search(rf"^{re.escape(ROOTS)}(\w+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else None


def write_lock(artifacts: Iterable[Artifact], roots: str, path: Path = LOCK) -> None:
    """Writes the lock file, sorted.

    Args:
        artifacts: Its files.
        roots: The hash of what they were resolved from.
        path: Where to.
    """
    lines = ["# Made by tools/lock.py (make android-lock): scope, group:name:version, type, SHA-256.", ROOTS + roots]
    lines += sorted(f"{a.scope} {a} {a.kind} {a.sha256}" for a in artifacts)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(path)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content; known of what `fetch` gave, which is large and an input of many steps."""
    return _fetched.get(path) or _sha256_of(path)


def _sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def download(url: str) -> bytes:
    """The content behind an address, tried again when the connection fails.

    Raises:
        NotServedError: The registry says that it does not have it.
        BuildError: The registry cannot be reached.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
                content: bytes = response.read()
                return content
        except urllib.error.HTTPError as error:
            if error.code in (403, 404, 410):
                raise NotServedError(f"{url} is not served ({error.code}).") from error
            reason = str(error)
        except (OSError, http.client.HTTPException) as error:  # the latter when it is cut in the middle
            reason = str(error)
        if attempt < ATTEMPTS:
            time.sleep(2 ** (attempt - 1))
    raise BuildError(f"{url} cannot be downloaded ({reason}): check the connection, or name a mirror in ET_MAVEN.")


def keep(content: bytes, target: Path) -> None:
    """Puts a file into the cache whole: threads and other builds may want the same one at the same time."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def fetch(artifact: Artifact) -> Path:
    """The artifact's file in the cache, downloaded when it is not there or damaged.

    Raises:
        BuildError: It cannot be had, or what came is not what the lock names.
    """
    target = cache_folder() / artifact.path
    if target.is_file() and _sha256_of(target) == artifact.sha256:
        _fetched[target] = artifact.sha256
        return target
    problem: BuildError = NotServedError(f"{artifact} is in no repository.")
    for repository in artifact.repositories:
        try:
            content = download(f"{repository}/{artifact.path}")
        except BuildError as error:
            # That one registry does not have it says less than that another failed or gave something else.
            if isinstance(problem, NotServedError) or not isinstance(error, NotServedError):
                problem = error
            continue
        found = hashlib.sha256(content).hexdigest()
        if found != artifact.sha256:
            problem = BuildError(
                f"{repository}/{artifact.path} has SHA-256 {found[:12]}…, and {LOCK.name} says "
                f"{artifact.sha256[:12]}…: do not use this file."
            )
            continue
        keep(content, target)
        _fetched[target] = found
        return target
    raise problem


def fetch_all(artifacts: Sequence[Artifact]) -> dict[Artifact, Path]:
    """Files of several artifacts, downloaded side by side."""
    files: dict[Artifact, Path] = {}
    with ThreadPoolExecutor(8) as executor:
        for artifact, path in zip(artifacts, executor.map(fetch, artifacts), strict=True):
            files[artifact] = path
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{len(files)} of {len(artifacts)} files")
                sys.stderr.flush()
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    return files

"""Steps of the build: each fills a folder with one tool's output, and is not repeated while its inputs stay."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from artifacts import ROOT, BuildError, sha256_of
from gradle_files import JAVA

BUILD = ROOT / "build"
NO_JDK = f"No JDK is installed: install a JDK {JAVA} (on Debian: openjdk-{JAVA}-jdk-headless)."
START = time.monotonic()


def say(text: str) -> None:
    """A line about the progress."""
    sys.stdout.write(f"[{time.monotonic() - START:5.0f} s] {text}\n")
    sys.stdout.flush()


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Runs a tool and returns what it printed; a tool that fails shows all of it."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, errors="replace", cwd=cwd)
    if done.returncode:
        sys.stdout.write(done.stdout + done.stderr)
        name = next((str(part) for part in command if "." in str(part) and "/" not in str(part)), str(command[0]))
        raise BuildError(f"{name} failed, see above.")
    return done.stdout


def class_path(*parts: Path | Iterable[Path]) -> str:
    """A class path of files and lists of files."""
    flat: list[Path] = []
    for part in parts:
        flat += [part] if isinstance(part, Path) else part
    return os.pathsep.join(str(path) for path in flat)


def jdk() -> Path:
    """The folder of the JDK in use."""
    javac = shutil.which("javac", path=os.environ.get("JAVA_HOME", "/none") + "/bin") or shutil.which("javac")
    if not javac:
        raise BuildError(NO_JDK)
    done = subprocess.run([javac, "-version"], capture_output=True, text=True)
    version = re.search(r"^javac (\S+)", done.stdout + done.stderr, re.MULTILINE)  # Java 8 says it on stderr
    if not version:  # macOS has a javac that only says where to get one
        raise BuildError(NO_JDK)
    if not re.match(rf"{JAVA}\b", version[1]):
        raise BuildError(
            f"The JDK is {version[1]}, and this build was tested with {JAVA} only: set JAVA_HOME to a JDK {JAVA}."
        )
    return Path(javac).resolve().parent.parent


def use_jdk() -> None:
    """Has all that is run come from the same JDK, whatever java the PATH has."""
    os.environ["PATH"] = os.pathsep.join([str(jdk() / "bin"), os.environ.get("PATH", "")])


def fingerprint(inputs: Iterable[Any]) -> str:
    """A hash of everything a step depends on: files and folders by content, the rest by its text.

    Of a file its own name counts, in a folder its path there: a resource moved to another language is a change, and
    another place of the whole checkout is none.
    """
    digest = hashlib.sha256()
    for item in inputs:
        paths = sorted(item.rglob("*")) if isinstance(item, Path) and item.is_dir() else [item]
        for path in paths:
            if isinstance(path, Path):
                if path.is_file():
                    name = path.relative_to(item) if path != item else path.name
                    digest.update(f"{name} {sha256_of(path)}\n".encode())
            else:
                digest.update(f"{path}\n".encode())
    return digest.hexdigest()


def step(name: str, text: str, inputs: Iterable[Any], make: Callable[[Path], None]) -> Path:
    """Makes the folder build/<name> unless it was made from the same inputs already.

    Args:
        name: Of the folder.
        text: What to say when it is made.
        inputs: All that the result depends on: files and folders as paths, for a name alone does not change with what
            is in a file.
        make: Fills the folder, which is empty.
    """
    folder, stamp = BUILD / name, BUILD / f"{name}.stamp"
    key = fingerprint([Path(__file__), Path(inspect.getfile(make)), *inputs])  # the script's own code is an input too
    if folder.is_dir() and stamp.is_file() and stamp.read_text() == key:
        return folder
    say(text)
    stamp.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(folder)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(key)
    return folder

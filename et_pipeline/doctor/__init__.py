"""What is installed, what can run on this computer, what is missing and how to get it.

Whatever could take a process down with it is tried in another one.
"""

from __future__ import annotations

import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from filelock import FileLock, Timeout
from packaging.requirements import Requirement
from pydantic import BaseModel

from et_pipeline import CONF
from et_pipeline.doctor import probes
from et_pipeline.doctor.trial import Tried, try_all
from et_pipeline.report.words import size

DISTRIBUTION = "et-pipeline"


class Package(BaseModel):
    """A library that the base install has: the version here, what is asked for, and what was tested (in a checkout)."""

    name: str
    found: str | None
    wanted: str
    tested: str | None
    ok: bool


class Ability(BaseModel):
    """Something that was tried: whether it works, what was seen, and one command or step that gets it."""

    name: str
    ok: bool
    seen: str
    get: str = ""
    needed: bool = False


class Report(BaseModel):
    """All of it."""

    computer: dict[str, str]
    packages: list[Package]
    abilities: list[Ability]

    @property
    def broken(self) -> list[str]:
        """What the base install needs and has not."""
        packages = [f"{each.name} {each.found or 'is missing'}" for each in self.packages if not each.ok]
        return packages + [each.name for each in self.abilities if each.needed and not each.ok]


# By the name of its probe: what it is, how to get it, whether nothing works without.
ABILITIES = {
    "xnnpack": ("quantize, export, run a .pte (XNNPACK)", f"pip install --force-reinstall {DISTRIBUTION}", True),
    "gpu": ("a GPU for calibration and training", "where there is one: pip install --force-reinstall torch", False),
    "qnn": ("backend=qnn, Qualcomm's NPU", f"pip install '{DISTRIBUTION}[qnn]'", False),
    "coreml": ("backend=coreml, Apple's", "pip install coremltools", False),
    "adapt": ("adapt=..., LoRA adapters", f"pip install '{DISTRIBUTION}[adapt]'", False),
    "llama_cpp": ("llama.cpp as witness of GGUF files", f"pip install '{DISTRIBUTION}[witness]'", False),
    "encoders": ("sentence-transformers as witness", f"pip install '{DISTRIBUTION}[witness]'", False),
    "datasets": ("texts from data sets on the hub", f"pip install '{DISTRIBUTION}[datasets]'", False),
    "eval": ("et-bundle eval", f"pip install '{DISTRIBUTION}[eval]'", False),
    "report": ("make compare, et-pipeline report", f"pip install '{DISTRIBUTION}[report]'", False),
    "sweeps": ("sweeps side by side, searches", f"pip install '{DISTRIBUTION}[sweeps]'", False),
    "docs": ("make docs-site", f"pip install '{DISTRIBUTION}[docs]'", False),
    "phone": ("a phone over adb", "", False),
    "app": ("make apk", "a JDK 17, for example https://adoptium.net", False),
}
FACTS = ("processor", "memory", "hub")
# In two processes, which take about as long.
SECOND = ("phone", "coreml", "adapt", "encoders", "qnn")


def examine(cache: Path) -> Report:
    """Look at everything.

    Args:
        cache: the folder of the stages' results.
    """
    first = [*FACTS, *(name for name in ABILITIES if name not in SECOND)]
    with ThreadPoolExecutor() as pool:
        tried = [pool.submit(try_all, probes.__name__, names) for names in (first, SECOND)]
        known, works = packages(), cache_works(cache)
        found = {name: each for done in tried for name, each in done.result().items()}
    return Report(
        computer=computer(cache, found),
        packages=known,
        abilities=[_ability(name, found[name]) for name in ABILITIES] + [works],
    )


def _ability(name: str, tried: Tried) -> Ability:
    what, get, needed = ABILITIES[name]
    return Ability(name=what, ok=tried.ok, seen=tried.seen, get="" if tried.ok else get, needed=needed)


def packages() -> list[Package]:
    """What the base install asks for, by its own metadata."""
    tested = dict(_tested())
    found = []
    for line in metadata.requires(DISTRIBUTION) or []:
        asked = Requirement(line)
        if asked.marker is not None and not asked.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(asked.name)
        except metadata.PackageNotFoundError:
            version = None
        ok = version is not None and asked.specifier.contains(version, prereleases=True)
        name = _plain(asked.name)
        found.append(Package(name=name, found=version, wanted=str(asked.specifier), tested=tested.get(name), ok=ok))
    return sorted(found, key=lambda each: each.name)


def _tested() -> Iterator[tuple[str, str]]:
    """The versions that were tested together: a checkout has them."""
    path = CONF.parent / "constraints.txt"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        name, equals, version = line.partition("==")
        if equals:
            yield _plain(name), version.partition(";")[0].strip()


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def computer(cache: Path, tried: Mapping[str, Tried]) -> dict[str, str]:
    """What there is: Python, the cache and its disk, and what probes tell."""
    sizes = list(_sizes(cache))
    free = shutil.disk_usage(_existing(cache)).free
    return {
        "Python": f"{platform.python_version()} on {platform.platform()}",
        **{name: tried[name].seen for name in FACTS},
        "cache": f"{cache}: {size(sum(sizes))} in {len(sizes)} files, {size(free)} free",
    }


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another run works in there
            if path.is_file():
                yield path.stat().st_size


def cache_works(cache: Path) -> Ability:
    """Whether the cache can be written and locked, on this very disk."""
    place, ok = next(path for path in (cache, *cache.parents) if path.exists()), False
    try:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            ok = _locks(Path(folder))
        seen = "written and locked" if ok else f"{place} keeps no locks: two runs would disturb each other"
    except OSError as error:
        seen = f"{place}: {error.strerror}"
    get = "" if ok else "another folder: paths.cache=FOLDER, or ET_PIPELINE_CACHE"
    return Ability(name="the cache", ok=ok, seen=seen, get=get, needed=True)


def _locks(folder: Path) -> bool:
    """Whether a lock that is held is not given to another."""
    with FileLock(folder / "lock"):
        try:
            FileLock(folder / "lock").acquire(timeout=0)
        except Timeout:
            return True
    return False


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.is_dir())

"""The computer that this runs on: what Linux, macOS and Windows do in different ways, or not at all.

Nobody else asks which system it is, but for `worker.server`, which is for where `forks` says yes, and the laboratories
of `bench`, which refuse what is not Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import platform
import shutil
import sys
from pathlib import Path

from et_pipeline.errors import UserError


def forks() -> bool:
    """Whether a process that has imported libraries can be forked.

    Windows forks none, and on macOS Apple's own libraries, which torch computes with, do not bear it.
    """
    return sys.platform == "linux"


def only_linux(what: str) -> None:
    """Refuse what needs /proc.

    Raises:
        UserError: this is another system.
    """
    if sys.platform != "linux":
        raise UserError(f"{what} reads CPU time and memory from /proc, which {sys.platform} has not; run it on Linux")


def memory_bytes() -> int:
    """The computer's memory, or what this process's group may have of it; 0 where the system does not tell."""
    if sys.platform != "linux":
        import psutil

        return int(psutil.virtual_memory().total)
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(limit)
        if path.is_file() and path.read_text(encoding="ascii").strip().isdigit():
            found = min(found, int(path.read_text(encoding="ascii")))
    return found


def peak_bytes() -> int:
    """Highest resident memory of this process so far."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_bytes() -> int:
    """Resident memory of this process now."""
    if sys.platform != "linux":
        import psutil

        return int(psutil.Process().memory_info().rss)
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def anonymous_bytes(pid: int) -> int | None:
    """Memory of a process but for mapped files; None where it is gone, or the system does not tell it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None)


def cpu_seconds() -> float:
    """Processor time of this process and of those that it has waited for."""
    return sum(os.times()[:2]) + children_cpu_seconds()


def children_cpu_seconds() -> float:
    """Processor time of the processes that this one has waited for; 0 on Windows, which does not tell."""
    return sum(os.times()[2:4])


def runs(pid: int) -> bool:
    """Whether another process of that number is there; where the system cannot be asked, it is taken to be."""
    if pid == os.getpid() or sys.platform == "win32":
        return pid != os.getpid()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def processor() -> dict[str, str]:
    """What the system says of the first processor, field by field; nothing but on Linux."""
    path = Path("/proc/cpuinfo")
    first = path.read_text(encoding="utf-8").partition("\n\n")[0] if path.exists() else ""
    pairs = [line.split(":", 1) for line in first.splitlines() if ":" in line]
    return {key.strip(): value.strip() for key, value in pairs}


def machine() -> str:
    """The processor and the system that figures come from, without the machine's name."""
    name = processor().get("model name") or platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count() or '?'} cores, {platform.system()}"


def limit(seconds: int, memory: int) -> None:
    """Have the system end this process beyond these, and let it write no file.

    macOS takes no limit of memory, and Windows none at all: whoever started it ends it when its time is over.
    """
    if sys.platform == "win32":
        return
    import resource

    for kind, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_FSIZE, 0)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))


def expanded(path: Path, key: str = "") -> Path:
    """A path that begins with `~` or `~user`, without that.

    Args:
        path: any path.
        key: the setting or option that names it, such as "paths.cache=".

    Raises:
        UserError: there is no such user.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{key}{path}: {path.parts[0]} is nobody's home here; write the whole path") from error


def sync(path: Path) -> None:
    """Have a file or folder on the disk itself; Windows does that for files alone, and asks for the right to write."""
    windows = sys.platform == "win32"
    if windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link(path: Path, target: Path) -> None:
    """Give a file a second name; on Windows, where that takes a right that few have, a copy."""
    if sys.platform == "win32":
        shutil.copyfile(target, path)
    else:
        path.symlink_to(target)


def unlock(file: Path) -> None:
    """Give up the locks that this process holds on a file; for Linux, which lists what is open."""
    import fcntl

    for descriptor in Path("/proc/self/fd").iterdir():
        if descriptor.is_symlink() and descriptor.readlink() == file.resolve():
            fcntl.flock(int(descriptor.name), fcntl.LOCK_UN)


def flush() -> None:
    """Write out what native code has printed."""
    ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None).fflush(None)


def edit_lines() -> None:
    """Give `input()` line editing and history; Windows' terminal has its own."""
    if sys.platform != "win32":
        importlib.import_module("readline")

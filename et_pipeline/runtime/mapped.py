"""A program's file in this process: what is mapped of it, and what of that lies in memory."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

_RANDOM, _DONTNEED = 1, 4  # of madvise, in <sys/mman.h>


def let_go(path: Path) -> None:
    """Take a program's file out of memory; what is looked at again comes back, a page at a time. Linux only.

    ExecuTorch's Python runtime locks what it maps, where the system lets it (`ulimit -l`, and root everything). Then
    all of a table of per-layer embeddings stays in memory, of which each token needs a row. Android's library is asked
    not to lock (`LlmModuleConfig.LOAD_MODE_MMAP`).

    Args:
        path: of a loaded program. Weights that the delegate has packed are its own copy, and stay.
    """
    if sys.platform != "linux":
        return
    system = ctypes.CDLL(None)
    for call in (system.munlock, system.madvise):
        call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *([ctypes.c_int] if call is system.madvise else [])]
    for start, end in _read_only(path):
        system.munlock(start, end - start)
        system.madvise(start, end - start, _DONTNEED)
        system.madvise(start, end - start, _RANDOM)  # a row is less than a page, and its neighbours are not wanted


def _read_only(path: Path) -> Iterator[tuple[int, int]]:
    """Where a file is mapped, as long as nothing can have been written there."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, mode, *_, name = line.split(maxsplit=5) if line.count(" ") > 4 else ("", "", "")
        if mode.startswith("r-") and name.strip() == str(path.resolve()):
            start, end = addresses.split("-")
            yield int(start, 16), int(end, 16)

"""Keep what XNNPACK packs at load in a file, so that the next load of a program maps it instead of packing again.

XNNPACK reorders every weight for the processor when a program is loaded: half a minute for 7 billion parameters, and
memory that cannot be given back. `upstream.packed_cache` makes its
delegate put the result into a file.

The file has no name of its model or processor inside and no checksum, and the delegate believes it. So it lies in an
entry of the stage cache: named by all that it depends on, whole or absent, and hashed before it is used, unless nobody
has touched it since it was made.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from et_pipeline import cache, host
from et_pipeline.upstream.packed_cache import (
    LONGEST_VALUE,
    XNNPACK_LIBRARY,
    UnsupportedError,
    check_support,
    library,
    load_with,
)

log = logging.getLogger(__name__)

WORTHWHILE_BYTES = 500_000_000  # of a program: packing takes more than about a second
FILE_NAME = "packed.bin"
_STATE = "state"

T = TypeVar("T")


def find_entry(root: Path, hashes: Sequence[str], size: int) -> Path | None:
    """Where the packed weights of a program are or will be kept; None if this computer cannot keep them.

    Args:
        root: the cache folder.
        hashes: SHA-256 of the program's file, and of those with its external weights.
        size: of these files, in bytes.
    """
    try:
        check_support()
        key = {
            "files": list(hashes),
            "processor": _processor(),
            "library": cache.sha256_file(library(XNNPACK_LIBRARY)),
        }
        entry = host.expanded(root).resolve() / "packed" / cache.digest(key)
        _check_room(entry, size)
    except (UnsupportedError, OSError) as error:
        log.warning("the packed weights are not kept: %s", error)
        return None
    return entry


def _check_room(entry: Path, size: int) -> None:
    if len(os.fsencode(entry)) > LONGEST_VALUE - 50:
        raise UnsupportedError(f"{entry} is too long a path")
    entry.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(entry.parent, os.W_OK):
        raise UnsupportedError(f"{entry.parent} cannot be written")
    # The delegate writes through a mapping, where a full disk ends the process: so there must be room to spare.
    if not entry.exists() and shutil.disk_usage(entry.parent).free < 2 * size:
        raise UnsupportedError(f"{entry.parent} has less than {2 * size / 1e6:.0f} MB free")


def load(load_method: Callable[[], T], entry: Path) -> T:
    """Load a method of a program with the packed weights of an entry, which is made by that load if it is not there.

    Args:
        load_method: loads it; called once.
        entry: from `find_entry`, for exactly this program.

    Returns:
        What `load_method` returned.
    """
    loaded: list[T] = []

    def make(folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
        loaded.append(load_with(load_method, folder / FILE_NAME))
        return {_STATE: _state(folder)}, {}

    if not _untouched(entry):  # hashing the weights of 7 billion parameters takes longer than loading them
        cache.build(entry, make, {})
    if not loaded:
        with cache.locked(entry):  # the delegate locks the file while it reads it, and packs anew if it cannot
            loaded.append(load_with(load_method, entry / FILE_NAME))
    return loaded[0]


def _untouched(entry: Path) -> bool:
    """Whether nobody has written to the file, nor put another in its place, since it was made."""
    try:
        record = json.loads((entry / cache.RECORD).read_text(encoding="utf-8"))
        return bool(record["figures"][_STATE] == _state(entry))
    except (OSError, ValueError, KeyError):
        return False


def _state(folder: Path) -> list[int]:
    """What changes when a file is written to; the time of its last change cannot be set back."""
    found = (folder / FILE_NAME).stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _processor() -> dict[str, str]:
    """What the choice of XNNPACK's kernels, and so the packing, depends on."""
    keys = ("vendor_id", "cpu family", "model", "stepping", "flags")
    return {key: value for key, value in host.processor().items() if key in keys}

"""Keep what XNNPACK packs at load in a file, so that the next load of a program maps it instead of packing again.

XNNPACK reorders every weight for the processor when a program is loaded: half a minute for 7 billion parameters, and
memory that cannot be given back. Its delegate can put the result into a file, but only through options of a single load
(`packed_cache_path`), which ExecuTorch's Python bindings do not hand on. So for the time of a load, the delegate's
`init` is led through a function that adds them to the context which it is given; both layouts are in ExecuTorch's
public headers (runtime/backend/options.h, backend_init_context.h). This is done only with releases that were tried,
and after the library has read an option back as we wrote it; everywhere else a program is loaded as it always was.

The file has no name of its model or processor inside and no checksum, and the delegate believes it. So it lies in an
entry of the stage cache: named by all that it depends on, whole or absent, and hashed before it is used, unless nobody
has touched it since it was made.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from et_pipeline import cache

log = logging.getLogger(__name__)

WORTHWHILE_BYTES = 500_000_000  # of a program: packing takes more than about a second
FILE_NAME = "packed.bin"
_STATE = "state"

_TRIED = ("1.5.1",)  # releases of ExecuTorch
_BACKEND = b"XnnpackBackend"
_XNNPACK_LIBRARY, _CORE_LIBRARY = "libexecutorch_backend_xnnpack.so", "libexecutorch.so"
_GET_BACKEND = "_ZN10executorch7runtime17get_backend_classEPKc"
_SET_OPTION = "_ZN10executorch7runtime10set_optionEPKcNS0_4SpanINS0_13BackendOptionEEE"
_GET_OPTION = "_ZN10executorch7runtime10get_optionEPKcNS0_4SpanINS0_13BackendOptionEEE"
_INIT = (
    "_ZNK10executorch8backends14XnnpackBackend4initERNS_7runtime18BackendInitContextE"
    "PNS2_14FreeableBufferENS2_8ArrayRefINS2_11CompileSpecEEE"
)
_BOOL, _STRING = 0, 2  # positions in the variant of an option's value
_LONGEST_VALUE = 256
_VTABLE_WORDS = 10  # of `BackendInterface`: two of the header, eight functions

T = TypeVar("T")


class _Option(ctypes.Structure):
    _fields_ = (
        ("key", ctypes.c_char * 64),
        ("value", ctypes.c_char * _LONGEST_VALUE),
        ("kind", ctypes.c_uint8),
        ("_padding", ctypes.c_uint8 * 3),
    )


class _Span(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _InitContext(ctypes.Structure):
    _fields_ = (
        ("allocator", ctypes.c_void_p),
        ("tracer", ctypes.c_void_p),
        ("method", ctypes.c_void_p),
        ("named_data", ctypes.c_void_p),
        ("options", _Span),
    )


# The result comes back in memory that the caller names first, then this, context, payload, compile specs.
_Init = ctypes.CFUNCTYPE(ctypes.c_void_p, *[ctypes.c_void_p] * 5, ctypes.c_size_t)


class _UnsupportedError(Exception):
    """Why this ExecuTorch, or this computer, cannot keep packed weights."""


def find_entry(root: Path, hashes: Sequence[str], size: int) -> Path | None:
    """Where the packed weights of a program are or will be kept; None if this computer cannot keep them.

    Args:
        root: the cache folder.
        hashes: SHA-256 of the program's file, and of those with its external weights.
        size: of these files, in bytes.
    """
    try:
        _check_support()
        key = {
            "files": list(hashes),
            "processor": _processor(),
            "library": cache.sha256_file(_library(_XNNPACK_LIBRARY)),
        }
        entry = root.expanduser().resolve() / "packed" / cache.digest(key)
        _check_room(entry, size)
    except (_UnsupportedError, OSError) as error:
        log.warning("the packed weights are not kept: %s", error)
        return None
    return entry


def _check_room(entry: Path, size: int) -> None:
    if len(os.fsencode(entry)) > _LONGEST_VALUE - 50:
        raise _UnsupportedError(f"{entry} is too long a path")
    entry.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(entry.parent, os.W_OK):
        raise _UnsupportedError(f"{entry.parent} cannot be written")
    # The delegate writes through a mapping, where a full disk ends the process: so there must be room to spare.
    if not entry.exists() and shutil.disk_usage(entry.parent).free < 2 * size:
        raise _UnsupportedError(f"{entry.parent} has less than {2 * size / 1e6:.0f} MB free")


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
        loaded.append(_load_with(load_method, folder / FILE_NAME))
        return {_STATE: _state(folder)}, {}

    if not _untouched(entry):  # hashing the weights of 7 billion parameters takes longer than loading them
        cache.build(entry, make, {})
    if not loaded:
        with cache.locked(entry):  # the delegate locks the file while it reads it, and packs anew if it cannot
            loaded.append(_load_with(load_method, entry / FILE_NAME))
    return loaded[0]


def _untouched(entry: Path) -> bool:
    """Whether nobody has written to the file, nor put another in its place, since it was made."""
    try:
        record = json.loads((entry / cache.RECORD).read_text())
        return bool(record["figures"][_STATE] == _state(entry))
    except (OSError, ValueError, KeyError):
        return False


def _state(folder: Path) -> list[int]:
    """What changes when a file is written to; the time of its last change cannot be set back."""
    found = (folder / FILE_NAME).stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _load_with(load_method: Callable[[], T], file: Path) -> T:
    with _options_for_init(_option("weight_cache_enabled", b"\x01", _BOOL), _path_option(file)):
        method = load_method()
    _unlock(file)
    return method


def _unlock(file: Path) -> None:
    """Give up the lock that the delegate holds on its file for as long as the program lives.

    It would keep every other process from reading the file. The delegate writes into it no more: whoever finds it under
    its final name only reads, and whoever made it has one program per file.
    """
    import fcntl

    for descriptor in Path("/proc/self/fd").iterdir():
        if descriptor.is_symlink() and descriptor.readlink() == file.resolve():
            fcntl.flock(int(descriptor.name), fcntl.LOCK_UN)


def _option(key: str, value: bytes, kind: int) -> _Option:
    return _Option(key=key.encode(), value=value, kind=kind)


def _path_option(file: Path) -> _Option:
    return _option("packed_cache_path", os.fsencode(file.absolute()), _STRING)


@contextmanager
def _options_for_init(*options: _Option) -> Iterator[None]:
    """Give these options to every method that XNNPACK prepares meanwhile."""
    init = _check_support()
    given = (_Option * len(options))(*options)

    @_Init
    def init_with_options(result: int, this: int, context: int, payload: int, specs: int, count: int) -> int:
        found = _InitContext.from_address(context)
        if not found.options.size:
            found.options = _Span(ctypes.addressof(given), len(given))
        return call(result, this, context, payload, specs, count)

    call = _Init(init)
    pointer = ctypes.c_void_p.from_address(_backend())
    original = pointer.value
    table = (ctypes.c_void_p * _VTABLE_WORDS)(*_vtable())
    table[list(table).index(init)] = ctypes.cast(init_with_options, ctypes.c_void_p).value
    pointer.value = ctypes.addressof(table) + 2 * ctypes.sizeof(ctypes.c_void_p)
    try:
        yield
    finally:
        pointer.value = original


def _check_support() -> int:
    """The address of the delegate's `init`, once everything that we rely on was seen to be as we know it."""
    host = (platform.system(), platform.machine())
    if host != ("Linux", "x86_64"):  # elsewhere results in memory are passed in another way, or the names differ
        raise _UnsupportedError(f"packed weights are kept on Linux with x86-64 only, and this is {' '.join(host)}")
    version = metadata.version("executorch").partition("+")[0]
    if version not in _TRIED:
        raise _UnsupportedError(f"packed weights are kept with ExecuTorch {', '.join(_TRIED)}, and this is {version}")
    address = ctypes.cast(_symbol(_XNNPACK_LIBRARY, _INIT), ctypes.c_void_p).value
    if address is None or _vtable().count(address) != 1:
        raise _UnsupportedError("ExecuTorch's XNNPACK delegate is built in another way than the published one")
    written = _path_option(Path("/as/written"))  # not honoured there, so it is a safe place to try in
    read = _Option(key=written.key)
    for name, option in ((_SET_OPTION, written), (_GET_OPTION, read)):
        function = _symbol(_CORE_LIBRARY, name)
        function.argtypes = (ctypes.c_char_p, _Span)
        if function(_BACKEND, _Span(ctypes.addressof(option), 1)) != 0:
            raise _UnsupportedError("ExecuTorch's XNNPACK delegate does not know packed_cache_path")
    if (read.value, read.kind) != (written.value, written.kind):
        raise _UnsupportedError("ExecuTorch lays out a delegate's options in another way than its headers say")
    return address


def _vtable() -> list[int | None]:
    first = ctypes.c_void_p.from_address(_backend()).value
    assert first is not None
    return list((ctypes.c_void_p * _VTABLE_WORDS).from_address(first - 2 * ctypes.sizeof(ctypes.c_void_p)))


def _backend() -> int:
    """The address of the one object that is the delegate."""
    find = _symbol(_CORE_LIBRARY, _GET_BACKEND)
    find.argtypes, find.restype = (ctypes.c_char_p,), ctypes.c_void_p
    found: int | None = find(_BACKEND)
    if found is None:
        raise _UnsupportedError("this ExecuTorch has no XNNPACK delegate")
    return found


def _symbol(library: str, name: str) -> Any:
    """A function of the runtime, in the very library that the Python bindings have loaded."""
    from executorch.extension.pybindings import portable_lib  # noqa: F401  loads it

    try:
        return getattr(ctypes.CDLL(str(_library(library))), name)
    except AttributeError as error:
        raise _UnsupportedError(f"{library} does not export {name}") from error


def _library(name: str) -> Path:
    import executorch

    return Path(executorch.__path__[0]) / "lib" / name


def _processor() -> dict[str, str]:
    """What the choice of XNNPACK's kernels, and so the packing, depends on."""
    keys = ("vendor_id", "cpu family", "model", "stepping", "flags")
    first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    fields = dict(line.split(":", 1) for line in first.splitlines())
    return {key.strip(): value.strip() for key, value in fields.items() if key.strip() in keys}

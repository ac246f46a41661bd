"""XNNPACK's delegate puts what it packs at load into a file, and finds it there the next time.

It can do so only through options of a single load (`packed_cache_path`), which the Python bindings of executorch 1.5.1
do not hand on. So for the time of a load, the delegate's `init` is led through a function that adds them to the context
which it is given; both layouts are in ExecuTorch's public headers (runtime/backend/options.h, backend_init_context.h).
This is done only with releases that were tried, and after the library has read an option back as we wrote it. To go
when the bindings take such options.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from et_pipeline import host

_TRIED = ("1.5.1",)  # releases of ExecuTorch
_BACKEND = b"XnnpackBackend"
XNNPACK_LIBRARY, _CORE_LIBRARY = "libexecutorch_backend_xnnpack.so", "libexecutorch.so"
_GET_BACKEND = "_ZN10executorch7runtime17get_backend_classEPKc"
_SET_OPTION = "_ZN10executorch7runtime10set_optionEPKcNS0_4SpanINS0_13BackendOptionEEE"
_GET_OPTION = "_ZN10executorch7runtime10get_optionEPKcNS0_4SpanINS0_13BackendOptionEEE"
_INIT = (
    "_ZNK10executorch8backends14XnnpackBackend4initERNS_7runtime18BackendInitContextE"
    "PNS2_14FreeableBufferENS2_8ArrayRefINS2_11CompileSpecEEE"
)
_BOOL, _STRING = 0, 2  # positions in the variant of an option's value
LONGEST_VALUE = 256
_VTABLE_WORDS = 10  # of `BackendInterface`: two of the header, eight functions

T = TypeVar("T")


class _Option(ctypes.Structure):
    _fields_ = (
        ("key", ctypes.c_char * 64),
        ("value", ctypes.c_char * LONGEST_VALUE),
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


class UnsupportedError(Exception):
    """Why this ExecuTorch, or this computer, cannot keep packed weights."""


def load_with(load_method: Callable[[], T], file: Path) -> T:
    """Load a method; its delegate keeps what it packs in `file`, or finds it there."""
    with _options_for_init(_option("weight_cache_enabled", b"\x01", _BOOL), _path_option(file)):
        method = load_method()
    _unlock(file)
    return method


def _unlock(file: Path) -> None:
    """Give up the lock that the delegate holds on its file for as long as the program lives.

    It would keep every other process from reading the file. The delegate writes into it no more: whoever finds it under
    its final name only reads, and whoever made it has one program per file.
    """
    host.unlock(file)


def _option(key: str, value: bytes, kind: int) -> _Option:
    return _Option(key=key.encode(), value=value, kind=kind)


def _path_option(file: Path) -> _Option:
    return _option("packed_cache_path", os.fsencode(file.absolute()), _STRING)


@contextmanager
def _options_for_init(*options: _Option) -> Iterator[None]:
    """Give these options to every method that XNNPACK prepares meanwhile."""
    init = check_support()
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


def check_support() -> int:
    """The address of the delegate's `init`, once everything that we rely on was seen to be as we know it."""
    host = (platform.system(), platform.machine())
    if host != ("Linux", "x86_64"):  # elsewhere results in memory are passed in another way, or the names differ
        raise UnsupportedError(f"packed weights are kept on Linux with x86-64 only, and this is {' '.join(host)}")
    version = metadata.version("executorch").partition("+")[0]
    if version not in _TRIED:
        raise UnsupportedError(f"packed weights are kept with ExecuTorch {', '.join(_TRIED)}, and this is {version}")
    address = ctypes.cast(_symbol(XNNPACK_LIBRARY, _INIT), ctypes.c_void_p).value
    if address is None or _vtable().count(address) != 1:
        raise UnsupportedError("ExecuTorch's XNNPACK delegate is built in another way than the published one")
    written = _path_option(Path("/as/written"))  # not honoured there, so it is a safe place to try in
    read = _Option(key=written.key)
    for name, option in ((_SET_OPTION, written), (_GET_OPTION, read)):
        function = _symbol(_CORE_LIBRARY, name)
        function.argtypes = (ctypes.c_char_p, _Span)
        if function(_BACKEND, _Span(ctypes.addressof(option), 1)) != 0:
            raise UnsupportedError("ExecuTorch's XNNPACK delegate does not know packed_cache_path")
    if (read.value, read.kind) != (written.value, written.kind):
        raise UnsupportedError("ExecuTorch lays out a delegate's options in another way than its headers say")
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
        raise UnsupportedError("this ExecuTorch has no XNNPACK delegate")
    return found


def _symbol(file: str, name: str) -> Any:
    """A function of the runtime, in the very library that the Python bindings have loaded."""
    from executorch.extension.pybindings import portable_lib  # noqa: F401  loads it

    try:
        return getattr(ctypes.CDLL(str(library(file))), name)
    except AttributeError as error:
        raise UnsupportedError(f"{file} does not export {name}") from error


def library(name: str) -> Path:
    """A library of this ExecuTorch."""
    import executorch

    return Path(executorch.__path__[0]) / "lib" / name

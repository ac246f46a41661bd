"""ExecuTorch's kernels as on an older processor than this one is.

XNNPACK and ExecuTorch's own kernels choose by one record of what the processor can, `cpuinfo_isa` of pytorch/cpuinfo
(include/cpuinfo.h). What is struck out there before the runtime is loaded, nobody uses, so what runs is what an
older processor runs, on a clock and a memory that are this one's.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterable
from pathlib import Path

_FIRST = 22  # bytes before avx, on x86-64
_FIELDS = (
    *("avx", "avxvnni", "fma3", "fma4", "xop", "f16c", "avx2", "avx512f", "avx512pf", "avx512er", "avx512cd"),
    *("avx512dq", "avx512bw", "avx512vl", "avx512ifma", "avx512vbmi", "avx512vbmi2", "avx512bitalg"),
    *("avx512vpopcntdq", "avx512vnni", "avx512bf16", "avx512fp16", "avx512vp2intersect", "avx5124vnniw"),
    *("avx5124fmaps", "avx101", "avx102", "amxbf16", "amxtile", "amxint8", "amxfp16", "avxvnniint8"),
    *("avxvnniint16", "avxneconvert"),
)
_KNOWN = {"fma3": "fma", "avx512vbmi2": "avx512_vbmi2", "avx512vnni": "avx512_vnni"}  # where Linux says it otherwise
_CHECKED = ("avx", "fma3", "f16c", "avx2", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512vbmi2", "avx512vnni")
LEVELS = {
    "avx512": _FIELDS.index("avx512ifma"),  # no VNNI: the first servers with AVX-512
    "avx2": _FIELDS.index("avx512f"),
    "avx": _FIELDS.index("avxvnni"),
    "sse4": 0,
}


def pretend(level: str) -> None:
    """Let this process's ExecuTorch take the processor for an older one.

    Args:
        level: one of `LEVELS`.

    Raises:
        RuntimeError: the runtime is loaded already, ExecuTorch's record is not as this release of it has it, or this is
            no Linux on x86-64.
    """
    record = _record()
    for field in newer(_FIELDS, level):
        record[_FIRST + _FIELDS.index(field)] = False


def newer(fields: Iterable[str], level: str) -> list[str]:
    """Which of these, in cpuinfo's words, a processor of a level lacks."""
    known = [field for field in fields if field in _FIELDS]
    return [field for field in known if _FIELDS.index(field) >= LEVELS[level] or field == "avxvnni"]


def _record() -> ctypes.Array[ctypes.c_bool]:
    import executorch

    (package,) = executorch.__path__
    library = Path(package) / "lib" / "libexecutorch_threadpool.so"
    if sys.platform != "linux" or platform.machine() != "x86_64" or not library.is_file():
        raise RuntimeError("an older processor can be pretended on Linux with x86-64 only")
    if "libexecutorch_backend_xnnpack" in Path("/proc/self/maps").read_text(encoding="utf-8"):
        raise RuntimeError("XNNPACK is loaded already, and has looked what the processor can")
    cpuinfo = ctypes.CDLL(str(library))
    cpuinfo.cpuinfo_initialize()
    record = (ctypes.c_bool * (_FIRST + len(_FIELDS))).in_dll(cpuinfo, "cpuinfo_isa")
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("flags", 1)[-1].partition("\n")[0].split()
    found = {field: record[_FIRST + _FIELDS.index(field)] for field in _CHECKED}
    if found != {field: _KNOWN.get(field, field) in flags for field in _CHECKED}:
        raise RuntimeError(f"cpuinfo's record lies otherwise than is known, or was changed: {found}")
    return record

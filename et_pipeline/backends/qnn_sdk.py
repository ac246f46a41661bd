"""Qualcomm's libraries: from their SDK or from a package on PyPI, and the chips that they compile for.

They are loaded in the stage's own process, which they may take down with them.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import os
import platform
import shutil
import tempfile
from functools import cache
from importlib import metadata as distributions
from pathlib import Path
from typing import NamedTuple

from et_pipeline.errors import UserError

PACKAGE, VERSION, MODULE = "onnxruntime-qnn", "2.5.0", "onnxruntime_qnn"
HOST_LIBRARIES = "lib/x86_64-linux-clang"
LIBRARIES = ("libQnnSystem.so", "libQnnHtp.so")


class Sdk(NamedTuple):
    """Where Qualcomm's host libraries are; `root` is their SDK's folder, None for the package."""

    libraries: Path
    root: Path | None


def find_sdk() -> Sdk:
    """Find Qualcomm's libraries: in `QNN_SDK_ROOT`, else in the package.

    Raises:
        UserError: there are none, or not those that work; says how to get them.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise UserError(
            f"backend=qnn needs Qualcomm's compiler for Linux on x86-64, and this is {platform.system()} on "
            f"{platform.machine()}"
        )
    given = os.environ.get("QNN_SDK_ROOT")
    if given:
        libraries = Path(given) / HOST_LIBRARIES
        missing = next((name for name in LIBRARIES if not (libraries / name).is_file()), None)
        if missing:
            raise UserError(
                f"QNN_SDK_ROOT={given} has no {HOST_LIBRARIES}/{missing}; point it at Qualcomm's AI Runtime SDK"
            )
        return Sdk(libraries, Path(given))
    spec = importlib.util.find_spec(MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "backend=qnn needs Qualcomm's compiler: set QNN_SDK_ROOT to their AI Runtime SDK, or install the package "
            f"with pip install 'et-pipeline[qnn]' ({PACKAGE}=={VERSION}, under Qualcomm's licence)"
        )
    found = distributions.version(PACKAGE)
    if found != VERSION:
        raise UserError(
            f"{PACKAGE}=={found} is installed, whose compiler does not start with executorch; "
            f"pip install {PACKAGE}=={VERSION}"
        )
    return Sdk(Path(next(iter(spec.submodule_search_locations))), None)


@cache
def load_sdk() -> str:
    """Load Qualcomm's libraries into this process, once; returns their version, such as v2.49.40.

    Raises:
        UserError: there are none.
    """
    sdk = find_sdk()
    # Loaded before these three, they crash the process.
    import executorch.extension.pybindings.portable_lib  # noqa: F401
    import torch  # noqa: F401
    from executorch.backends.qualcomm.python import PyQnnManagerAdaptor

    if sdk.root is None:
        # Where executorch looks for them; the folder has to stay for as long as the process does.
        root = Path(tempfile.mkdtemp(prefix="qnn-"))
        atexit.register(shutil.rmtree, root, ignore_errors=True)
        (root / HOST_LIBRARIES).parent.mkdir(parents=True)
        (root / HOST_LIBRARIES).symlink_to(sdk.libraries)
        os.environ["QNN_SDK_ROOT"] = str(root)
    # LD_LIBRARY_PATH is read when a process starts; what is loaded already is found by its name.
    for name in LIBRARIES:
        ctypes.CDLL(str(sdk.libraries / name))
    build: str = PyQnnManagerAdaptor.GetQnnSdkBuildId(str(sdk.libraries / LIBRARIES[1]))
    return build


class Npu(NamedTuple):
    """What a program is compiled for: one runs on every chip whose NPU is the same."""

    hexagon: str
    memory_mb: int  # the NPU's own (VTCM)


@cache
def chips() -> dict[str, Npu]:
    """Chips that the compiler knows and their NPU, from executorch's own table."""
    from executorch.backends.qualcomm.serialization.qc_schema import _soc_info_table as table

    found = {each.name: info.htp_info for each, info in table.items()}
    return {name: Npu(htp.htp_arch.name, htp.vtcm_size_in_mb) for name, htp in sorted(found.items())}

"""llama.cpp for the emulated arm64 machine, beside which programs are counted, linked statically.

The sources are those in llama-cpp-python's archive on the package index, compiled for a core with dot products and
16-bit floats, as llama.cpp's documentation says for phones.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

from arm import CORES, SOURCES, libraries_of, unpack_packages
from artifacts import BuildError
from steps import run, step

SOURCE = "llama-cpp-python==0.3.36"
PACKAGES = ("qemu-user", "g++-aarch64-linux-gnu", "libc6-dev-arm64-cross", "cmake", "ninja-build")
CORE = "cortex-a76"
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "CMAKE_SYSTEM_NAME": "Linux",
    "CMAKE_SYSTEM_PROCESSOR": "aarch64",
    "CMAKE_EXE_LINKER_FLAGS": "-static",
    "GGML_NATIVE": "OFF",
    "GGML_CPU_ARM_ARCH": "armv8.2-a+dotprod+fp16",
    "GGML_OPENMP": "OFF",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_COMMON": "OFF",
}
ARCHIVES = ("src/libllama.a", *(f"ggml/src/libggml{part}.a" for part in ("", "-cpu", "-base")))
COUNTED = SOURCES / "count_llama.cpp"


class Llama(NamedTuple):
    """llama.cpp for arm64.

    Attributes:
        tools: Folder with QEMU.
        program: What is counted.
    """

    tools: Path
    program: Path

    def run(self, file: Path, start: int, prompt: int, tokens: int, plugin: str) -> subprocess.CompletedProcess[str]:
        """Reads a prompt, or tokens one by one, from a position on, on one thread and with flash attention."""
        command: list[str | Path] = [
            self.tools / "usr" / "bin" / "qemu-aarch64",
            *("-cpu", CORES[CORE].emulated, "-plugin", plugin),
            *(self.program, file, str(start), str(prompt), str(tokens)),
        ]
        environment = {**os.environ, "LD_LIBRARY_PATH": libraries_of(self.tools)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=3600)


def make_llama() -> Llama:
    """Gets and builds everything, in ten minutes or more; a second time nothing."""

    def unpack(folder: Path) -> None:
        unpack_packages(folder, PACKAGES)

    tools = step("arm-llama-tools", "a cross compiler for C++", PACKAGES, unpack) / "tools"

    def build(folder: Path) -> None:
        _build(folder, tools)

    made = step("arm-llama", f"llama.cpp of {SOURCE} for arm64", [SOURCE, OPTIONS, COUNTED], build)
    return Llama(tools, made / COUNTED.stem)


def _build(folder: Path, tools: Path) -> None:
    run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "-d", folder, SOURCE)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder / "source", filter="data")
    (source,) = folder.glob("source/*/vendor/llama.cpp")
    system = tools / "usr" / "aarch64-linux-gnu"
    # Last, as C++'s headers look for those of C after themselves.
    flags = f"--sysroot={tools} -idirafter {system}/include -B{system}/lib -L{system}/lib"
    compilers = {
        f"CMAKE_{language}_{kind}": value
        for language, name in (("C", "gcc"), ("CXX", "g++"))
        for kind, value in (("COMPILER", f"{tools}/usr/bin/aarch64-linux-gnu-{name}"), ("FLAGS", flags))
    }
    given = [f"-D{key}={value}" for key, value in {**OPTIONS, **compilers}.items()]
    compiler = [compilers["CMAKE_CXX_COMPILER"], *flags.split()]
    archives = [folder / part for part in ARCHIVES]
    headers = [f"-I{source / part}" for part in ("include", "ggml/include")]
    path = f"{tools}/usr/bin{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries_of(tools), "PATH": path}
    for command in (
        ["cmake", "-G", "Ninja", "-S", source, "-B", folder, *given],
        ["ninja", "-C", folder, "llama"],
        [*compiler, "-O2", "-static", *headers, COUNTED, *archives, "-lpthread", "-o", folder / COUNTED.stem],
    ):
        done = subprocess.run([str(part) for part in command], env=environment, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise BuildError(f"llama.cpp does not build: {done.stdout[-2000:]}")

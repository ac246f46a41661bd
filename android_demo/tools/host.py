"""Lets an ordinary JVM on Linux run Android's own native libraries, unmodified: on x86-64, or arm64 under emulation.

Android's libraries want Android's libc (bionic). Most of what they import from it behaves the same in glibc, so a
`libc.so` is made here that has every imported symbol under the version that they ask for: a jump to glibc's function,
or one of the few in `host/libc.c` where the two differ. What runs then is the very file that is in the APK.

This shows that the app's logic, the program files and the error paths work with the shipped library. It shows nothing
about Android's own Java runtime, time or energy.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from artifacts import BuildError

SOURCES = Path(__file__).with_name("host")
ANDROID = ("libexecutorch.so", "libfbjni.so", "libc++_shared.so")
STUBS = ("libm", "libdl", "libandroid")  # asked for by name; their symbols are all in libc.so
# Same function, another name in glibc.
ALIASES = {
    "__errno": "__errno_location",
    "__gnu_strerror_r": "strerror_r",
    "sscanf": "__isoc99_sscanf",
    "strerror_r": "__xpg_strerror_r",
    "vsscanf": "__isoc99_vsscanf",
}
# long double is IEEE quadruple in bionic, and 80 bits in glibc on x86-64.
QUADRUPLE = {
    "frexpl": "frexpf128",
    "ldexpl": "ldexpf128",
    "strtold": "strtof128",
    "strtold_l": "strtof128_l",
    "wcstold": "wcstof128",
}
# RPATH rather than RUNPATH: it also holds for the libraries that a library needs.
FLAGS = (
    "-O2",
    "-fPIC",
    "-shared",
    "-fno-stack-protector",
    "-U_FORTIFY_SOURCE",
    "-Wl,--disable-new-dtags,-rpath,$ORIGIN",
)


class Target(NamedTuple):
    """What the libraries are made for, and with.

    Attributes:
        compiler: The C compiler's command.
        nm: The command that lists symbols.
        jump: The instructions that go to a function of glibc; {} is its name.
        aliases: Other names of functions in glibc.
        sources: What libc.c includes for it, with more of our own functions.
    """

    compiler: Sequence[str]
    nm: str
    jump: str
    aliases: Mapping[str, str]
    sources: Sequence[Path] = ()


def this_machine() -> Target:
    """x86-64, with the compiler that is installed.

    Raises:
        BuildError: There is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler or not shutil.which("nm"):
        raise BuildError(
            "No C compiler is installed, and the tests need one: install gcc (on Debian: build-essential)."
        )
    return Target([compiler], "nm", "jmp *{}@GOTPCREL(%rip)", ALIASES | QUADRUPLE)


def make_host(libraries: Sequence[Path], folder: Path, target: Target) -> None:
    """Fills a folder with the Android libraries and what they need to run in a JVM here.

    Args:
        libraries: The files named in `ANDROID`, from the runtime's package, for the target.
        folder: Is made anew. `-agentpath:<folder>/libandroidhost.so -Djava.library.path=<folder>` is how to use it.
        target: What to make them for.
    """

    def compile_library(name: str, *arguments: str | Path) -> None:
        output = ["-o", str(folder / name), f"-Wl,-soname,{name}"]
        subprocess.run([*target.compiler, *FLAGS, *map(str, arguments), *output], check=True)

    shutil.rmtree(folder, ignore_errors=True)
    work = folder / "work"
    work.mkdir(parents=True)
    for library in libraries:
        shutil.copy(library, folder)
    write_symbols(imports([folder / name for name in ANDROID], target.nm), work, target)
    compile_library(
        "libc.so",
        f'-DSYMBOL_VERSIONS="{work / "versions.h"}"',
        SOURCES / "libc.c",
        work / "jumps.S",
        f"-Wl,--version-script,{work / 'versions.map'},-z,defs",
        "-lm",
        "-ldl",
        "-lpthread",
    )
    (work / "empty.c").write_text("int android_host_stub;\n")
    (work / "empty.map").write_text("LIBC { global: android_host_stub; local: *; };\n")
    for name in STUBS:
        compile_library(f"{name}.so", work / "empty.c", f"-Wl,--version-script,{work / 'empty.map'}")
    compile_library("liblog.so", SOURCES / "log.c")
    compile_library("libandroidhost.so", SOURCES / "agent.c", "-ldl")
    (folder / "libexecutorch_jni.so").symlink_to("libexecutorch.so")  # its SONAME is not its file name
    compile_library(
        "libandroidroot.so",
        "-nostdlib",
        "-Wl,--no-as-needed,--unresolved-symbols=ignore-all",
        folder / "libexecutorch.so",
    )


def imports(libraries: Sequence[Path], nm: str) -> dict[str, set[str]]:
    """Symbols that libraries import from bionic's libc, with the versions that they ask for."""
    needed: dict[str, set[str]] = {}
    for library in libraries:
        listing = subprocess.run(
            [nm, "-D", "--undefined-only", library], capture_output=True, text=True, check=True
        ).stdout
        for name, version in re.findall(r"^\s*[Uw]\s+(\S+?)@@?(LIBC\w*)$", listing, re.MULTILINE):
            needed.setdefault(name, set()).add(version)
    return needed


def write_symbols(needed: dict[str, set[str]], work: Path, target: Target) -> None:
    """Writes the jumps to glibc, the versions of our own functions, and the linker's version script."""
    sources = (SOURCES / "libc.c", *target.sources)
    own = {name for file in sources for name in re.findall(r"\bBIONIC\((\w+)\)", file.read_text())}
    jumps = ['.section .note.GNU-stack,"",%progbits', ".text"]
    own_versions = []
    for name, versions in sorted(needed.items()):
        if name in own:
            own_versions += [f'__asm__(".symver bionic_{name}, {name}@{version}");' for version in sorted(versions)]
            continue
        jumps += [f".globl to_{name}", f".type to_{name},%function"]
        jumps.append(f"to_{name}: {target.jump.format(target.aliases.get(name, name))}")
        jumps += [f".symver to_{name}, {name}@{version}" for version in sorted(versions)]
    script, earlier = [], ""
    for version in sorted({version for versions in needed.values() for version in versions} | {"LIBC"}):
        names = " ".join(f"{name};" for name, versions in sorted(needed.items()) if version in versions)
        hidden = "" if earlier else " local: *;"
        script.append(f"{version} {{ global: {names or f'android_host_{version};'}{hidden} }}{earlier};")
        earlier = f" {version}"
    (work / "jumps.S").write_text("\n".join(jumps) + "\n")
    (work / "versions.h").write_text("\n".join(own_versions) + "\n")
    (work / "versions.map").write_text("\n".join(script) + "\n")

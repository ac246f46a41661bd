"""Runs Android's arm64 library, unmodified, under emulation: what a phone's processor computes, on this machine.

QEMU, a cross compiler and a JVM for arm64 come from Debian packages, which are unpacked into a folder: nothing is
installed, and no rights are needed. `host.py` makes the libraries under Android's own. What runs then is the very
`libexecutorch.so` that is in the APK, on a processor whose instructions decide which kernels it takes.

It shows what the library computes there. It shows nothing about time, energy, or Android's own Java runtime.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import host
from artifacts import BuildError
from compiling import compile_kotlin, compile_library
from steps import BUILD, class_path, jdk, run, step
from toolbox import Toolbox, prepare

SOURCES = Path(__file__).with_name("arm")
PACKAGES = ("qemu-user", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "openjdk-17-jre-headless:arm64")
SHARED = ("libc6_", "libgcc-s1_", "libstdc++6_")  # of this machine's own kind: it has them, and they must be its own
_A53 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_A76 = f"{_A53} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"


class Core(NamedTuple):
    """A kind of processor.

    Attributes:
        emulated: QEMU's name of what executes.
        features: What /proc/cpuinfo says, by which kernels are chosen.
        part: Its part number there.
    """

    emulated: str
    features: str
    part: str


CORES = {
    "cortex-a53": Core("cortex-a53", _A53, "0xd03"),  # ARMv8.0: no dot products
    # `Module` of Android's library has atomics of ARMv8.1 (ExecuTorch 1.3), at which such a core stops. So one that has
    # them is told to be an A53, and takes that one's kernels.
    "cortex-a53-kernels": Core("cortex-a76", _A53, "0xd03"),
    "cortex-a76": Core("cortex-a76", _A76, "0xd0b"),
    # Multiplies matrices of 8 bits. QEMU 7.2 computes SME's products wrongly, QEMU 10.0 rightly.
    "max": Core("max,sme=off", f"{_A76} i8mm bf16", "0xd4d"),
}


class Arm(NamedTuple):
    """An arm64 machine in a folder.

    Attributes:
        tools: Folder with QEMU and the cross compiler.
        root: Folder with the arm64 system and its JVM.
        host: Folder with Android's libraries.
        cores: Folder with what is said of each core.
        classes: Class path with the runtime's classes and `Run`.
    """

    tools: Path
    root: Path
    host: Path
    cores: Path
    classes: str

    def run(
        self,
        core: str,
        *arguments: str | Path,
        one_thread: bool = False,
        plugin: str = "",
        timeout: int = 600,
        engine: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Runs the Java class `Run`, or `Ask` with the app's engine.

        Args:
            core: One of `CORES`.
            arguments: What it is given.
            one_thread: Let the library have one thread, so that its instructions can be counted.
            plugin: QEMU's plugin and its options.
            timeout: In seconds.
            engine: Class path of `engine_path`.
        """
        (java,) = (self.root / "usr" / "lib" / "jvm").glob("java-[1-9][0-9]-openjdk-arm64/bin/java")
        given = {"LD_PRELOAD": self.host / "libcanary.so", "ANDROIDHOST_CPUINFO": self.cores / core}
        if one_thread:
            given |= {"ANDROIDHOST_CPUINFO": self.cores / f"{core}-one", "ANDROIDHOST_ONE_CPU": self.cores / "one"}
        command: list[str | Path] = [
            self.tools / "usr" / "bin" / "qemu-aarch64",
            "-L",
            self.root,
            "-cpu",
            CORES[core].emulated,
        ]
        command += ["-plugin", plugin] if plugin else []
        for name, value in given.items():
            command += ["-E", f"{name}={value}"]
        command += [
            java,
            "-Xint",
            f"-XX:ErrorFile={BUILD}/arm-crash_%p.log",
            f"-agentpath:{self.host}/libandroidhost.so",
            f"-Djava.library.path={self.host}",
        ]
        command += ["-cp", engine + os.pathsep + self.classes, "AskKt"] if engine else ["-cp", self.classes, "Run"]
        command += arguments
        environment = {**os.environ, "LD_LIBRARY_PATH": libraries_of(self.tools)}
        return subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, env=environment, timeout=timeout
        )


def make_arm() -> Arm:
    """Gets and builds everything; a second time nothing.

    Raises:
        BuildError: This is no Debian on x86-64.
    """
    system = Path("/etc/os-release")
    debian = system.is_file() and "ID=debian" in system.read_text().splitlines() and shutil.which("apt-get")
    if not debian or platform.machine() != "x86_64":  # Ubuntu keeps packages for arm64 in another archive
        raise BuildError("The arm64 library is run with packages of Debian on x86-64, and this is another system.")

    def unpack(folder: Path) -> None:
        unpack_packages(folder, PACKAGES)

    machine = step("arm-machine", "an arm64 machine: QEMU, a cross compiler and a JVM", PACKAGES, unpack)
    tools, root = machine / "tools", machine / "root"
    toolbox = prepare()
    libraries = [toolbox.runtime / "arm64-v8a" / "libexecutorch.so"]
    for aar in toolbox.packed:
        libraries += [so for so in (aar / "jni" / "arm64-v8a").glob("*.so") if so.name in host.ANDROID]
    target = _target(tools)

    def make(folder: Path) -> None:
        host.make_host(libraries, folder, target)
        canary = host.SOURCES / "canary.c"
        subprocess.run([*target.compiler, *host.FLAGS, canary, "-o", folder / "libcanary.so"], check=True)

    inputs = [*libraries, host.SOURCES, Path(host.__file__)]
    made = step("arm-host", "Android's arm64 libraries for that machine", inputs, make)
    return Arm(tools, root, made, step("arm-cores", "its cores", [CORES], _write_cores), _classes(toolbox))


def libraries_of(tools: Path) -> str:
    """Where the tools in that folder find libraries of this machine's own kind."""
    return os.pathsep.join(str(tools / part / "lib" / "x86_64-linux-gnu") for part in ("usr", "."))


def _target(tools: Path) -> host.Target:
    """The cross compiler, which does not know that it was moved."""
    system = tools / "usr" / "aarch64-linux-gnu"
    compiler = [
        "env",
        f"LD_LIBRARY_PATH={libraries_of(tools)}",
        str(tools / "usr" / "bin" / "aarch64-linux-gnu-gcc"),
        f"--sysroot={tools}",
        "-isystem",
        str(system / "include"),
        f"-B{system / 'lib'}",
        f"-L{system / 'lib'}",
    ]
    jump = "adrp x16, :got:{0}; ldr x16, [x16, :got_lo12:{0}]; br x16"
    return host.Target(compiler, "nm", jump, host.ALIASES, [host.SOURCES / "arm64.c"])


def unpack_packages(folder: Path, packages: Sequence[str]) -> None:
    """Lets apt work out what the packages need, with a state of its own in which nothing is installed."""
    state = folder / "apt"
    for part in ("lists/partial", "archives/partial"):
        (state / part).mkdir(parents=True)
    (state / "status").touch()
    config = folder / "apt.conf"
    config.write_text(
        f'Dir::State "{state}";\nDir::State::status "{state}/status";\nDir::Cache "{state}";\n'
        'APT::Architectures { "amd64"; "arm64"; };\nDebug::NoLocking "1";\nAPT::Sandbox::User "root";\n'
    )
    given = ["env", f"APT_CONFIG={config}", "apt-get", "--yes", "--no-install-recommends"]
    run(*given, "update")
    run(*given, "--download-only", "install", *packages)
    for package in sorted((state / "archives").glob("*.deb")):
        arm = package.name.endswith("_arm64.deb")
        if arm or not package.name.startswith(SHARED):
            run("dpkg-deb", "--extract", package, folder / ("root" if arm else "tools"))
    shutil.rmtree(state)


def _write_cores(folder: Path) -> None:
    def processor(number: int, features: str, part: str) -> str:
        lines = {
            "processor": number,
            "BogoMIPS": "48.00",
            "Features": features,
            "CPU implementer": "0x41",
            "CPU architecture": 8,
            "CPU variant": "0x1",
            "CPU part": part,
            "CPU revision": 0,
        }
        return "".join(f"{name}\t: {value}\n" for name, value in lines.items()) + "\n"

    (folder / "one").write_text("0\n")
    for name, core in CORES.items():
        both = [processor(number, core.features, core.part) for number in range(2)]
        (folder / name).write_text("".join(both))
        (folder / f"{name}-one").write_text(both[0])


def _classes(toolbox: Toolbox) -> str:
    jars = class_path(toolbox.libraries)
    source = SOURCES / "Run.java"

    def compile_it(folder: Path) -> None:
        run(jdk() / "bin" / "javac", "-cp", jars, "-d", folder, source)

    return class_path(step("arm-run", "what runs there", [source, *toolbox.libraries], compile_it)) + os.pathsep + jars


def engine_path() -> str:
    """Class path of the app's engine and of `Ask`, which asks it."""
    tools = prepare()
    made = compile_library(tools)
    ask = compile_kotlin(tools, "arm-ask", SOURCES / "kotlin", class_path(made, tools.libraries))
    return class_path(ask, made)

"""Downloads and unpacks all that the build needs, as `dependencies.lock` names it."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from artifacts import Artifact, BuildError, fetch, fetch_all, read_lock
from gradle_files import MODULES, Project, read_project
from lock import check_lock
from steps import BUILD, say, step

ABIS_OF_TESTS = ("arm64-v8a", "x86_64")  # a JVM here runs the latter's library, an emulator the former's
API_OF_RELEASE = 20  # Android 16 has API level 36, and so on
# What of Robolectric's build of Android is Android's API. The rest are libraries that the system uses inside.
FRAMEWORK = (
    "android/",
    "com/android/internal/",
    "dalvik/",
    "javax/microedition/",
    "libcore/",
    "org/apache/http/",
    "org/json/",
    "org/xmlpull/",
    "res/",
)


class Toolbox(NamedTuple):
    """What the Gradle files say, and all that was downloaded for it, unpacked."""

    project: Project
    jars: dict[str, list[Path]]  # by scope; of AARs the class jars inside
    aars: dict[str, list[Path]]  # by scope; unpacked folders
    runtime: Path  # folder with classes.jar and <abi>/libexecutorch.so
    android: Path  # the framework to compile against
    aapt2: Path

    def tool(self, name: str) -> Path:
        """The jar of one tool."""
        (path,) = (path for path in self.jars["tool"] if path.name.startswith(name))
        return path

    def jars_of(self, *scopes: str) -> list[Path]:
        """Class jars of the libraries of some modules."""
        return [path for scope in scopes for path in self.jars.get(scope, [])]

    @property
    def libraries(self) -> list[Path]:
        """Class jars of all libraries in the APK."""
        return [*self.jars_of(*MODULES), self.runtime / "classes.jar"]

    @property
    def packed(self) -> list[Path]:
        """Unpacked AARs of all libraries in the APK."""
        return [path for scope in MODULES for path in self.aars.get(scope, [])]


def prepare() -> Toolbox:
    """Reads the Gradle files, and downloads and unpacks everything."""
    project, lock = read_project(), read_lock()
    check_lock(project, lock)
    lock = [artifact for artifact in lock if artifact.scope not in ("platform", "gradle", "dokka")]  # of other commands
    say(f"{len(lock)} files of dependencies.lock: from the cache, or downloaded")
    files = fetch_all([artifact for artifact in lock if artifact.scope != "runtime"])
    jars: dict[str, list[Path]] = {}
    aars: dict[str, list[Path]] = {}
    for artifact, path in files.items():
        if artifact.kind in ("jar", "signature"):
            jars.setdefault(artifact.scope, []).append(path)
            continue
        folder = BUILD / "aar" / path.stem
        if not (folder / ".whole").exists():
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
            (folder / ".whole").touch()
        aars.setdefault(artifact.scope, []).append(folder)
        inside = [folder / "classes.jar", *sorted((folder / "libs").glob("*.jar"))]
        jars.setdefault(artifact.scope, []).extend(jar for jar in inside if jar.exists())
    runtime = unpack_runtime([artifact for artifact in lock if artifact.scope == "runtime"], project.app.abis)
    (framework,) = (path for path in jars["tool"] if path.name.startswith("android-all-"))
    level = int(framework.name.split("-")[2]) + API_OF_RELEASE
    if str(level) != project.app.compile_sdk:
        raise BuildError(f"compileSdk is {project.app.compile_sdk}, and lock.py names the framework of {level}.")
    android = step("android", "the Android framework to compile against", [framework], _filter_framework(framework))
    (apktool,) = (path for path in jars["tool"] if path.name.startswith("apktool-lib-"))
    aapt2 = step("aapt2", "aapt2", [apktool], _unpack_aapt2(apktool))
    return Toolbox(project, jars, aars, runtime, android / "android.jar", aapt2 / "aapt2")


def unpack_runtime(choices: Sequence[Artifact], abis: Sequence[str]) -> Path:
    """ExecuTorch for Android: the Maven artifact if its hash is known and a registry serves it, else npm's pieces.

    It is unpacked for the ABIs that an APK has and for those of the tests, which are no matter of the APK.
    """
    problems, abis = [], sorted({*abis, *ABIS_OF_TESTS})
    for artifact in sorted(choices, key=lambda artifact: artifact.group == "npm"):
        if artifact.sha256 == "-":
            problems.append(f"{artifact} has no known hash")
            continue
        try:
            path = fetch(artifact)
        except BuildError as error:
            problems.append(str(error))
            continue
        inputs = [artifact.sha256, *abis]
        return step("runtime", f"ExecuTorch's runtime from {artifact}", inputs, _unpack_pieces(path, abis))
    raise BuildError("ExecuTorch's runtime cannot be had: " + "; ".join(problems))


def _unpack_pieces(path: Path, abis: Sequence[str]) -> Callable[[Path], None]:
    maven = path.suffix == ".aar"
    jar = "classes.jar" if maven else "package/android/libs/classes.jar"
    native = "jni" if maven else "package/third-party/android/libs/executorch"
    wanted = {jar: "classes.jar"} | {f"{native}/{abi}/libexecutorch.so": f"{abi}/libexecutorch.so" for abi in abis}

    def unpack(folder: Path) -> None:
        for abi in abis:
            (folder / abi).mkdir()
        left = set(wanted)
        for name, content in _members(path, wanted):
            (folder / wanted[name]).write_bytes(content)
            left.discard(name)
        if left:
            raise BuildError(f"{path.name} lacks {', '.join(sorted(left))}.")

    return unpack


def _members(path: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Files of an AAR, or of an npm package, with their content."""
    if path.suffix == ".aar":
        with zipfile.ZipFile(path) as archive:
            yield from [(name, archive.read(name)) for name in archive.namelist() if name in names]
        return
    with tarfile.open(path) as packed:
        for member in packed:
            if member.name in names and (stream := packed.extractfile(member)):
                yield member.name, stream.read()


def _filter_framework(source: Path) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        with zipfile.ZipFile(source) as archive, zipfile.ZipFile(folder / "android.jar", "w") as jar:
            for entry in archive.infolist():
                name = entry.filename
                if name in ("AndroidManifest.xml", "resources.arsc") or (
                    name.startswith(FRAMEWORK) and not name.endswith(("/", ".uau"))
                ):
                    jar.writestr(name, archive.read(name))

    return make


def _unpack_aapt2(apktool: Path) -> Callable[[Path], None]:
    system = {"linux": "linux", "darwin": "macosx"}.get(sys.platform)

    def unpack(folder: Path) -> None:
        if system is None:
            raise BuildError(f"There is no aapt2 for {sys.platform} here: build with Gradle instead.")
        with zipfile.ZipFile(apktool) as archive:
            (folder / "aapt2").write_bytes(archive.read(f"prebuilt/{system}/aapt2"))
        (folder / "aapt2").chmod(0o755)

    return unpack

"""Downloads and unpacks all that the build needs, as `dependencies.lock` names it."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from artifacts import Artifact, BuildError, fetch, fetch_all, read_lock
from steps import BUILD, say, step

ABIS = ("arm64-v8a", "x86_64")
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
    """All that was downloaded, unpacked."""

    jars: dict[str, list[Path]]  # by scope; of AARs the class jars inside
    aars: dict[str, list[Path]]  # by scope; unpacked folders
    runtime: Path  # folder with classes.jar and <abi>/libexecutorch.so
    android: Path  # the framework to compile against
    aapt2: Path

    def tool(self, name: str) -> Path:
        """The jar of one tool."""
        (path,) = (path for path in self.jars["tool"] if path.name.startswith(name))
        return path

    @property
    def libraries(self) -> list[Path]:
        """Class jars of all libraries in the APK."""
        return [*self.jars["app"], self.runtime / "classes.jar"]


def prepare() -> Toolbox:
    """Downloads and unpacks everything."""
    lock = [artifact for artifact in read_lock() if artifact.scope != "dokka"]  # 100 MB that only `kdoc` needs
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
    runtime = unpack_runtime([artifact for artifact in lock if artifact.scope == "runtime"])
    (framework,) = (path for path in jars["tool"] if path.name.startswith("android-all-"))
    android = step(
        "android", "the Android framework to compile against", [framework.name], _filter_framework(framework)
    )
    (apktool,) = (path for path in jars["tool"] if path.name.startswith("apktool-lib-"))
    aapt2 = step("aapt2", "aapt2", [apktool.name], _unpack_aapt2(apktool))
    return Toolbox(jars, aars, runtime, android / "android.jar", aapt2 / "aapt2")


def unpack_runtime(choices: Sequence[Artifact]) -> Path:
    """ExecuTorch for Android: the Maven artifact if its hash is known and a registry serves it, else npm's pieces."""
    problems = []
    for artifact in sorted(choices, key=lambda artifact: artifact.group == "npm"):
        if artifact.sha256 == "-":
            problems.append(f"{artifact} has no known hash")
            continue
        try:
            path = fetch(artifact)
        except BuildError as error:
            problems.append(str(error))
            continue
        return step("runtime", f"ExecuTorch's runtime from {artifact}", [artifact.sha256], _unpack_pieces(path))
    raise BuildError("ExecuTorch's runtime cannot be had: " + "; ".join(problems))


def _unpack_pieces(path: Path) -> Callable[[Path], None]:
    def unpack(folder: Path) -> None:
        if path.suffix == ".aar":
            with zipfile.ZipFile(path) as archive:
                (folder / "classes.jar").write_bytes(archive.read("classes.jar"))
                for abi in ABIS:
                    (folder / abi).mkdir()
                    (folder / abi / "libexecutorch.so").write_bytes(archive.read(f"jni/{abi}/libexecutorch.so"))
            return
        wanted = {"package/android/libs/classes.jar": "classes.jar"}
        wanted |= {f"package/third-party/android/libs/executorch/{abi}/libexecutorch.so": abi for abi in ABIS}
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name in wanted:
                    target = folder / wanted.pop(member.name)
                    if target.suffix != ".jar":
                        target.mkdir()
                        target /= "libexecutorch.so"
                    stream = archive.extractfile(member)
                    assert stream is not None
                    target.write_bytes(stream.read())
        if wanted:
            raise BuildError(f"{path.name} lacks {', '.join(wanted)}.")

    return unpack


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

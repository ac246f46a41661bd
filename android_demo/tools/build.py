"""Builds and tests the Gradle project beside this folder with a JDK 17 and Python only.

No Gradle, no Android SDK: compilers and libraries come from the registries as `dependencies.lock` names them, and the
Android framework to compile against and to test on is Robolectric's build of Android itself. Versions and settings are
those of the Gradle files. A step whose inputs have not changed is not repeated.

    python3 tools/build.py apk [--release] [--bundle FOLDER ...]
    python3 tools/build.py test [--bundle FOLDER] [--references FILE] [--filter TEXT ...] [--record-screenshots]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import api_check
import host
from apk import PAGE, ApkWriter, misaligned, page_size
from artifacts import ROOT, Artifact, BuildError, fetch, fetch_all, read_lock, sha256_of

BUILD = ROOT / "build"
CORE, APP = ROOT / "core" / "src", ROOT / "app" / "src"
ABIS = ("arm64-v8a", "x86_64")
ALLOWED_PERMISSIONS = ("DYNAMIC_RECEIVER_NOT_EXPORTED_PERMISSION",)  # androidx.core's own, for the app itself
NO_JDK = "No JDK is installed: install a JDK 17 (on Debian: openjdk-17-jdk-headless)."
SDK_OF_TESTS = "15-"  # of the Robolectric artifacts
KEYSTORE_PASSWORD, KEY_ALIAS = "android", "androiddebugkey"  # as Android's tools have them; a debug key is no secret
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
NO_RESOURCE = re.compile(  # what of a library's jar does not go into an APK
    r"(/|\.class|\.kotlin_module|\.version|\.pro|\.SF|\.RSA|MANIFEST\.MF|LICENSE[^/]*|NOTICE[^/]*)$"
    r"|^META-INF/(maven|proguard|versions|com)/"
)
START = time.monotonic()


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


def say(text: str) -> None:
    """A line about the progress."""
    sys.stdout.write(f"[{time.monotonic() - START:5.0f} s] {text}\n")
    sys.stdout.flush()


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Runs a tool and returns what it printed; a tool that fails shows all of it."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, errors="replace", cwd=cwd)
    if done.returncode:
        sys.stdout.write(done.stdout + done.stderr)
        name = next((str(part) for part in command if "." in str(part) and "/" not in str(part)), str(command[0]))
        raise BuildError(f"{name} failed, see above.")
    return done.stdout


def class_path(*parts: Path | Iterable[Path]) -> str:
    """A class path of files and lists of files."""
    flat: list[Path] = []
    for part in parts:
        flat += [part] if isinstance(part, Path) else part
    return os.pathsep.join(str(path) for path in flat)


def jdk() -> Path:
    """The folder of the JDK 17 in use."""
    javac = shutil.which("javac", path=os.environ.get("JAVA_HOME", "/none") + "/bin") or shutil.which("javac")
    if not javac:
        raise BuildError(NO_JDK)
    done = subprocess.run([javac, "-version"], capture_output=True, text=True)
    version = re.search(r"^javac (\S+)", done.stdout + done.stderr, re.MULTILINE)  # Java 8 says it on stderr
    if not version:  # macOS has a javac that only says where to get one
        raise BuildError(NO_JDK)
    if not re.match(r"17\b", version[1]):
        raise BuildError(f"The JDK is {version[1]}, and this build was tested with 17 only: set JAVA_HOME to a JDK 17.")
    return Path(javac).resolve().parent.parent


# ----------------------------------------------------------------------------------------------------------------------
# Steps
# ----------------------------------------------------------------------------------------------------------------------


def fingerprint(inputs: Iterable[Any]) -> str:
    """A hash of everything a step depends on: files and folders by content, the rest by its text.

    Of a file its own name counts, in a folder its path there: a resource moved to another language is a change, and
    another place of the whole checkout is none.
    """
    digest = hashlib.sha256(sha256_of(Path(__file__)).encode())
    for item in inputs:
        paths = sorted(item.rglob("*")) if isinstance(item, Path) and item.is_dir() else [item]
        for path in paths:
            if isinstance(path, Path):
                if path.is_file():
                    name = path.relative_to(item) if path != item else path.name
                    digest.update(f"{name} {sha256_of(path)}\n".encode())
            else:
                digest.update(f"{path}\n".encode())
    return digest.hexdigest()


def step(name: str, text: str, inputs: Iterable[Any], make: Callable[[Path], None]) -> Path:
    """Makes the folder build/<name> unless it was made from the same inputs already."""
    folder, stamp = BUILD / name, BUILD / f"{name}.stamp"
    key = fingerprint(inputs)
    if folder.is_dir() and stamp.is_file() and stamp.read_text() == key:
        return folder
    say(text)
    stamp.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(folder)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(key)
    return folder


def prepare() -> Toolbox:
    """Downloads and unpacks everything."""
    lock = read_lock()
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


def compile_kotlin(tools: Toolbox, name: str, sources: Path, path: str, *options: str) -> Path:
    """Compiles a Kotlin source folder to build/<name>; warnings are errors."""
    files = sorted(str(file) for file in sources.rglob("*.kt"))
    plugins = [f"-Xplugin={path}" for path in tools.jars["tool"] if "compiler-plugin" in path.name]

    def make(folder: Path) -> None:
        arguments = folder.with_suffix(".arguments")
        lines = ["-no-stdlib", "-no-reflect", "-Werror", "-jvm-target", "17", "-jdk-home", str(jdk()), *plugins]
        lines += ["-d", str(folder), "-classpath", path, *options, *files]
        arguments.write_text("\n".join(json.dumps(line) for line in lines))
        compiler = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
        run("java", "-Xmx2g", "-cp", class_path(tools.jars["compiler"]), compiler, f"@{arguments}")

    depends = [Path(part) for part in path.split(os.pathsep)]
    own = [part for part in depends if part.is_relative_to(BUILD) and not part.is_relative_to(BUILD / "aar")]
    others = [part.name for part in depends if part not in own]
    return step(name, f"compiling {name}: {len(files)} files", [sources, *own, *others, options], make)


class Settings(NamedTuple):
    """The app's settings, as its Gradle file has them."""

    application: str
    min_sdk: str
    target_sdk: str
    version_code: str
    version_name: str


def read_settings() -> Settings:
    """Reads app/build.gradle.kts."""
    text = (ROOT / "app" / "build.gradle.kts").read_text(encoding="utf-8")

    def value(key: str) -> str:
        found = re.search(rf'\b{key}\s*=\s*"?([^"\s]+)', text)
        if not found:
            raise BuildError(f"app/build.gradle.kts does not set {key}.")
        return found[1]

    return Settings(*map(value, ("applicationId", "minSdk", "targetSdk", "versionCode", "versionName")))


class Resources(NamedTuple):
    """The app's manifest and resources, ready to package."""

    manifest: Path
    apk: Path
    classes: Path
    rules: Path


def link_resources(tools: Toolbox, settings: Settings, *, debuggable: bool) -> Resources:
    """Merges the manifests, compiles and links the resources, and makes the R classes."""
    main = APP / "main"
    aars = tools.aars["app"]
    kind = "debug" if debuggable else "release"

    def make(folder: Path) -> None:
        source, manifest = folder / "main.xml", folder / "AndroidManifest.xml"
        text = (main / "AndroidManifest.xml").read_text(encoding="utf-8")
        source.write_text(text.replace("<manifest ", f'<manifest package="{settings.application}" ', 1))
        properties = {
            "min_sdk_version": settings.min_sdk,
            "target_sdk_version": settings.target_sdk,
            "version_code": settings.version_code,
            "version_name": settings.version_name,
            "package": settings.application,
        }
        arguments = [part for key, value in properties.items() for part in ("--property", f"{key}={value}")]
        run(
            *("java", "-cp", class_path(tools.jars["merger"]), "com.android.manifmerger.Merger"),
            *("--main", source, "--out", manifest, "--remove-tools-declarations", "--log", "WARNING"),
            *("--manifest-placeholders", f"applicationId={settings.application}", *arguments),
            *("--libs", os.pathsep.join(str(aar / "AndroidManifest.xml") for aar in aars)),
        )
        if debuggable:
            text = manifest.read_text(encoding="utf-8")
            manifest.write_text(text.replace("<application", '<application android:debuggable="true"', 1))
        check_permissions(manifest)

        compiled = []
        for index, resources in enumerate([*(aar / "res" for aar in aars), main / "res"]):
            if resources.is_dir() and any(resources.iterdir()):
                compiled.append(folder / f"{index:03}.zip")
                run(tools.aapt2, "compile", "--dir", resources, "-o", compiled[-1])
        packages = {
            match[1]
            for aar in [*aars, *tools.aars["test"]]
            if (match := re.search(r'package="([^"]+)"', (aar / "AndroidManifest.xml").read_text(encoding="utf-8")))
        }
        run(
            *(tools.aapt2, "link", "-o", folder / "resources.apk", "-I", tools.android, "--manifest", manifest),
            *("--java", folder / "java", "--custom-package", settings.application),
            *("--extra-packages", ":".join(sorted(packages)), "--non-final-ids", "--no-version-vectors"),
            *("--auto-add-overlay", "--proguard", folder / "aapt.pro"),
            *("--min-sdk-version", settings.min_sdk, "--target-sdk-version", settings.target_sdk),
            *("--version-code", settings.version_code, "--version-name", settings.version_name),
            *(part for path in compiled for part in ("-R", path)),
        )
        sources = sorted((folder / "java").rglob("*.java"))
        run("javac", "-nowarn", "--release", "11", "-d", folder / "classes", *sources)

    inputs = [main / "AndroidManifest.xml", main / "res", *settings, *(aar.name for aar in aars)]
    folder = step(f"resources-{kind}", "manifest and resources", inputs, make)
    return Resources(folder / "AndroidManifest.xml", folder / "resources.apk", folder / "classes", folder / "aapt.pro")


def permissions_of(manifest: Path) -> list[str]:
    """Permissions that a merged manifest asks for."""
    return re.findall(r'<uses-permission[^>]*android:name="([^"]+)"', manifest.read_text(encoding="utf-8"))


def check_permissions(manifest: Path) -> None:
    """Offline is a promise: the app asks for nothing, the network least of all."""
    asked = [name for name in permissions_of(manifest) if not name.endswith(ALLOWED_PERMISSIONS)]
    if asked:
        raise BuildError(f"The merged manifest asks for {', '.join(asked)}, and the app must ask for nothing.")


def jar(folder: Path, target: Path) -> Path:
    """Packs a class folder."""
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return target


def compile_app(tools: Toolbox, resources: Resources) -> tuple[Path, Path]:
    """Class folders of core and app."""
    libraries = tools.libraries
    core = compile_kotlin(tools, "core", CORE / "main", class_path(tools.jars["app"]))
    path = class_path(core, libraries, resources.classes, tools.android)
    app = compile_kotlin(tools, "app", APP / "main", path)
    check_apis(tools, [core, app, tools.runtime / "classes.jar"], [*tools.jars["app"], resources.classes])
    return core, app


def check_apis(tools: Toolbox, classes: Sequence[Path], libraries: Sequence[Path]) -> None:
    """Stops at APIs that are hidden, or newer than minSdk and not listed: see `api_check`."""
    found = ((re.match(r"gummy-bears-api-(\d+)-", path.name), path) for path in tools.jars["tool"])
    signatures = {int(match[1]): path for match, path in found if match}
    lowest, highest = int(read_settings().min_sdk), max(signatures)
    if lowest not in signatures:
        raise BuildError(f"dependencies.lock has no signatures of API {lowest}, which is minSdk: see TOOLS in lock.py.")
    files = [tools.tool("animal-sniffer-"), tools.tool("asm-"), signatures[lowest], signatures[highest]]
    sources = [CORE / "main" / "kotlin", APP / "main" / "kotlin"]

    def make(folder: Path) -> None:
        java: list[str | Path] = ["java", "-cp", class_path(files[:2]), api_check.CHECKER, *files[2:]]
        output = run(*java, class_path(classes), class_path(libraries))
        (folder / "uses.txt").write_text(output)
        count = api_check.check(output, sources, lowest, highest)
        say(f"no hidden API; {count} uses newer than API {lowest}, all listed with their guards")

    scripts = [Path(api_check.__file__), api_check.CHECKER, api_check.LISTED]
    names = [path.name for path in (*files, *libraries)]
    step("api-check", "which Android APIs are used", [*classes, *sources, *scripts, *names], make)


# ----------------------------------------------------------------------------------------------------------------------
# The APK
# ----------------------------------------------------------------------------------------------------------------------


def check_bundle(folder: Path) -> dict[str, Path]:
    """The files of a bundle by name, the manifest among them, each checked against its SHA-256."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise BuildError(f"{folder} is no bundle: it has no manifest.json; make one with 'make demo'.")
    try:
        listed = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        expected = {str(name): str(entry["sha256"]) for name, entry in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(f"{manifest} is no bundle manifest ({type(error).__name__}: {error}).") from error
    files = {"manifest.json": manifest}
    for name, sha256 in sorted(expected.items()):
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BuildError(f"{manifest} lists '{name}', which is outside of the bundle.")
        if not path.is_file():
            raise BuildError(f"{folder} lacks '{name}', which its manifest lists.")
        if sha256_of(path) != sha256:
            raise BuildError(f"{path} was altered: its SHA-256 is not the manifest's.")
        files[name] = path
    return files


def make_dex(tools: Toolbox, resources: Resources, core: Path, app: Path, settings: Settings, release: bool) -> Path:
    """The app's and the libraries' classes as Android runs them."""
    r8 = tools.tool("r8-")
    # Robolectric's Android has no java.*: the JDK's stands in for it.
    common: list[str | Path] = ["--lib", tools.android, "--lib", jdk(), "--min-api", settings.min_sdk]

    def command(name: str, memory: str, mode: str, folder: Path) -> list[str | Path]:
        return ["java", memory, "-cp", r8, f"com.android.tools.r8.{name}", mode, *common, "--output", folder]

    own = [("core", core), ("app", app), ("r", resources.classes)]
    rules = [
        resources.rules,
        ROOT / "app" / "proguard-rules.pro",
        *(aar / "proguard.txt" for aar in tools.aars["app"] if (aar / "proguard.txt").exists()),
    ]

    def shrink(folder: Path) -> None:
        program = [jar(classes, folder / f"{name}.jar") for name, classes in own]
        extra = folder / "extra.pro"
        missing = ("androidx.window.extensions.**", "androidx.window.sidecar.**", "com.android.**")
        extra.write_text("".join(f"-dontwarn {name}\n" for name in missing))
        configuration = [part for path in [*rules, extra] for part in ("--pg-conf", path)]
        mapping = ("--pg-map-output", folder / "mapping.txt", "--map-diagnostics", "warning", "info")
        run(*command("R8", "-Xmx4g", "--release", folder), *mapping, *configuration, *program, *tools.libraries)

    def dex_libraries(folder: Path) -> None:
        run(*command("D8", "-Xmx4g", "--debug", folder), *tools.libraries)

    def dex_own(folder: Path) -> None:
        program = [jar(classes, folder / f"{name}.jar") for name, classes in own]
        beside = [part for library in tools.libraries for part in ("--classpath", library)]
        run(*command("D8", "-Xmx2g", "--debug", folder), *beside, *program)

    names = [library.parent.name + library.name for library in tools.libraries]
    if release:
        inputs = [core, app, resources.classes, *rules, *names]
        return step("dex-release", "shrinking and dexing with R8", inputs, shrink)
    libraries = step("dex-libraries", "dexing the libraries", [*names, settings.min_sdk], dex_libraries)
    mine = step("dex-own", "dexing the app", [core, app, resources.classes, *names], dex_own)

    def join(folder: Path) -> None:
        for index, dex in enumerate([*sorted(mine.glob("*.dex")), *sorted(libraries.glob("*.dex"))], 1):
            shutil.copy(dex, folder / f"classes{index if index > 1 else ''}.dex")

    return step("dex-debug", "joining", [mine, libraries], join)


def native_libraries(tools: Toolbox) -> dict[str, bytes]:
    """The APK's native libraries by their path in it, all loadable with 16 KiB pages."""
    libraries = {}
    for abi in ABIS:
        runtime = tools.runtime / abi / "libexecutorch.so"
        for path in [runtime, *(so for aar in tools.aars["app"] for so in sorted((aar / "jni" / abi).glob("*.so")))]:
            content = path.read_bytes()
            if page_size(content, path.name) < PAGE:
                raise BuildError(f"{path.name} for {abi} cannot be loaded with memory pages of 16 KiB.")
            libraries[f"lib/{abi}/{path.name}"] = content
    return libraries


def make_apk(bundles: Sequence[Path], *, release: bool) -> Path:
    """Builds, signs and checks the APK, and says what is in it."""
    bundle_files = {folder.resolve().name: check_bundle(folder) for folder in bundles}
    tools, settings = prepare(), read_settings()
    resources = link_resources(tools, settings, debuggable=not release)
    core, app = compile_app(tools, resources)
    dex = make_dex(tools, resources, core, app, settings, release)
    say("packaging and signing")
    kind = "release" if release else "debug"
    target = BUILD / "apk" / f"et-demo-{kind}.apk"
    target.parent.mkdir(parents=True, exist_ok=True)
    unsigned, signed = target.with_suffix(".unsigned"), target.with_suffix(".signed")
    libraries = native_libraries(tools)
    with ApkWriter(unsigned) as apk, zipfile.ZipFile(resources.apk) as linked:
        for entry in linked.infolist():
            apk.add(entry.filename, linked.read(entry), stored=entry.compress_type == zipfile.ZIP_STORED)
        for path in sorted(dex.glob("*.dex")):
            apk.add(path.name, path.read_bytes(), stored=False)
        for library in [*tools.libraries]:
            with zipfile.ZipFile(library) as archive:
                for name in archive.namelist():
                    if not NO_RESOURCE.search(name):
                        apk.add(name, archive.read(name), stored=False)
        for name, content in libraries.items():
            apk.add(name, content, stored=True)
        for bundle, files in bundle_files.items():
            for name, path in files.items():
                apk.add(f"assets/bundles/{bundle}/{name}", path.read_bytes(), stored=True)
    schemes = sign(tools, settings, unsigned, signed)
    if wrong := misaligned(signed):
        raise BuildError(f"{', '.join(wrong)} in the APK lie where Android cannot map them.")
    unsigned.unlink()
    signed.replace(target)
    permissions = [name for name in permissions_of(resources.manifest) if not name.endswith(ALLOWED_PERMISSIONS)]
    report = {
        "size": f"{target.stat().st_size / 1e6:.1f} MB",
        "bundles": ", ".join(bundle_files) or "none",
        "permissions": ", ".join(permissions) or "none",
        "ABIs": f"{', '.join(ABIS)}; {len(libraries)} native libraries, stored, for 16 KiB pages",
        "signature": f"{schemes} (debug key), verified; stored entries aligned",
    }
    say(str(target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target))
    for key, value in report.items():
        sys.stdout.write(f"          {key:12} {value}\n")
    return target


def sign(tools: Toolbox, settings: Settings, unsigned: Path, signed: Path) -> str:
    """Signs with a debug key, which is made at the first use, and verifies; returns the signature schemes."""
    keystore = BUILD / "debug.keystore"
    if not keystore.exists():
        run(
            *("keytool", "-genkeypair", "-keystore", keystore, "-storetype", "PKCS12", "-alias", KEY_ALIAS),
            *("-storepass", KEYSTORE_PASSWORD, "-dname", "CN=Android Debug,O=Android,C=US"),
            *("-keyalg", "RSA", "-keysize", "2048", "-validity", "10000"),
        )
    signer = Path(__file__).with_name("SignApk.java")
    arguments = (keystore, KEYSTORE_PASSWORD, KEY_ALIAS, settings.min_sdk, unsigned, signed)
    return run("java", "-cp", tools.tool("apksig-"), signer, *arguments).strip()


# ----------------------------------------------------------------------------------------------------------------------
# Tests
# ----------------------------------------------------------------------------------------------------------------------


def test_classes(sources: Path, filters: Sequence[str]) -> list[str]:
    """Names of the test classes of a source folder, the longest files first."""
    files = sorted(sources.rglob("*Test.kt"), key=lambda file: -file.stat().st_size)
    names = [".".join(file.relative_to(sources / "kotlin").with_suffix("").parts) for file in files]
    return [name for name in names if not filters or any(text in name for text in filters)]


class Tests(NamedTuple):
    """Test classes that one JVM runs."""

    name: str
    classes: list[str]
    path: str
    options: list[str]


def run_tests(groups: Sequence[Tests], tools: Toolbox) -> bool:
    """Runs groups of tests side by side, one JVM each; says what failed."""
    source = Path(__file__).with_name("RunTests.java")

    def compile_runner(folder: Path) -> None:
        run("javac", "-cp", class_path(tools.jars["test"]), "-d", folder, source)

    runner = step("runner", "the test runner", [source], compile_runner)
    results = BUILD / "test-results"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    running = []
    for group in groups:
        say(f"testing {group.name}: {len(group.classes)} classes")
        output = (results / f"{group.name}.log").open("wb")
        command = [
            "java",
            "-Xmx2g",
            f"-XX:ErrorFile={results}/crash_%p.log",
            *group.options,
            "-cp",
            class_path(runner) + os.pathsep + group.path,
            "RunTests",
        ]
        command += [str(results / f"{group.name}.txt"), *group.classes]
        running.append((group, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT / "app")))
    passed = failed = skipped = 0
    for group, process in running:
        code = process.wait()
        report = results / f"{group.name}.txt"  # not there when the JVM did not even start
        text = report.read_text(encoding="utf-8", errors="replace") if report.is_file() else ""
        passed += len(re.findall(r"^PASSED", text, re.MULTILINE))
        skipped += len(re.findall(r"^SKIPPED", text, re.MULTILINE))
        failures = re.findall(r"^FAILED\t.*\n(?:\t.*\n?)*", text, re.MULTILINE)
        failed += len(failures)
        sys.stdout.write("".join(failures))
        if not text.endswith("DONE\n") or bool(code) != bool(failures):
            failed += 1
            log = (results / f"{group.name}.log").read_text(encoding="utf-8", errors="replace")
            sys.stdout.write(
                log[-4000:] + f"\nThe JVM of {group.name} ended with {code}; all it printed is in {results}\n"
            )
    say(f"{passed} passed, {failed} failed, {skipped} skipped")
    return not failed and passed > 0


def make_tests(bundle: Path | None, references: Path | None, filters: Sequence[str], *, record: bool) -> bool:
    """Compiles and runs the tests of core and app; returns whether all passed."""
    tools, settings = prepare(), read_settings()
    resources = link_resources(tools, settings, debuggable=True)
    core, app = compile_app(tools, resources)
    properties = {}
    installed = BUILD / "installed.apk"  # what the tests' Android has as the app's file
    shutil.copy(resources.apk, installed)
    if bundle:
        with zipfile.ZipFile(installed, "a") as archive:
            for name, source in check_bundle(bundle).items():
                archive.write(source, f"assets/bundles/{bundle.resolve().name}/{name}")
        properties["et.bundle"] = str(bundle.resolve())
    if references:
        properties["et.references"] = str(references.resolve())
    properties["et.manifest"] = str(resources.manifest)
    options = [f"-D{key}={value}" for key, value in properties.items()]

    groups = []
    libraries = tools.libraries
    test_jars = tools.jars["test"]
    if classes := test_classes(CORE / "test", filters):
        path = class_path(core, test_jars, tools.jars["app"])
        compiled = compile_kotlin(tools, "core-test", CORE / "test", path, f"-Xfriend-paths={core}")
        groups.append(Tests("core", classes, class_path(compiled) + os.pathsep + path, options))
    if classes := test_classes(APP / "test", filters):
        config = BUILD / "test-config" / "com" / "android" / "tools" / "test_config.properties"
        config.parent.mkdir(parents=True, exist_ok=True)
        entries = {
            "android_custom_package": settings.application,
            "android_merged_manifest": resources.manifest,
            "android_resource_apk": installed,
        }
        config.write_text("".join(f"{key}={value}\n" for key, value in entries.items()))
        path = class_path(app, core, resources.classes, test_jars, libraries, BUILD / "test-config")
        compiling = path + os.pathsep + str(tools.android)
        compiled = compile_kotlin(tools, "app-test", APP / "test", compiling, f"-Xfriend-paths={app}")
        (android,) = (file for file in tools.jars["robolectric"] if file.name.startswith(f"android-all-{SDK_OF_TESTS}"))
        framework = BUILD / "robolectric"
        shutil.rmtree(framework, ignore_errors=True)
        framework.mkdir()
        for file in tools.jars["robolectric"]:
            (framework / file.name).symlink_to(file)
        libraries_here = [
            tools.runtime / "x86_64" / "libexecutorch.so",
            *(
                so
                for aar in tools.aars["app"]
                for so in (aar / "jni" / "x86_64").glob("*.so")
                if so.name in host.ANDROID
            ),
        ]
        place = step(
            "host",
            "Android's libraries for this JVM",
            [*libraries_here, host.SOURCES, Path(host.__file__)],
            lambda folder: host.make_host(libraries_here, folder),
        )
        options += [
            f"-agentpath:{place}/libandroidhost.so",
            f"-Djava.library.path={place}",
            "--add-opens=java.base/java.io=ALL-UNNAMED",  # for Robolectric's ParcelFileDescriptor
            # A native library belongs to one class loader, and Robolectric has one for each sandbox.
            "-Dorg.robolectric.packagesToNotAcquire=org.pytorch.,com.facebook.",
            "-Drobolectric.offline=true",
            f"-Drobolectric.dependency.dir={framework}",
            f"-Droborazzi.test.{'record' if record else 'verify'}=true",
        ]
        running = class_path(compiled) + os.pathsep + path + os.pathsep + str(android)
        shares = min(len(classes), 2 if (os.cpu_count() or 1) > 1 else 1)
        groups += [Tests(f"app-{index + 1}", classes[index::shares], running, options) for index in range(shares)]
    if not groups:
        raise BuildError(f"No test class has {' or '.join(filters)} in its name.")
    return run_tests(groups, tools)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Builds and tests the app without Gradle and without Android's SDK.")
    commands = parser.add_subparsers(dest="command", required=True)
    apk = commands.add_parser("apk", help="build a signed APK")
    apk.add_argument("--release", action="store_true", help="shrink with R8")
    apk.add_argument("--bundle", type=Path, action="append", default=[], help="a bundle's folder to put inside")
    test = commands.add_parser("test", help="run the tests")
    test.add_argument("--bundle", type=Path, help="a bundle's folder for the tests with a real model")
    test.add_argument("--references", type=Path, help="answers of the Python runner, from tools/references.py")
    test.add_argument("--filter", action="append", default=[], help="only classes with this in their name")
    test.add_argument("--record-screenshots", action="store_true", help="draw them anew instead of comparing")
    arguments = parser.parse_args()
    try:
        # The rest of it comes from the same JDK, whatever java the PATH has.
        os.environ["PATH"] = os.pathsep.join([str(jdk() / "bin"), os.environ.get("PATH", "")])
        if arguments.command == "apk":
            make_apk(arguments.bundle, release=arguments.release)
        elif not make_tests(
            arguments.bundle, arguments.references, arguments.filter, record=arguments.record_screenshots
        ):
            sys.exit(1)
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()

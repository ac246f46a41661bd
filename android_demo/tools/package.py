"""Makes the APK: dex files, native libraries and bundles in one signed archive."""

from __future__ import annotations

import json
import re
import shutil
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from apk import PAGE, ApkWriter, misaligned, page_size
from artifacts import BuildError, sha256_of
from compiling import (
    ALLOWED_PERMISSIONS,
    APP,
    Classes,
    Resources,
    compile_app,
    link_resources,
    permissions_of,
)
from gradle_files import DEFAULT_RULES, AppSettings
from steps import BUILD, jdk, run, say, step
from toolbox import Toolbox, prepare

KEYSTORE_PASSWORD, KEY_ALIAS = "android", "androiddebugkey"  # as Android's tools have them; a debug key is no secret
RULES = ("header", "optimizations", "common")  # the parts of DEFAULT_RULES
NO_RESOURCE = re.compile(  # what of a library's jar does not go into an APK
    r"(/|\.class|\.kotlin_module|\.version|\.pro|\.SF|\.RSA|MANIFEST\.MF|LICENSE[^/]*|NOTICE[^/]*)$"
    r"|^META-INF/(maven|proguard|versions|com)/"
)


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


def jar(folder: Path, target: Path) -> Path:
    """Packs a class folder."""
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return target


def default_rules(tools: Toolbox) -> Path:
    """A folder with the rules for R8 that Android's Gradle plugin has for every app."""
    plugin = tools.tool("gradle-")

    def extract(folder: Path) -> None:
        with zipfile.ZipFile(plugin) as archive:
            parts = [archive.read(f"com/android/build/gradle/proguard-{part}.txt") for part in RULES]
        (folder / DEFAULT_RULES).write_bytes(b"\n".join(parts))

    return step("rules", "the default rules for R8", [plugin], extract)


def make_dex(tools: Toolbox, resources: Resources, classes: Classes, settings: AppSettings, release: bool) -> Path:
    """The app's and the libraries' classes as Android runs them."""
    r8 = tools.tool("r8-")
    # Robolectric's Android has no java.*: the JDK's stands in for it.
    common: list[str | Path] = ["--lib", tools.android, "--lib", jdk(), "--min-api", settings.min_sdk]

    def command(name: str, memory: str, mode: str, folder: Path) -> list[str | Path]:
        return ["java", memory, "-cp", r8, f"com.android.tools.r8.{name}", mode, *common, "--output", folder]

    own = [*classes._asdict().items(), ("r", resources.classes)]
    rules = [
        resources.rules,
        default_rules(tools) / DEFAULT_RULES,
        tools.project.engine.rules,
        *(aar / "proguard.txt" for aar in tools.packed if (aar / "proguard.txt").exists()),
    ]

    def shrink(folder: Path) -> None:
        program = [jar(made, folder / f"{name}.jar") for name, made in own]
        extra = folder / "extra.pro"
        extra.write_text("-dontwarn com.android.**\n")  # of Android itself, inside of which tools.android was cut out
        configuration = [part for path in [*rules, extra] for part in ("--pg-conf", path)]
        mapping = ("--pg-map-output", folder / "mapping.txt", "--map-diagnostics", "warning", "info")
        run(*command("R8", "-Xmx4g", "--release", folder), *mapping, *configuration, *program, *tools.libraries)

    def dex_libraries(folder: Path) -> None:
        run(*command("D8", "-Xmx4g", "--debug", folder), *tools.libraries)

    def dex_own(folder: Path) -> None:
        program = [jar(made, folder / f"{name}.jar") for name, made in own]
        beside = [part for library in tools.libraries for part in ("--classpath", library)]
        run(*command("D8", "-Xmx2g", "--debug", folder), *beside, *program)

    inputs = [r8, tools.android, settings.min_sdk, *tools.libraries]
    if release:
        inputs += [*classes, resources.classes, *rules]
        return step("dex-release", "shrinking and dexing with R8", inputs, shrink)
    libraries = step("dex-libraries", "dexing the libraries", inputs, dex_libraries)
    mine = step("dex-own", "dexing the app", [*inputs, *classes, resources.classes], dex_own)

    def join(folder: Path) -> None:
        for index, dex in enumerate([*sorted(mine.glob("*.dex")), *sorted(libraries.glob("*.dex"))], 1):
            shutil.copy(dex, folder / f"classes{index if index > 1 else ''}.dex")

    return step("dex-debug", "joining", [mine, libraries], join)


def native_libraries(tools: Toolbox) -> dict[str, bytes]:
    """The APK's native libraries by their path in it, all loadable with 16 KiB pages."""
    libraries = {}
    for abi in tools.project.app.abis:
        runtime = tools.runtime / abi / "libexecutorch.so"
        for path in [runtime, *(so for aar in tools.packed for so in sorted((aar / "jni" / abi).glob("*.so")))]:
            content = path.read_bytes()
            if page_size(content, path.name) < PAGE:
                raise BuildError(f"{path.name} for {abi} cannot be loaded with memory pages of 16 KiB.")
            libraries[f"lib/{abi}/{path.name}"] = content
    return libraries


def assets_of(folder: Path, bundles: Mapping[str, Mapping[str, Path]]) -> dict[str, Path]:
    """The APK's assets by name: those of the app's own folder, as Gradle takes them, and bundles' files."""
    own = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return own | {f"bundles/{bundle}/{name}": path for bundle, files in bundles.items() for name, path in files.items()}


def make_apk(bundles: Sequence[Path], *, release: bool) -> Path:
    """Builds, signs and checks the APK, and says what is in it."""
    bundle_files = {folder.resolve().name: check_bundle(folder) for folder in bundles}
    tools = prepare()
    settings = tools.project.app
    resources = link_resources(tools, settings, debuggable=not release)
    dex = make_dex(tools, resources, compile_app(tools, resources), settings, release)
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
        for library in tools.libraries:
            with zipfile.ZipFile(library) as archive:
                for name in archive.namelist():
                    if not NO_RESOURCE.search(name):
                        apk.add(name, archive.read(name), stored=False)
        for name, content in libraries.items():
            apk.add(name, content, stored=True)
        for name, path in assets_of(APP / "main" / "assets", bundle_files).items():
            apk.add(f"assets/{name}", path.read_bytes(), stored=path.suffix[1:] in settings.no_compress)
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
        "ABIs": f"{', '.join(settings.abis)}; {len(libraries)} native libraries, stored, for 16 KiB pages",
        "signature": f"{schemes} (debug key), verified; stored entries aligned",
    }
    say(str(target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target))
    for key, value in report.items():
        sys.stdout.write(f"          {key:12} {value}\n")
    return target


def sign(tools: Toolbox, settings: AppSettings, unsigned: Path, signed: Path) -> str:
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

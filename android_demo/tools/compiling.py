"""Compiles the app: its resources, its Kotlin, and a check of the Android APIs that it uses."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import api_check
from artifacts import ROOT, BuildError
from gradle_files import JAVA, MODULES, AppSettings
from steps import class_path, jdk, run, say, step
from toolbox import Toolbox

CORE, ENGINE, APP = (ROOT / project / "src" for project in ("core", "engine", "app"))
# By the alias of Gradle's plugin, which brings it.
COMPILER_PLUGINS = {
    "kotlin-compose": "kotlin-compose-compiler-plugin-embeddable-",
    "kotlin-serialization": "kotlin-serialization-compiler-plugin-embeddable-",
}
ALLOWED_PERMISSIONS = ("DYNAMIC_RECEIVER_NOT_EXPORTED_PERMISSION",)  # androidx.core's own, for the app itself


def compile_kotlin(
    tools: Toolbox, name: str, sources: Path, path: str, *options: str, module: str | None = None
) -> Path:
    """Compiles a Kotlin source folder to build/<name>, with the module's plugins; warnings are errors."""
    files = sorted(str(file) for file in sources.rglob("*.kt"))
    aliases = tools.project.modules[module].compiler_plugins if module else []
    compiler, plugins = tools.jars["compiler"], [tools.tool(COMPILER_PLUGINS[alias]) for alias in aliases]

    def make(folder: Path) -> None:
        arguments = folder.with_suffix(".arguments")
        lines = ["-no-stdlib", "-no-reflect", "-Werror", "-jvm-target", str(JAVA), "-jdk-home", str(jdk())]
        lines += [f"-Xplugin={plugin}" for plugin in plugins]
        lines += ["-d", str(folder), "-classpath", path, *options, *files]
        arguments.write_text("\n".join(json.dumps(line) for line in lines))
        main = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
        run("java", "-Xmx2g", "-cp", class_path(compiler), main, f"@{arguments}")

    inputs = [sources, *map(Path, path.split(os.pathsep)), *compiler, *plugins, options]
    return step(name, f"compiling {name}: {len(files)} files", inputs, make)


class Resources(NamedTuple):
    """The app's manifest and resources, ready to package."""

    manifest: Path
    apk: Path
    classes: Path
    rules: Path


def link_resources(tools: Toolbox, settings: AppSettings, *, debuggable: bool) -> Resources:
    """Merges the manifests, compiles and links the resources, and makes the R classes."""
    main = APP / "main"
    aars = tools.packed
    kind = "debug" if debuggable else "release"

    def make(folder: Path) -> None:
        source, manifest = folder / "main.xml", folder / "AndroidManifest.xml"
        text = (main / "AndroidManifest.xml").read_text(encoding="utf-8")
        text = text.replace("<manifest ", f'<manifest package="{settings.namespace}" ', 1)
        # As Android's plugin says it of libraries that are stored and aligned: they are loaded from the APK.
        source.write_text(text.replace("<application", '<application android:extractNativeLibs="false"', 1))
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
            *("--java", folder / "java", "--custom-package", settings.namespace),
            *("--extra-packages", ":".join(sorted(packages)), "--non-final-ids", "--no-version-vectors"),
            *("--auto-add-overlay", "--proguard", folder / "aapt.pro"),
            *("--min-sdk-version", settings.min_sdk, "--target-sdk-version", settings.target_sdk),
            *("--version-code", settings.version_code, "--version-name", settings.version_name),
            *(part for path in compiled for part in ("-R", path)),
        )
        sources = sorted((folder / "java").rglob("*.java"))
        run("javac", "-nowarn", "--release", "11", "-d", folder / "classes", *sources)

    used = [*tools.jars["merger"], tools.aapt2, tools.android, *aars, *tools.aars["test"]]
    inputs = [main / "AndroidManifest.xml", main / "res", settings, *used]
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


class Classes(NamedTuple):
    """Folders with the classes of each project."""

    core: Path
    engine: Path
    app: Path


def compile_library(tools: Toolbox) -> tuple[Path, Path]:
    """Class folders of core and engine."""
    core = compile_kotlin(tools, "core", CORE / "main", class_path(tools.jars_of("core")), module="core")
    path = class_path(core, tools.jars_of("core", "engine"), tools.runtime / "classes.jar", tools.android)
    return core, compile_kotlin(tools, "engine", ENGINE / "main", path, module="engine")


def compile_app(tools: Toolbox, resources: Resources) -> Classes:
    """Compiles all projects."""
    core, engine = compile_library(tools)
    # Without the engine's own libraries, which it does not show to its users.
    path = class_path(core, engine, tools.jars_of("core", "app"), resources.classes, tools.android)
    made = Classes(core, engine, compile_kotlin(tools, "app", APP / "main", path, module="app"))
    check_apis(tools, [*made, tools.runtime / "classes.jar"], [*tools.jars_of(*MODULES), resources.classes])
    return made


def check_apis(tools: Toolbox, classes: Sequence[Path], libraries: Sequence[Path]) -> None:
    """Stops at APIs that are hidden, or newer than minSdk and not listed: see `api_check`."""
    found = ((re.match(r"gummy-bears-api-(\d+)-", path.name), path) for path in tools.jars["tool"])
    signatures = {int(match[1]): path for match, path in found if match}
    lowest, highest = int(tools.project.app.min_sdk), max(signatures)
    if lowest not in signatures:
        raise BuildError(f"dependencies.lock has no signatures of API {lowest}, which is minSdk: see TOOLS in lock.py.")
    files = [tools.tool("animal-sniffer-"), tools.tool("asm-"), signatures[lowest], signatures[highest]]
    sources = [project / "main" / "kotlin" for project in (CORE, ENGINE, APP)]

    def make(folder: Path) -> None:
        java: list[str | Path] = ["java", "-cp", class_path(files[:2]), api_check.CHECKER, *files[2:]]
        output = run(*java, class_path(classes), class_path(libraries))
        (folder / "uses.txt").write_text(output)
        count = api_check.check(output, sources, lowest, highest)
        say(f"no hidden API; {count} uses newer than API {lowest}, all listed with their guards")

    scripts = [Path(api_check.__file__), api_check.CHECKER, api_check.LISTED]
    inputs = [*classes, *sources, *scripts, *files, *libraries]
    step("api-check", "which Android APIs are used", inputs, make)

"""Checks the Gradle files by compiling them: what a script names has to be in Gradle's API and in that of its plugins.

Gradle itself was found in no package registry; its API was, if an older one, and those of Android's and Kotlin's
plugins at the catalog's versions. A script is the body of a function here, as it is for Gradle, beside what Gradle
generates for it: accessors of the plugins that it applies, and of the catalog. What shows only when a build runs is not
seen.

    python3 tools/check_gradle.py
"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from artifacts import ROOT, BuildError, fetch_all, read_lock
from catalog import CATALOG, read_catalog
from gradle_files import JAVA, MODULES, read_project
from lock import check_lock, version_key
from steps import class_path, run, say, step, use_jdk

DSL = Path(__file__).with_name("GradleDsl.kt")
WRAPPER = Path("gradle", "wrapper", "gradle-wrapper.properties")
SCRIPTS = ("settings.gradle.kts", "build.gradle.kts", *(f"{module}/build.gradle.kts" for module in MODULES))
# By plugin: its extensions with their types, which Gradle knows from the plugins that run.
ANDROID, KOTLIN = "com.android.build.api.dsl", "org.jetbrains.kotlin.gradle.dsl"
EXTENSIONS: dict[str, dict[str, str]] = {
    "com.android.application": {
        "android": f"{ANDROID}.ApplicationExtension",
        "kotlin": f"{KOTLIN}.KotlinAndroidExtension",
    },
    "com.android.library": {"android": f"{ANDROID}.LibraryExtension", "kotlin": f"{KOTLIN}.KotlinAndroidExtension"},
    "org.jetbrains.kotlin.jvm": {
        "java": "org.gradle.api.plugins.JavaPluginExtension",
        "kotlin": f"{KOTLIN}.KotlinJvmExtension",
    },
    "maven-publish": {"publishing": "org.gradle.api.publish.PublishingExtension"},
    "org.jetbrains.kotlin.plugin.compose": {},
    "org.jetbrains.kotlin.plugin.serialization": {},
}
LIBRARY = "org.gradle.api.artifacts.MinimalExternalModuleDependency"
PLUGIN = "org.gradle.plugin.use.PluginDependency"
# What Gradle gives its compiler: `=` for properties, and the receivers of its blocks.
COMPILER_OPTIONS = (
    "plugin:org.jetbrains.kotlin.assignment:annotation=org.gradle.api.SupportsKotlinAssignmentOverloading",
    "plugin:org.jetbrains.kotlin.samWithReceiver:annotation=org.gradle.api.HasImplicitReceiver",
)


def catalog_accessors(catalog: Mapping[str, Any]) -> str:
    """Kotlin declarations of `libs`, as Gradle generates them from a version catalog."""
    declarations: list[str] = []

    def declare(kind: str, target: str, aliases: Iterable[str], more: str = "") -> None:
        """An interface for each part of an alias: of `a-b`, `a` has a property `b`, and may be an alias itself."""
        paths = {tuple(re.split(r"[-_.]", alias)) for alias in aliases}
        nodes = sorted({path[:length] for path in paths for length in range(len(path) + 1)})
        for node in nodes:
            children = [other for other in nodes if other and other[:-1] == node]
            properties = [f"val {child[-1]}: {'_'.join((kind, *child))}" for child in children]
            parent = f" : org.gradle.api.provider.Provider<{target}>" if node in paths else ""
            inside = "; ".join([*properties, *([more] if more and not node else [])])
            declarations.append(f"interface {'_'.join((kind, *node))}{parent} {{ {inside} }}")

    declare("Libraries", LIBRARY, catalog["libraries"], "val plugins: Plugins")
    declare("Plugins", PLUGIN, catalog["plugins"])
    return "\n".join(["package catalog", *declarations, "val org.gradle.api.Project.libs: Libraries get() = TODO()\n"])


def applied_plugins(script: str, catalog: Mapping[str, Any]) -> list[str]:
    """IDs of the plugins that a build script applies."""
    ids: dict[str, str] = {re.sub(r"[-_]", ".", alias): entry["id"] for alias, entry in catalog["plugins"].items()}
    block = re.search(r"^plugins \{\n(.*?)^\}", script, re.MULTILINE | re.DOTALL)
    lines = block[1].splitlines() if block else []
    found = [re.fullmatch(r"\s*(?:alias\(libs\.plugins\.([\w.]+)\)|`([\w-]+)`)", line) for line in lines]
    return [match[2] or ids.get(match[1], match[1]) for match in found if match]


def sources(project: Path, catalog: Mapping[str, Any], imports: Sequence[str]) -> dict[str, str]:
    """A project's scripts as Kotlin files, by name; a script's lines keep their numbers."""
    texts = {"Catalog.kt": catalog_accessors(catalog)}
    opening = [f"import {name}.*" for name in (*imports, "catalog", "dsl")]
    for script in SCRIPTS:
        text = (project / script).read_text(encoding="utf-8")
        package = re.sub(r"\W", "_", script)
        receiver = "initialization.Settings" if script.startswith("settings") else "Project"
        function = f"fun org.gradle.api.{receiver}.script() {{ {text}\n}}\n"
        texts[f"{package}.kt"] = "; ".join([f"package {package}", *opening, function])
        accessors = [f"package {package}"]
        for plugin in applied_plugins(text, catalog):
            if plugin not in EXTENSIONS:
                raise BuildError(f"{script} applies {plugin}, whose extensions {Path(__file__).name} does not know.")
            accessors += [
                f"fun org.gradle.api.Project.{name}(configure: {kind}.() -> Unit): Unit = TODO()"
                for name, kind in EXTENSIONS[plugin].items()
            ]
        texts[f"{package}_accessors.kt"] = "\n".join(accessors) + "\n"
    return texts


def compile_scripts(project: Path, folder: Path, jars: Sequence[Path], compiler: Sequence[Path]) -> None:
    """Compiles a project's Gradle files.

    Args:
        project: Its folder.
        folder: An empty one for what is written.
        jars: The APIs, and two plugins of the compiler.
        compiler: Its class path.

    Raises:
        BuildError: The compiler refuses something, or warns of it; it has printed what and where.
    """
    (api,) = (jar for jar in jars if jar.parent.parent.parent.name == "gradleplugins")
    with zipfile.ZipFile(api) as archive:
        packages = {name.rpartition("/")[0].replace("/", ".") for name in archive.namelist()}
        text = archive.read("default-imports.txt").decode()
    imports = [name for name in re.findall(r"^import (.*)\.\*$", text, re.MULTILINE) if name in packages]
    written: list[Path] = []
    catalog = read_catalog(project)
    for name, content in sources(project, catalog, imports).items():
        written.append(folder / name)
        written[-1].write_text(content, encoding="utf-8")
    command: list[str | Path] = ["java", "-Xmx2g", "-cp", class_path(compiler)]
    command += ["org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-no-stdlib", "-no-reflect", "-Werror"]
    command += ["-jvm-target", str(JAVA), *(f"-Xplugin={jar}" for jar in jars if "compiler-plugin" in jar.name)]
    command += [part for option in COMPILER_OPTIONS for part in ("-P", option)]
    run(*command, "-d", folder / "classes", "-classpath", class_path(jars, compiler), DSL, *written)


def check_wrapper(project: Path, common: Path) -> None:
    """Compares the wrapper's Gradle with the one that Android's plugin asks for, which a jar of its own says.

    Raises:
        BuildError: It is older.
    """
    found = re.search(r"gradle-([\d.]+)-bin\.zip", (project / WRAPPER).read_text(encoding="utf-8"))
    said = run("javap", "-constants", "-cp", common, "com.android.SdkConstants")
    least = re.search(r'String GRADLE_LATEST_VERSION = "([\d.]+)";', said)
    if not found or not least or version_key(found[1]) < version_key(least[1]):
        raise BuildError(
            f"{WRAPPER} has Gradle {found[1] if found else 'without a version'}, and Android's plugin wants "
            f"{least[1] if least else 'one that it does not say'} or newer."
        )


def main() -> None:
    """The command line."""
    try:
        use_jdk()
        lock = read_lock()
        check_lock(read_project(), lock)
        files = fetch_all([artifact for artifact in lock if artifact.scope in ("gradle", "compiler", "merger")])
        jars = {scope: [path for a, path in files.items() if a.scope == scope] for scope in ("gradle", "compiler")}
        (common,) = (path for a, path in files.items() if (a.group, a.name) == ("com.android.tools", "common"))
        check_wrapper(ROOT, common)

        def make(folder: Path) -> None:
            compile_scripts(ROOT, folder, jars["gradle"], jars["compiler"])

        inputs = [*(ROOT / script for script in SCRIPTS), ROOT / CATALOG, DSL, *files.values()]
        step("gradle", f"compiling {len(SCRIPTS)} Gradle files", inputs, make)
        say("the Gradle files are what this build, Gradle's API and the plugins take them for")
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()

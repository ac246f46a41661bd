"""Makes the library for other apps, as a folder that is a Maven repository, and runs a second app that uses it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from artifacts import ROOT, BuildError
from compiling import CORE, ENGINE, Classes, compile_kotlin, read_settings
from lock import CATALOG, coordinate, direct_dependencies
from package import jar
from steps import BUILD, class_path, run, say
from toolbox import Toolbox

GROUP = "org.etpipeline"
SAMPLE = ROOT / "sample" / "src"
QUESTION = "What is the capital of Italy?"
ANSWERS = ["The capital of Italy is Rome.", "The capital of Italy is Rome.", "The capital of Spain is Madrid."]
ANSWERS += ANSWERS[:1]  # from Java
POM = """<?xml version="1.0" encoding="UTF-8"?>
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>{group}</groupId>
  <artifactId>{name}</artifactId>
  <version>{version}</version>
  <packaging>{kind}</packaging>
  <licenses><license><name>Apache-2.0</name></license></licenses>
  <dependencies>
{dependencies}  </dependencies>
</project>
"""
DEPENDENCY = (
    "    <dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version>"
    "<scope>{}</scope></dependency>\n"
)


def make_library(core: Path, engine: Path) -> Path:
    """`core` as a jar and `engine` as an AAR, each with its sources and a POM, as Gradle publishes them."""
    version, repository = read_settings().version_name, BUILD / "maven"
    for name, kind, made, sources in (("core", "jar", core, CORE), ("engine", "aar", engine, ENGINE)):
        folder = repository / GROUP.replace(".", "/") / name / version
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{name}-{version}.{kind}"
        if kind == "jar":
            jar(made, target)
        else:
            _write_aar(made, target)
        jar(sources / "main" / "kotlin", folder / f"{name}-{version}-sources.jar")
        (folder / f"{name}-{version}.pom").write_text(_pom(name, kind, version), encoding="utf-8")
        say(f"{target.relative_to(BUILD)}: {target.stat().st_size / 1e3:.0f} kB")
    return repository


def _write_aar(classes: Path, target: Path) -> None:
    text = (ROOT / "engine" / "build.gradle.kts").read_text(encoding="utf-8")
    namespace, lowest = (re.search(rf'{key} = "?([\w.]+)', text) for key in ("namespace", "minSdk"))
    if not namespace or not lowest:
        raise BuildError("engine/build.gradle.kts does not set namespace and minSdk.")
    manifest = (
        f'<manifest xmlns:android="http://schemas.android.com/apk/res/android" package="{namespace[1]}">'
        f'<uses-sdk android:minSdkVersion="{lowest[1]}" /></manifest>\n'
    )
    inside = jar(classes, target.with_suffix(".classes"))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("AndroidManifest.xml", manifest)
        archive.write(inside, "classes.jar")
        archive.writestr("R.txt", "")
        archive.write(ROOT / "engine" / "consumer-rules.pro", "proguard.txt")
    inside.unlink()


def _pom(name: str, kind: str, version: str) -> str:
    catalog = tomllib.loads(CATALOG.read_text(encoding="utf-8"))
    lines = [DEPENDENCY.format(GROUP, "core", version, "compile")] if name == "engine" else []
    for configuration, scope in (("api", "compile"), ("implementation", "runtime")):
        for alias in direct_dependencies(name, [configuration]):
            module, number = coordinate(alias, catalog["libraries"], catalog["versions"])
            lines.append(DEPENDENCY.format(module.group, module.name, number, scope))
    return POM.format(group=GROUP, name=name, version=version, kind=kind, dependencies="".join(lines))


def compile_sample(tools: Toolbox, classes: Classes) -> str:
    """A class path of the second app, compiled against the published library alone, and of what it needs."""
    repository = make_library(classes.core, classes.engine)
    unpacked = BUILD / "sample-library"
    unpacked.mkdir(exist_ok=True)
    (aar,) = repository.rglob("*.aar")
    with zipfile.ZipFile(aar) as archive:
        archive.extract("classes.jar", unpacked)
    (core,) = (path for path in repository.rglob("core-*.jar") if not path.name.endswith("-sources.jar"))
    path = class_path(core, unpacked / "classes.jar", tools.libraries)
    compiling = path + os.pathsep + str(tools.android)
    kotlin = compile_kotlin(tools, "sample", SAMPLE / "main", compiling, str(SAMPLE / "main" / "java"))
    java = BUILD / "sample-java"
    sources = (SAMPLE / "main" / "java").glob("*.java")
    run("javac", "-d", java, "-cp", class_path(kotlin) + os.pathsep + path, *sources)
    return class_path(kotlin, java) + os.pathsep + path


def check_library(tools: Toolbox, classes: Classes, place: Path, bundle: Path) -> bool:
    """Whether the second app gets the bundle's answers from a model of its own.

    Args:
        tools: All that was downloaded.
        classes: What was compiled.
        place: Android's native libraries for this JVM.
        bundle: The built-in model's folder.
    """
    command = ["java", f"-agentpath:{place}/libandroidhost.so", f"-Djava.library.path={place}"]
    command += ["-cp", compile_sample(tools, classes), "SampleKt", str(bundle), QUESTION]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    found = [line for line in done.stdout.splitlines() if line in ANSWERS]
    passed = not done.returncode and found == ANSWERS
    if not passed:
        sys.stdout.write(f"{done.stdout[-2000:]}{done.stderr[-2000:]}\n")
    say(f"a second app with the library: {'passed' if passed else f'ended with {done.returncode}'}")
    return passed

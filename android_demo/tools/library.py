"""Makes the library for other apps, as a folder that is a Maven repository, and runs a second app that uses it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from artifacts import ROOT
from compiling import CORE, ENGINE, Classes, compile_kotlin
from gradle_files import LibrarySettings, Project
from lock import coordinate
from package import jar
from steps import BUILD, class_path, run, say, step
from toolbox import Toolbox

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


def published(project: Project, name: str, kind: str) -> Path:
    """Where a file of the library lies: its kind is what is behind name and version, '.aar' or '-sources.jar'."""
    folder = BUILD / "maven" / project.group.replace(".", "/") / name / project.version
    return folder / f"{name}-{project.version}{kind}"


def make_library(project: Project, core: Path, engine: Path) -> None:
    """`core` as a jar and `engine` as an AAR, each with its sources and a POM, as Gradle publishes them."""
    for name, kind, made, sources in (("core", "jar", core, CORE), ("engine", "aar", engine, ENGINE)):
        target = published(project, name, f".{kind}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if kind == "jar":
            jar(made, target)
        else:
            _write_aar(project.engine, made, target)
        jar(sources / "main" / "kotlin", published(project, name, "-sources.jar"))
        published(project, name, ".pom").write_text(_pom(project, name, kind), encoding="utf-8")
        say(f"{target.relative_to(BUILD)}: {target.stat().st_size / 1e3:.0f} kB")


def _write_aar(settings: LibrarySettings, classes: Path, target: Path) -> None:
    manifest = (
        f'<manifest xmlns:android="http://schemas.android.com/apk/res/android" package="{settings.namespace}">'
        f'<uses-sdk android:minSdkVersion="{settings.min_sdk}" /></manifest>\n'
    )
    inside = jar(classes, target.with_suffix(".classes"))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("AndroidManifest.xml", manifest)
        archive.write(inside, "classes.jar")
        archive.writestr("R.txt", "")
        archive.write(settings.rules, "proguard.txt")
    inside.unlink()


def _pom(project: Project, name: str, kind: str) -> str:
    group, version = project.group, project.version
    lines = [DEPENDENCY.format(group, "core", version, "compile")] if name == "engine" else []
    for configuration, scope in (("api", "compile"), ("implementation", "runtime")):
        for alias in project.modules[name].libraries[configuration]:
            module, number = coordinate(alias, project)
            lines.append(DEPENDENCY.format(module.group, module.name, number, scope))
    return POM.format(group=group, name=name, version=version, kind=kind, dependencies="".join(lines))


def compile_sample(tools: Toolbox, classes: Classes) -> str:
    """A class path of the second app, compiled against the published library alone, and of what it needs."""
    make_library(tools.project, classes.core, classes.engine)
    unpacked = BUILD / "sample-library"
    with zipfile.ZipFile(published(tools.project, "engine", ".aar")) as archive:
        archive.extract("classes.jar", unpacked)
    path = class_path(published(tools.project, "core", ".jar"), unpacked / "classes.jar", tools.libraries)
    compiling = path + os.pathsep + str(tools.android)
    kotlin = compile_kotlin(tools, "sample", SAMPLE / "main", compiling, str(SAMPLE / "main" / "java"))
    sources, beside = SAMPLE / "main" / "java", class_path(kotlin) + os.pathsep + path

    def make(folder: Path) -> None:
        run("javac", "-d", folder, "-cp", beside, *sorted(sources.glob("*.java")))

    java = step("sample-java", "compiling the Java beside it", [sources, *map(Path, beside.split(os.pathsep))], make)
    return class_path(java) + os.pathsep + beside


def check_library(sample: str, place: Path, bundle: Path) -> bool:
    """Whether the second app gets the bundle's answers from a model of its own.

    Args:
        sample: The second app's class path.
        place: Android's native libraries for this JVM.
        bundle: The built-in model's folder.
    """
    command = ["java", f"-agentpath:{place}/libandroidhost.so", f"-Djava.library.path={place}"]
    command += ["-cp", sample, "SampleKt", str(bundle), QUESTION]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    found = [line for line in done.stdout.splitlines() if line in ANSWERS]
    passed = not done.returncode and found == ANSWERS
    if not passed:
        sys.stdout.write(f"{done.stdout[-2000:]}{done.stderr[-2000:]}\n")
    say(f"a second app with the library: {'passed' if passed else f'ended with {done.returncode}'}")
    return passed

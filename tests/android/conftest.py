from __future__ import annotations

import shutil
import sys
import zipfile

import artifacts
import compiling
import gradle_files
import package
import pytest
import steps
import toolbox


@pytest.fixture
def program():
    """Writes a program in Python; its path is what to run."""

    def write(path, code):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{sys.executable}\nimport sys\n{code}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def gradle_project(tmp_path):
    """A copy of the app's Gradle files, to change."""
    project = tmp_path / "project"
    scripts = [f"{module}/build.gradle.kts" for module in gradle_files.MODULES]
    for name in ("settings.gradle.kts", "build.gradle.kts", "gradle.properties", gradle_files.CATALOG, *scripts):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(artifacts.ROOT / name, project / name)
    return project


@pytest.fixture
def made_tools(tmp_path, monkeypatch):
    """All that the build downloads, as small files of no meaning, and a folder to build in."""
    monkeypatch.setattr(steps, "BUILD", tmp_path / "build")

    def file(name):
        path = tmp_path / "downloaded" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        return path

    names = {
        "tool": ["r8-1.jar", "gradle-1.jar", "kotlin-serialization-compiler-plugin-embeddable-1.jar"],
        "compiler": ["compiler-1.jar"],
        "merger": ["merger-1.jar"],
        "core-test": ["junit-1.jar"],
        "app": ["library-1.jar", "view-1/classes.jar"],
    }
    jars = {scope: [file(name) for name in names[scope]] for scope in names}
    for part in package.RULES:
        with zipfile.ZipFile(jars["tool"][1], "w" if part == package.RULES[0] else "a") as archive:
            archive.writestr(f"com/android/build/gradle/proguard-{part}.txt", f"-{part}")
    file("view-1/AndroidManifest.xml").write_text('<manifest package="org.view" />')
    aars = {"app": [tmp_path / "downloaded" / "view-1"], "test": []}
    runtime, android, aapt2 = file("runtime/classes.jar").parent, file("android.jar"), file("aapt2")
    return toolbox.Toolbox(gradle_files.read_project(), jars, aars, runtime, android, aapt2)


@pytest.fixture
def made_classes(tmp_path):
    """Folders of compiled classes."""
    folders = compiling.Classes(*(tmp_path / "classes" / name for name in ("core", "engine", "app")))
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "A.class").write_bytes(folder.name.encode())
    return folders

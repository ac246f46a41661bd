from __future__ import annotations

import shutil
import sys

import artifacts
import gradle_files
import pytest


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

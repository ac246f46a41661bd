"""The library for other apps, as the second app takes it."""

from __future__ import annotations

import library
import pytest
import steps


@pytest.fixture
def compile_sample(made_tools, made_classes, tmp_path, monkeypatch):
    """Compiles the second app against the library of a version; javac writes a class of the name it is told."""
    monkeypatch.setattr(library, "BUILD", steps.BUILD)
    kotlin = tmp_path / "kotlin"
    kotlin.mkdir()
    monkeypatch.setattr(library, "compile_kotlin", lambda *_: kotlin)
    ran = []

    def compile_sample(version, made="Sample"):
        def javac(*command):
            ran.append(command)
            (command[command.index("-d") + 1] / f"{made}.class").write_bytes(b"")

        monkeypatch.setattr(library, "run", javac)
        return library.compile_sample(
            made_tools._replace(project=made_tools.project._replace(version=version)), made_classes
        )

    compile_sample.ran = ran
    return compile_sample


def test_the_second_app_takes_the_library_of_this_version_whatever_was_made_before(compile_sample):
    assert "core-0.1.jar" in compile_sample("0.1")
    path = compile_sample("0.2")
    assert "core-0.2.jar" in path
    assert "core-0.1.jar" not in path
    folder = steps.BUILD / "maven" / "org" / "etpipeline" / "engine"
    assert sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.aar")) == [
        "0.1/engine-0.1.aar",
        "0.2/engine-0.2.aar",
    ]


def test_the_second_apps_java_is_compiled_once_and_a_class_that_is_gone_does_not_stay(compile_sample):
    for version in ("0.1", "0.1", "0.2"):
        compile_sample(version, made=f"Of{version}")
    assert len(compile_sample.ran) == 2
    assert [path.name for path in (steps.BUILD / "sample-java").iterdir()] == ["Of0.2.class"]

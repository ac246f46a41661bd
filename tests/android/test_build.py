from __future__ import annotations

import os
import subprocess
import sys

import build
import pytest
import steps


@pytest.mark.parametrize("command", ["apk", "test"])
def test_without_a_jdk_one_sentence_says_what_to_install(tmp_path, command):
    done = subprocess.run(
        [sys.executable, build.__file__, command],
        env={**os.environ, "PATH": str(tmp_path), "JAVA_HOME": str(tmp_path / "nowhere")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "No JDK is installed: install a JDK 17 (on Debian: openjdk-17-jdk-headless).\n"


def test_all_tools_come_from_the_jdk_that_was_checked(tmp_path, monkeypatch, program):
    """JAVA_HOME is what the message tells to set, so another java in the PATH must not be used."""
    for folder, version in (("wanted", "17.0.1"), ("other", "21.0.1")):
        program(tmp_path / folder / "bin" / "javac", f"print('javac {version}')")
        program(tmp_path / folder / "bin" / "java", f"print('java {version}')")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "wanted"))
    monkeypatch.setenv("PATH", str(tmp_path / "other" / "bin"))
    monkeypatch.setattr(sys, "argv", ["build.py", "apk"])
    used = []
    monkeypatch.setattr(build, "make_apk", lambda *_, **__: used.append(steps.run("java").strip()))
    build.main()
    assert used == ["java 17.0.1"]

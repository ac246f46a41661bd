from __future__ import annotations

import subprocess

import arm
import pytest
from artifacts import BuildError


def test_another_system_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setattr(arm.platform, "machine", lambda: "aarch64")
    with pytest.raises(BuildError, match="packages of Debian on x86-64, and this is another system"):
        arm.make_arm()


def test_what_is_said_of_a_core_decides_which_kernels_it_takes(tmp_path):
    arm._write_cores(tmp_path)
    said = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {name for name, text in said.items() if "asimddp" in text} == {
        *("cortex-a76", "cortex-a76-one", "max", "max-one"),
    }
    assert {name for name, text in said.items() if "i8mm" in text} == {"max", "max-one"}
    assert said["cortex-a76"].count("processor") == 2
    assert said["cortex-a76-one"].count("processor") == 1
    assert said["cortex-a53"] == said["cortex-a53-kernels"]


def test_the_command_emulates_the_core_with_our_files(monkeypatch, tmp_path):
    java = tmp_path / "root/usr/lib/jvm/java-17-openjdk-arm64/bin/java"
    java.parent.mkdir(parents=True)
    java.touch()
    ran = []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: ran.append((command, options)))
    machine = arm.Arm(tmp_path / "tools", tmp_path / "root", tmp_path / "host", tmp_path / "cores", "classes")
    machine.run("cortex-a53-kernels", "forward", "x.pte", one_thread=True, plugin="count.so")
    ((command, options),) = ran
    assert command[command.index("-cpu") + 1] == "cortex-a76"
    assert command[command.index("-plugin") + 1] == "count.so"
    assert f"ANDROIDHOST_CPUINFO={tmp_path}/cores/cortex-a53-kernels-one" in command
    assert f"ANDROIDHOST_ONE_CPU={tmp_path}/cores/one" in command
    assert command[-3:] == ["Run", "forward", "x.pte"]
    assert str(java) in command
    assert "tools" in options["env"]["LD_LIBRARY_PATH"]


def test_what_runs_there_is_compiled_anew_with_another_library(made_tools, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(arm, "run", lambda *command: ran.append(command))
    monkeypatch.setattr(arm, "jdk", lambda: tmp_path)
    for content, count in ((b"1", 1), (b"1", 1), (b"2", 2)):
        (made_tools.runtime / "classes.jar").write_bytes(content)
        arm._classes(made_tools)
        assert len(ran) == count

"""Shell completion, asked as bash asks for it."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from et_pipeline import CONF

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="no bash")

OPTIONS = {group: {path.stem for path in (CONF / group).glob("*.yaml")} for group in ("model", "recipe", "device")}


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Both commands in the PATH, as an install puts them there, with this very code."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, module in (("et-pipeline", "et_pipeline.cli"), ("et-bundle", "et_pipeline.cli.bundle")):
        script = folder / name
        script.write_text(f"#!{sys.executable}\nfrom {module} import main\nmain()\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(CONF.parent))
    monkeypatch.chdir(tmp_path)
    return folder


def completed(install, function, line):
    """What bash offers after a line, once the script that `install` prints was evaluated."""
    words = [*line.split(), *([""] if line.endswith(" ") else [])]
    script = f"""
        eval "$({install})" || exit 9
        COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_CWORD={len(words) - 1}
        COMP_WORDS=({shlex.join(words)})
        compopt() {{ :; }}
        {function} {words[0]} {shlex.quote(words[-1])} {shlex.quote(words[-2])}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        *((f"et-pipeline {group}=", {f"{group}={name}" for name in names}) for group, names in OPTIONS.items()),
        ("et-pipeline model=tiny", {"model=tiny_assistant"}),
        (
            "et-pipeline mode=plan device=galaxy_s2",
            {f"device={n}" for n in OPTIONS["device"] if n.startswith("galaxy_s2")},
        ),
        ("et-pipeline model.max_c", {"model.max_context="}),
        ("et-pipeline exp", {"experiment="}),
    ],
)
def test_et_pipeline_offers_groups_options_and_keys(programs, line, offered):
    assert completed("et-pipeline -sc install=bash", "hydra_bash_completion", line) == offered


def test_a_path_to_the_program_does_as_well(programs):
    """As in .venv/bin/et-pipeline."""
    line = f"{programs}/et-pipeline model=tiny"
    found = completed(f"{programs}/et-pipeline -sc install=bash", "hydra_bash_completion", line)
    assert found == {"model=tiny_assistant"}


def test_asking_leaves_nothing_behind(programs, tmp_path):
    completed("et-pipeline -sc install=bash", "hydra_bash_completion", "et-pipeline model=tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("et-bundle ins", {"inspect"}),
        ("et-bundle adapters ", {"add", "list", "verify"}),
        ("et-bundle bench --ro", {"--rounds"}),
    ],
)
def test_et_bundle_offers_commands_and_options(programs, line, offered):
    install = "_ET_BUNDLE_COMPLETE=source_bash et-bundle"
    assert completed(install, "_et_bundle_completion", line) == offered


def test_et_bundle_says_how_to_install_it(programs, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    done = subprocess.run(["et-bundle", "--install-completion", "bash"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "et-bundle" in (tmp_path / ".bashrc").read_text()
    script = next(Path(tmp_path).rglob("et-bundle.sh"))
    assert "_ET_BUNDLE_COMPLETE=complete_bash" in script.read_text()

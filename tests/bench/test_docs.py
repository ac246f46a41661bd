"""What the documents say is what was measured, and what they tell people to type works."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from et_pipeline.bench import docs

ROOT = Path(__file__).parents[2]


def commands():
    """Every command line in a code block of README and CONTRIBUTING."""
    for page in ("README.md", "CONTRIBUTING.md", "android_demo/README.md"):
        for block in re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
            for line in block.splitlines():
                yield line.split("#")[0].strip()


def test_pages_and_picture_are_made_from_the_results():
    for path, text in docs.render(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run make docs"


def test_quick_start_is_two_commands():
    block = re.search(r"## Quick start.*?```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert [line.split("#")[0].strip() for line in block[1].splitlines()] == ["make demo", "make test"]


@pytest.mark.parametrize("line", sorted({line for line in commands() if line.startswith("make ")}))
def test_make_targets_of_the_readme_exist(line):
    done = subprocess.run([*shlex.split(line), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_make_help_names_every_target():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(targets) == set(re.findall(r"^  make ([a-z0-9-]+)", done.stdout, re.MULTILINE))


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith(".venv/bin/et-pipeline")])
def test_et_pipeline_commands_of_the_readme_compose(line, command, tmp_path):
    arguments = shlex.split(line)[1:]
    if "--help" not in arguments:
        arguments += ["--cfg", "job", "--resolve"]
    code, out, err = command(*arguments)
    assert code == 0, err
    assert out


def test_links_lead_somewhere():
    for page in [*ROOT.glob("*.md"), ROOT / "android_demo" / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"

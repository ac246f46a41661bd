"""The documents: the site builds, links lead somewhere, and what people are told to type works."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from made_bundle import make_bundle

from et_pipeline.cli import SUBCOMMANDS
from et_pipeline.cli.bundle import app

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), ROOT / "android_demo" / "README.md", *(ROOT / "docs" / "pages").rglob("*.md")]


def commands(start=""):
    """Every different command line in a code block of a page."""
    text = "\n".join(page.read_text().replace("\\\n", "") for page in PAGES)
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = {shlex.join(shlex.split(line, comments=True)) for block in blocks for line in block.splitlines()}
    return sorted(line for line in lines if line.startswith(start) and line)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a broken link, a page without a place or a name that is not there ends the build."""
    folder = tmp_path_factory.mktemp("site")
    build = re.search(r"\t(.* mkdocs build .*)", (ROOT / "Makefile").read_text())[1]
    build = build.replace("$(BIN)/python", shlex.quote(sys.executable))
    done = subprocess.run(f"{build} --site-dir {folder}", shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")  # nothing of mkdocs' own either
    return folder


def test_site_loads_nothing_from_the_network(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) >= len(PAGES) - 1  # the README is for the repository
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?https?:""", text), page.name


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("settings", ["recipe.gate.max_kl_original", "stop after this stage", "galaxy_s22", "8da4w-g32"]),
        ("commands", ["et-bundle inspect", "--prompt-tokens", "The bundle: a folder or a .zip."]),
        ("manifest", ["ProgramInfo", "min_runtime", "builtin:&lt;name&gt;"]),
        (
            "python",
            ["et_pipeline.open_bundle", "et_pipeline.manifest.document.Manifest", "et_pipeline.forms.base.Form.export"],
        ),
    ],
)
def test_reference_is_made_from_the_code(site, page, words):
    text = (site / "reference" / f"{page}.html").read_text(encoding="utf-8")
    assert "<!--" not in text
    assert [word for word in words if word not in text] == []


def test_links_lead_somewhere():
    """As files, which is how the pages are read in a repository; the site's build looks at its own."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)[)#]", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_quick_start_is_two_commands():
    block = re.search(r"## Quick start.*?```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert [line.split("#")[0].strip() for line in block[1].splitlines()] == ["make demo", "make test"]


def test_every_command_is_of_a_known_kind():
    completion = "eval '$(.venv/bin/et-pipeline -sc install=bash)'"  # tests/cli/test_completion.py
    wheel = ("python3 -m venv et", "et/bin/pip install", "et/bin/et-pipeline experiment=demo")  # make test-wheel
    image = ("docker build", "docker run")  # of the Dockerfile, with buildah, by hand
    others = (completion, *wheel, *image, "pip ", "unzip ", ".venv/bin/pre-commit install")  # not ours
    kinds = ("make ", ".venv/bin/et-pipeline", ".venv/bin/et-bundle ", *others)
    assert [line for line in commands() if not line.startswith(kinds)] == []


@pytest.mark.parametrize("line", commands("make "))
def test_make_targets_exist(line):
    done = subprocess.run([*shlex.split(line), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_make_help_names_every_target():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(targets) == set(re.findall(r"^  make ([a-z0-9-]+)", done.stdout, re.MULTILINE))


@pytest.mark.parametrize("line", commands(".venv/bin/et-pipeline report"))
def test_report_commands_write_a_page(line, command, tmp_path):
    make_bundle(tmp_path / "bundles" / "one")
    code, out, err = command(*shlex.split(line)[1:])
    assert code == 0, err
    assert out.startswith("1 bundle")


@pytest.mark.parametrize("line", commands(".venv/bin/et-pipeline"))
def test_et_pipeline_commands_compose(line, command):
    arguments = shlex.split(line)[1:]
    if arguments[:1] and arguments[0] in SUBCOMMANDS:
        arguments += ["--help"]  # read after all others
    if "hydra/launcher=" in line and find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        pytest.skip("make test-sweeps installs launchers")
    if "-m" in arguments:  # the first of the values that a sweep goes through
        arguments = [each if "[" in each else each.partition(",")[0] for each in arguments if each != "-m"]
    if not {"--help", "--cfg"} & set(arguments):
        arguments += ["--cfg", "job", "--resolve"]
    code, out, err = command(*arguments)
    assert code == 0, err
    assert out


@pytest.mark.parametrize("line", commands(".venv/bin/et-bundle "))
def test_et_bundle_commands_parse(line):
    name, *arguments = shlex.split(line)[1:]
    command = typer.main.get_command(app)
    if name.startswith("-"):
        assert [name] in [each.opts for each in command.params]
    else:
        command.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("line", commands("pip install "))
def test_extras_exist(line):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert re.search(r"et-pipeline\[(.+)\]", line)[1] in extras


def test_modules_that_pages_name_exist():
    text = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"python -m (et_pipeline[\w.]*)", text))
    assert named
    assert [name for name in named if find_spec(name) is None] == []


def test_files_that_pages_name_exist():
    """Paths in the repository within back quotes, as in `et_pipeline/forms/base.py`."""
    text = "\n".join(page.read_text() for page in (ROOT / "docs" / "pages").rglob("*.md"))
    named = set(re.findall(r"`((?:et_pipeline|tests|conf|docs|android_demo)/[\w./-]+)`", text))
    assert named
    assert [name for name in named if not (ROOT / name).exists() and "NAME" not in name] == []


def test_setup_says_beforehand_what_it_takes(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name, does in {"python": "mkdir .venv", "uv": "echo installs"}.items():  # in the place of what takes long
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["make", "setup", "PYTHON=python"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    before, venv, _ = done.stdout.partition("python -m venv")
    assert before.startswith("Setting up .venv with PyTorch, ExecuTorch")
    assert "7 GB of disk" in before
    assert venv
    assert "\ninstalls\n" in done.stdout

import hashlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import et_pipeline

ROOT = Path(__file__).parents[1]
# What is needed to build; and what lies about in a checkout that was worked in.
SOURCES = (
    "et_pipeline",
    "hydra_plugins",
    "conf",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    ".gitignore",
)


def _built(source: Path, out: Path) -> tuple[Path, Path]:
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    # As here after `make bench-arm`: names that the sdist takes at the top, links that tar refuses.
    stray = source / "android_demo/build/arm/README.md"
    stray.parent.mkdir(parents=True)
    stray.symlink_to("/etc/hostname")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel, which `build` makes from the sdist, and the sdist."""
    source = tmp_path_factory.mktemp("source")
    return _built(source, tmp_path_factory.mktemp("dist"))


def test_wheel_holds_the_config_tree_the_schema_and_the_built_in_model(built):
    names = set(zipfile.ZipFile(built[0]).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"et_pipeline/conf/{path.relative_to(ROOT / 'conf').as_posix()}" in names
    assert "et_pipeline/manifest/manifest.schema.json" in names
    assert "et_pipeline/tiny_assistant/checkpoint/model.safetensors" in names
    assert "et_pipeline/tiny_assistant/eval.jsonl" in names
    assert "et_pipeline/py.typed" in names
    assert "hydra_plugins/et_pipeline_search.py" in names
    assert not any("tiny_writer" in name for name in names)


def test_sdist_holds_what_the_wheel_is_built_from_and_no_more(built):
    with tarfile.open(built[1]) as archive:
        tops = {name.split("/")[1] for name in archive.getnames()}
        names = set(archive.getnames())
    assert tops == {*SOURCES, "PKG-INFO"}
    assert not any("tiny_writer" in name for name in names)


def test_the_same_sources_give_the_same_bytes(built, tmp_path):
    (tmp_path / "source").mkdir()
    again = _built(tmp_path / "source", tmp_path / "dist")
    hashes = [[hashlib.sha256(path.read_bytes()).hexdigest() for path in pair] for pair in (built, again)]
    assert hashes[0] == hashes[1]


def test_checkers_of_packages_find_nothing(built):
    for command in (["twine", "check", "--strict", *built], ["check_wheel_contents", built[0]]):
        ended = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_version_stands_in_one_place(built):
    assert built[0].name.split("-")[1] == et_pipeline.__version__
    assert f"## {et_pipeline.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_wheel_alone_runs_outside_the_checkout(built, tmp_path):
    """With the libraries of this environment, without its et_pipeline; `make test-wheel` installs those too."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin/python"
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
    # Lines of .pth files there are not read, so not where the checkout is.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", built[0]], check=True
    )
    found = subprocess.run(
        [python, "-c", "import et_pipeline; print(et_pipeline.__file__, et_pipeline.CONF)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    ).stdout
    assert found.split() == [str(site / "et_pipeline/__init__.py"), str(site / "et_pipeline/conf")]
    for command in (["et-pipeline", "mode=plan"], ["et-pipeline", "until=acquire"], ["et-bundle", "--help"]):
        ended = subprocess.run([venv / "bin" / command[0], *command[1:]], cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr


def test_the_image_is_built_from_the_same_sources():
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY ([^-].*) \S+$", dockerfile, re.MULTILINE) for name in line.split()}
    assert copied == {*SOURCES, "constraints.txt"} - {".gitignore"}
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_in == copied


def _requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [found for found in map(Requirement, lines) if canonicalize_name(found.name) != "et-pipeline"]


def _pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin.specifier for pin in pins}


def test_each_requirement_has_a_lower_bound_and_a_pin_that_was_tested():
    pins = _pins()
    for requirement in _requirements():
        assert {"==", ">="} & {each.operator for each in requirement.specifier}, requirement
        (pin,) = pins[canonicalize_name(requirement.name)]
        assert pin.operator == "=="
        assert pin.version in requirement.specifier, f"make constraints: {requirement} is not {pin}"


def test_what_is_installed_here_is_what_is_pinned():
    pins = _pins()
    for found in metadata.distributions():
        pin = pins.get(canonicalize_name(found.metadata["Name"]), SpecifierSet())
        assert found.version in pin, f"{found.metadata['Name']} {found.version} is not {pin}; make setup"

"""The help of every command ends with an example, and each of them can be typed."""

import importlib
import shlex

import pytest
import typer

from et_pipeline.cli import SUBCOMMANDS
from et_pipeline.cli.bundle import app

MODULES = [
    "et_pipeline.cli.compare",
    *(f"et_pipeline.bench.{name}" for name in ("host", "quality", "answers", "docs", "export_llm", "newcomer")),
]


def walked(command, words=()):
    """Every command of et-bundle, and the groups of them, with the words that lead to it."""
    yield words, command
    for name, each in getattr(command, "commands", {}).items():
        yield from walked(each, (*words, name))


COMMANDS = dict(walked(typer.main.get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_et_bundle(words):
    epilog = COMMANDS[words].epilog
    assert epilog is not None
    start, name, *given = shlex.split(epilog.removeprefix("Example: "))
    assert (start, *words) == (start, name, *given)[: len(words) + 1] == ("et-bundle", *words)
    if words and not hasattr(COMMANDS[words], "commands"):
        COMMANDS[words].make_context(" ".join(words), [name, *given][len(words) :])


@pytest.mark.parametrize("name", MODULES)
def test_modules(name, capsys):
    parser = importlib.import_module(name).command_line()
    start = f"Example: python -m {name} "
    assert parser.epilog.startswith(start)
    parser.parse_intermixed_args(shlex.split(parser.epilog.removeprefix(start)))
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--help"])
    assert ended.value.code == 0
    assert "Example: " in capsys.readouterr().out


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_subcommands_of_et_pipeline(name, command):
    code, out, _ = command(name, "--help")
    assert code == 0
    assert f"Example: et-pipeline {name}" in " ".join(out.split())


def test_et_pipeline(command):
    """Its help begins with them; each composes."""
    _, out, _ = command("--help")
    lines = [line.split("   ")[0].strip() for line in out.splitlines() if line.startswith("  et-pipeline ")]
    assert len(lines) > 8
    for line in lines:
        arguments = line.replace("=FOLDER", "=folder").split()[1:]
        if arguments and arguments[0] in SUBCOMMANDS:
            continue
        code, _, err = command(*(each for each in arguments if each != "-m"), "--cfg", "job", "--resolve")
        assert code == 0, f"{line}: {err}"

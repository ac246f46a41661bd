"""Paths of the command line; those of settings are in test_settings.py."""

import shutil
import sys
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
from made_bundle import make_bundle

from et_pipeline.cli import bundle, compare
from et_pipeline.cli.bundle import adapters
from et_pipeline.errors import UserError

COMMANDS = [*bundle.app.registered_commands, *adapters.app.registered_commands]
HINTS = {each.callback.__name__: get_type_hints(each.callback, include_extras=True) for each in COMMANDS}
PATHS = [
    (command, key, hint)
    for command, hints in HINTS.items()
    for key, hint in hints.items()
    if get_origin(hint) is Annotated and Path in (get_args(hint)[0], *get_args(get_args(hint)[0]))
]


@pytest.mark.parametrize(("command", "key", "hint"), PATHS)
def test_a_path_of_no_name_is_refused_by_every_command(command, key, hint):
    """A shell makes it of a variable that is not set, and Python takes it for the folder here."""
    read = get_args(hint)[1].parser
    assert read("x") == Path("x")
    with pytest.raises(UserError, match=r"^\S+ is empty, and should name a file or folder; \. is the folder here$"):
        read("")


def test_a_path_of_no_name_is_refused_in_a_sentence(monkeypatch, capsys):
    assert len(PATHS) > 15
    monkeypatch.setattr(sys, "argv", ["et-bundle", "inspect", ""])
    with pytest.raises(SystemExit) as ended:
        bundle.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "BUNDLE is empty, and should name a file or folder; . is the folder here\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["report", ""], "folder is empty"),
        (["report", "--out", ""], "--out is empty"),
        (["report", "--out", "."], "--out . is a folder; give a file, as report.html"),
        (["report", "--out", "/"], "--out / is a folder; give a file, as /report.html"),
    ],
)
def test_a_report_of_no_name_is_refused(command, arguments, sentence):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"et-pipeline: {sentence}")


def test_a_comparison_of_no_name_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        compare.main(["tiny_assistant", "--out", ""])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("et-pipeline: --out is empty")


def test_a_zip_takes_no_folders_name(tmp_path, monkeypatch, capsys):
    folder = make_bundle(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    for out in (".", "/"):
        monkeypatch.setattr(sys, "argv", ["et-bundle", "zip", str(folder), out])
        with pytest.raises(SystemExit) as ended:
            bundle.main()
        assert ended.value.code == 2
        assert capsys.readouterr().err == f"{out} cannot be written: give a file name in an existing folder.\n"
    shutil.rmtree(folder)
    assert list(tmp_path.iterdir()) == []

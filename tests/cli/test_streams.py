"""What is said where it cannot be read, written or shown."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_bundle import make_bundle

from et_pipeline.cli.bundle.terminal import print_json
from et_pipeline.cli.streams import standard_streams

# With output that is written at once, at the end, by argparse, by Hydra, and by rich and typer.
COMMANDS = {
    "main": [["--version"], ["doctor", "--help"], ["--help"], ["mode=plan"], ["mode=plan", "format=json"]],
    "bundle_main": [["--help"], ["inspect", "BUNDLE"], ["inspect", "--json", "BUNDLE"]],
}
EACH = [(entry, arguments) for entry, all_of_it in COMMANDS.items() for arguments in all_of_it]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def words(entry, arguments, bundle):
    program = f"from et_pipeline.cli import {entry}; {entry}()"
    return [sys.executable, "-c", program, *(str(bundle) if each == "BUNDLE" else each for each in arguments)]


@pytest.mark.parametrize("environment", [{}, {"PYTHONUNBUFFERED": "1"}])
@pytest.mark.parametrize(("entry", "arguments"), EACH)
def test_who_stops_reading_gets_no_traceback(entry, arguments, environment, bundle, tmp_path):
    read, written = os.pipe()
    os.close(read)
    with os.fdopen(written, "wb") as pipe:
        ended = subprocess.run(
            words(entry, arguments, bundle),
            stdout=pipe,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env={**os.environ, **environment},
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.linux("which has /dev/full")
@pytest.mark.parametrize(("entry", "arguments"), EACH)
def test_a_disk_that_is_full_is_said_in_a_sentence(entry, arguments, bundle, tmp_path):
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            words(entry, arguments, bundle), stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, text=True, check=False
        )
        again = subprocess.run(words(entry, arguments, bundle), stdout=full, stderr=full, cwd=tmp_path, check=False)
    assert ended.stderr == (
        "standard output cannot be written: No space left on device; send it elsewhere, what is made stays\n"
    )
    assert (ended.returncode, again.returncode) == (2, 2)


@pytest.mark.skipif(os.name == "nt", reason="needs a shell that closes files")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("entry", "arguments"), EACH[2:])
def test_what_is_closed_changes_nothing(entry, arguments, closed, bundle, tmp_path):
    script = ["sh", "-c", f'"$@" {closed}', "sh", *words(entry, arguments, bundle)]
    ended = subprocess.run(script, capture_output=True, cwd=tmp_path, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_terminal_of_fewer_characters_is_no_fault(monkeypatch):
    """As with LC_ALL=C on some systems, or a pipe on Windows."""
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    with standard_streams():
        screen.write("café\n")
        print_json({"a": "café"})
    assert screen.buffer.getvalue() == b'caf\\xe9\n{\n  "a": "caf\\u00e9"\n}\n'

"""A bundle, a fake program in the place of the runtime, and `et-bundle` in this process."""

from __future__ import annotations

import os
import sys
import tempfile

import pytest
from made_bundle import EchoProgram, EmbeddingProgram, make_bundle, make_embedding_manifest, write_files

from et_pipeline import bundle as bundles
from et_pipeline import manifest as bundle
from et_pipeline.cli import bundle as commands
from et_pipeline.runtime import program


@pytest.fixture
def folder(tmp_path):
    return make_bundle(tmp_path / "tiny")


@pytest.fixture
def packed(folder, tmp_path):
    bundles.write_zip(folder, tmp_path / "tiny.zip")
    return tmp_path / "tiny.zip"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture(autouse=True)
def _fake_program(monkeypatch):
    monkeypatch.setattr(program, "Program", EchoProgram)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command as the console does; returns exit code, output and errors."""

    def run(*arguments, stdin=None):
        monkeypatch.setattr(sys, "argv", ["et-bundle", *map(str, arguments)])
        if stdin is not None:
            read, write = os.pipe()
            os.write(write, stdin if isinstance(stdin, bytes) else stdin.encode())
            os.close(write)
            monkeypatch.setattr(sys, "stdin", os.fdopen(read, encoding="utf-8"))
        with pytest.raises(SystemExit) as exited:
            commands.main()
        captured = capsys.readouterr()
        return exited.value.code, captured.out, captured.err

    return run


@pytest.fixture
def embeddings(tmp_path, monkeypatch):
    """A bundle that embeds texts, and its program."""
    monkeypatch.setattr(program, "Program", EmbeddingProgram)
    write_files(tmp_path / "vectors")
    bundle.write(make_embedding_manifest(bundle.describe_files(tmp_path / "vectors")), tmp_path / "vectors")
    return tmp_path / "vectors"

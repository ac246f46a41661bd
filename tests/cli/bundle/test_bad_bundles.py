"""Bundles that are broken: one sentence, and nothing is left behind."""

from __future__ import annotations

import json
import os
import zipfile

import pytest
from made_bundle import PTE

from et_pipeline import bundle as bundles
from et_pipeline import manifest as bundle
from et_pipeline.runtime import program


def rewrite(folder, **changes):
    """Writes raw changes of top-level fields into a manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def zip_with(name, mode=0o100644):
    def spoil(folder):
        packed = folder.with_suffix(".zip")
        bundles.write_zip(folder, packed)
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        with zipfile.ZipFile(packed, "a") as archive:
            archive.writestr(entry, b"x")
        return packed

    return spoil


def pipe(folder):
    path = folder.parent / "pipe.zip"
    os.mkfifo(path)
    return path


def text_file(folder):
    (folder.parent / "x.txt").write_text("x")
    return folder.parent / "x.txt"


BAD = {
    "altered file": (
        lambda f: (f / PTE).write_bytes(b"x" * 9000),
        "'model.pte' was altered",
        ["verify", "chat", "bench", "zip"],
    ),
    "truncated file": (lambda f: os.truncate(f / PTE, 10), "'model.pte' is truncated", None),
    "missing file": (lambda f: (f / PTE).unlink(), "'model.pte' is missing", None),
    "extra file": (lambda f: (f / "extra").write_text("x"), "'extra' is not listed", None),
    "link": (lambda f: (f / "link").symlink_to("/etc/passwd"), "'link' is a link", None),
    "broken json": (lambda f: (f / "manifest.json").write_text("{"), "no valid JSON", None),
    "unknown version": (lambda f: rewrite(f, version=12), "has version 12", None),
    "wrong type": (lambda f: rewrite(f, speed="fast"), "field 'speed' is wrong", None),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "it has no manifest.json", None),
    "missing bundle": (lambda f: f / "nowhere", "does not exist", ["inspect", "verify", "chat", "bench"]),
    "no zip": (text_file, "neither a bundle folder nor a zip", ["inspect", "verify", "chat", "bench"]),
    "pipe": (pipe, "neither a bundle folder nor a zip", ["inspect", "verify", "chat", "bench"]),
    "path traversal": (zip_with("../x"), "not a plain relative path", ["inspect", "verify", "chat", "bench"]),
    "absolute path": (zip_with("/tmp/x"), "not a plain relative path", ["inspect", "verify", "chat", "bench"]),
    "link in zip": (zip_with("link", 0o120777), "'link' is a link", ["inspect", "verify", "chat", "bench"]),
    "extra in zip": (zip_with("extra"), "'extra' is not listed", ["inspect", "verify", "chat", "bench"]),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.linux("which has named pipes") if name == "pipe" else ()) for name in BAD],
)
def test_bad_bundles_give_one_sentence_and_leave_nothing(name, folder, run, temporary, tmp_path):
    spoil, message, commands = BAD[name]
    path = spoil(folder)
    path = path if hasattr(path, "parent") else folder
    before = sorted(tmp_path.rglob("*"))
    for command in commands or ["inspect", "verify", "chat", "bench", "zip"]:
        arguments = [path, tmp_path / "out.zip"] if command == "zip" else [path]
        code, out, err = run(command, *arguments, stdin="hi\n")
        assert code == 2, (command, out, err)
        assert out == ""
        assert message in err
        assert err.count("\n") == 1
        assert err.endswith(".\n")
        assert sorted(tmp_path.rglob("*")) == before, command


def test_an_unreadable_program(run, folder, monkeypatch):
    def fails(path, threads=None, weights=None, packed=None):
        raise RuntimeError("Error loading program 0x23")

    monkeypatch.setattr(program, "Program", fails)
    for command in ("verify", "chat"):
        code, _, err = run(command, folder, stdin="hi\n")
        assert code == 2
        assert "model.pte cannot be loaded" in err


def test_an_unreadable_tokenizer(run, folder):
    (folder / "tokenizer.json").write_text("{}")
    manifest = bundle.read(folder)
    bundle.write(manifest.model_copy(update={"files": bundle.describe_files(folder)}), folder)
    code, _, err = run("verify", folder)
    assert code == 2
    assert "tokenizer.json is no tokenizer" in err

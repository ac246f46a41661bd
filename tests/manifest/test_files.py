"""A bundle's files against its manifest."""

from __future__ import annotations

import os

import pytest
from made_bundle import PTE

from et_pipeline import manifest as bundle
from et_pipeline.errors import UserError


def test_good_files_pass(folder, manifest):
    bundle.check_files(folder, manifest)
    assert manifest.files == bundle.describe_files(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / PTE).unlink(), "'model.pte' is missing"),
        (lambda folder: os.truncate(folder / PTE, 10), "'model.pte' is truncated: it has 10 bytes"),
        (lambda folder: (folder / PTE).write_bytes(b"x" * 9001), "'model.pte' is too long"),
        (lambda folder: (folder / PTE).write_bytes(b"x" * 9000), "'model.pte' was altered"),
        (lambda folder: (folder / "sub" / "more").write_text("x"), "'sub/more' is not listed"),
        (lambda folder: (folder / "link").symlink_to(folder / PTE), "'link' is a link or a device"),
        pytest.param(
            lambda folder: os.mkfifo(folder / "pipe"),
            "'pipe' is a link or a device",
            marks=pytest.mark.linux("which has such files"),
        ),
    ],
)
def test_a_wrong_file_is_named(folder, manifest, spoil, message):
    spoil(folder)
    with pytest.raises(UserError) as caught:
        bundle.check_files(folder, manifest)
    assert message in str(caught.value)


def test_hashes_are_the_known_ones(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert bundle.describe_file(tmp_path / "x") == bundle.File(
        size=3, sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )

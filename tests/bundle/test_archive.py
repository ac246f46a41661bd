"""Opening and packing bundles, good and bad."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import warnings
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_bundle import PTE, make_bundle

from et_pipeline import bundle as bundles
from et_pipeline.errors import UserError


@pytest.fixture
def folder(tmp_path):
    return make_bundle(tmp_path / "tiny")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where archives are unpacked."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def packed(folder, tmp_path, temporary):
    out = tmp_path / "tiny.zip"
    bundles.write_zip(folder, out)
    return out


def repack(packed, edit):
    """Packs an archive again after `edit` changed its list of (entry, content)."""
    with zipfile.ZipFile(packed) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    entries = edit(entries)
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w") as archive:
        warnings.simplefilter("ignore")  # of duplicate names
        for entry, content in entries:
            archive.writestr(entry, content)


def entry_of(name, mode=stat.S_IFREG | 0o644, compress=zipfile.ZIP_STORED):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    entry.compress_type = compress
    return entry


def test_a_folder_is_used_in_place(folder):
    with bundles.open_bundle(folder) as opened:
        assert opened.folder == folder
        assert opened.manifest.what.name == "tiny"


def test_a_zip_is_unpacked_and_removed(packed, folder, temporary):
    with bundles.open_bundle(packed) as opened:
        assert opened.folder.is_relative_to(temporary)
        for name in [*opened.manifest.files, "manifest.json"]:
            assert (opened.folder / name).read_bytes() == (folder / name).read_bytes()
    assert list(temporary.iterdir()) == []


def test_the_unpacked_folder_is_removed_after_an_error_too(packed, temporary):
    with pytest.raises(RuntimeError), bundles.open_bundle(packed):
        raise RuntimeError
    assert list(temporary.iterdir()) == []


def test_peek_unpacks_nothing(packed, folder, temporary):
    assert bundles.peek(packed) == bundles.peek(folder)
    assert list(temporary.iterdir()) == []


def test_packing_twice_gives_the_same_bytes(packed, folder, tmp_path):
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    bundles.write_zip(folder, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_compressed_zip_with_folder_entries_opens(packed, folder):
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("sub")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    with bundles.open_bundle(packed) as opened:
        assert (opened.folder / PTE).is_file()


def test_packing_refuses_what_is_no_whole_bundle(folder, tmp_path):
    os.truncate(folder / PTE, 5)
    with pytest.raises(UserError, match="truncated"):
        bundles.write_zip(folder, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


@pytest.mark.parametrize("out", ["tiny/x.zip", "missing/x.zip", "."])
def test_packing_refuses_a_bad_place(folder, tmp_path, out):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="give a"):
        bundles.write_zip(folder, tmp_path / out)
    assert sorted(tmp_path.rglob("*")) == before


def test_packing_that_fails_leaves_nothing(folder, tmp_path, monkeypatch):
    before = sorted(tmp_path.rglob("*"))

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        bundles.write_zip(folder, tmp_path / "x.zip")
    assert sorted(tmp_path.rglob("*")) == before


def without(name):
    return lambda entries: [(entry, content) for entry, content in entries if entry.filename != name]


def with_entry(entry, content=b"x"):
    return lambda entries: [*entries, (entry, content)]


def changed(name, content):
    return lambda entries: [(entry, content if entry.filename == name else old) for entry, old in entries]


def encrypted(entries):
    for entry, _ in entries:
        entry.flag_bits |= 0x1
    return entries


BAD_ZIPS = {
    "parent folder": (with_entry(entry_of("../x")), "'../x' is not a plain relative path"),
    "hidden parent folder": (with_entry(entry_of("sub/../../x")), "not a plain relative path"),
    "absolute": (with_entry(entry_of("/tmp/x")), "'/tmp/x' is not a plain relative path"),
    "drive": (with_entry(entry_of("C:/x")), "not a plain relative path"),
    "backslash": (with_entry(entry_of("..\\x")), "not a plain relative path"),
    "parent folder entry": (with_entry(entry_of("../", stat.S_IFDIR | 0o755), b""), "not a plain relative path"),
    "link": (with_entry(entry_of("link", stat.S_IFLNK | 0o777), b"/etc/passwd"), "'link' is a link or a device"),
    "device": (with_entry(entry_of("dev", stat.S_IFCHR | 0o777), b""), "'dev' is a link or a device"),
    "listed file as link": (
        lambda entries: [*without(PTE)(entries), (entry_of(PTE, stat.S_IFLNK | 0o777), b"x")],
        "'model.pte' is a link",
    ),
    "twice": (with_entry(entry_of(PTE)), "holds 'model.pte' twice"),
    "manifest twice": (with_entry(entry_of("manifest.json"), b"{}"), "holds 'manifest.json' twice"),
    "extra file": (with_entry(entry_of("extra")), "'extra' is not listed in the manifest"),
    "missing file": (without(PTE), "'model.pte' is missing"),
    "no manifest": (without("manifest.json"), "it has no manifest.json at its top"),
    "broken manifest": (changed("manifest.json", b"{"), "no valid JSON"),
    "truncated file": (changed(PTE, b"a program"), "'model.pte' is truncated"),
    "altered file": (changed(PTE, b"x" * 9000), "'model.pte' was altered"),
    "bomb": (changed(PTE, b"\0" * 10**7), "'model.pte' is too long"),
    "huge manifest": (changed("manifest.json", b" " * (17 * 2**20)), "more than any manifest"),
    "unusual compression": (with_entry(entry_of("x", compress=zipfile.ZIP_LZMA)), "unusual way"),
}


@pytest.mark.parametrize("name", BAD_ZIPS)
def test_bad_zips_are_refused_in_one_sentence_and_leave_nothing(name, packed, temporary, tmp_path):
    edit, message = BAD_ZIPS[name]
    repack(packed, edit)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught, bundles.open_bundle(packed):
        pytest.fail("opened")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_encrypted_zip(packed):
    content = bytearray(packed.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1  # flags in the archive's directory
    packed.write_bytes(content)
    with pytest.raises(UserError, match="encrypted"), bundles.open_bundle(packed):
        pytest.fail("opened")


def test_a_bomb_that_its_manifest_declares(tmp_path, temporary):
    folder = make_bundle(tmp_path / "bomb")
    (folder / PTE).write_bytes(b"\0" * 20_000_000)
    from et_pipeline import manifest as bundle

    bundle.write(bundle.read(folder).model_copy(update={"files": bundle.describe_files(folder)}), folder)
    packed = tmp_path / "bomb.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in [PTE, "manifest.json", "tokenizer.json", "sub/report.html"]:
            archive.write(folder / name, name)
    with pytest.raises(UserError, match="over 100 times its own size"), bundles.open_bundle(packed):
        pytest.fail("opened")
    assert list(temporary.iterdir()) == []


def test_not_enough_space(packed, temporary, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: os.terminal_size((0, 0)) and type("U", (), {"free": 10}))
    with pytest.raises(UserError, match="10 are free: set TMPDIR"), bundles.open_bundle(packed):
        pytest.fail("opened")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_zip(tmp_path, content):
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"neither a bundle folder nor a zip|no bundle"), bundles.open_bundle(path):
        pytest.fail("opened")


def test_what_does_not_exist(tmp_path):
    with pytest.raises(UserError, match="does not exist"), bundles.open_bundle(tmp_path / "x"):
        pytest.fail("opened")


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_damaged_zip_opens_whole_or_is_refused(tmp_path_factory, data):
    base = tmp_path_factory.getbasetemp() / "damaged"
    if not base.exists():
        base.mkdir()
        bundles.write_zip(make_bundle(base / "tiny"), base / "good.zip")
        with bundles.open_bundle(base / "good.zip") as opened:
            (base / "files").write_text(opened.manifest.model_dump_json())
    content = bytearray((base / "good.zip").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        # Most bytes are the files' own; what steers zipfile lies in the directory at the end.
        start = data.draw(st.sampled_from([0, len(content) - 400]))
        content[data.draw(st.integers(start, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.sampled_from([len(content), len(content) - 10, 1000]))]
    path = base / "bad.zip"
    path.write_bytes(content)
    try:
        with bundles.open_bundle(path) as opened:
            assert opened.manifest.model_dump_json() == (base / "files").read_text()
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017  either outcome is right


NAMES = st.text(st.sampled_from("./\\ab:~\0"), min_size=1, max_size=8)


@settings(deadline=None, max_examples=150)
@given(name=NAMES)
def test_no_name_in_a_zip_gets_outside(tmp_path_factory, name):
    base = tmp_path_factory.mktemp("names")
    path = base / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        entry = entry_of("placeholder")
        entry.filename = entry.orig_filename = name
        archive.writestr(entry, b"x")
    with pytest.raises(UserError), bundles.open_bundle(path):
        pytest.fail("opened")
    assert [item.name for item in base.iterdir()] == ["x.zip"]

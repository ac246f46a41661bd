from __future__ import annotations

import struct
import zipfile
from contextlib import suppress

import apk
import pytest
from artifacts import BuildError
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = st.text("abcü-_0", min_size=1, max_size=12)
ENTRIES = st.lists(
    st.tuples(
        st.builds("/".join, st.lists(NAMES, min_size=1, max_size=3)),
        st.sampled_from(["", ".so", ".dex", ".pte"]),
        st.binary(max_size=300),
        st.booleans(),
    ),
    max_size=8,
)


def _write(path, entries):
    with apk.ApkWriter(path) as writer:
        for name, data, stored in entries:
            writer.add(name, data, stored=stored)
    return path


def _begin(path, entry):
    """Where an entry's data begin."""
    with path.open("rb") as stream:
        stream.seek(entry.header_offset + 26)
        name, extra = struct.unpack("<HH", stream.read(4))
    return entry.header_offset + 30 + name + extra


@settings(max_examples=60, deadline=None)
@given(ENTRIES)
def test_stored_entries_are_aligned_and_all_content_comes_back(tmp_path_factory, items):
    path = tmp_path_factory.mktemp("apk") / "made.apk"
    entries = [(name + suffix, data, stored) for name, suffix, data, stored in items]
    _write(path, entries)
    expected = {}
    for name, data, stored in entries:
        expected.setdefault(name, (data, stored))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == list(expected)
        for entry in archive.infolist():
            data, stored = expected[entry.filename]
            assert archive.read(entry) == data
            assert (entry.compress_type == zipfile.ZIP_STORED) == stored
            if stored:
                begin = _begin(path, entry)
                assert begin % (16384 if entry.filename.endswith(".so") else 4) == 0
                assert path.read_bytes()[begin : begin + len(data)] == data
    assert apk.misaligned(path) == []


def test_the_first_of_several_entries_with_one_name_stays(tmp_path):
    with apk.ApkWriter(tmp_path / "made.apk") as writer:
        assert writer.add("a", b"first", stored=True)
        assert not writer.add("a", b"second", stored=False)
    assert zipfile.ZipFile(tmp_path / "made.apk").read("a") == b"first"


def test_same_content_gives_the_same_bytes(tmp_path):
    entries = [("lib/x.so", b"library", True), ("classes.dex", b"code" * 50, False)]
    first, second = (_write(tmp_path / name, entries) for name in ("1.apk", "2.apk"))
    assert first.read_bytes() == second.read_bytes()


def test_misaligned_names_only_the_stored_entries_that_lie_wrong(tmp_path):
    path = tmp_path / "plain.apk"
    with zipfile.ZipFile(path, "w") as archive:  # a zip as others write it: without a thought of alignment
        archive.writestr("odd", b"x")  # 30 + 3: data begin at 33
        archive.writestr("deflated", b"x", zipfile.ZIP_DEFLATED)
    assert apk.misaligned(path) == ["odd"]


def test_a_library_on_a_word_but_not_on_a_page_is_misaligned(tmp_path):
    path = tmp_path / "plain.apk"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ab", b"x")  # 30 + 2: on a word
        archive.writestr("abcdef.so", b"x")
    with zipfile.ZipFile(path) as archive:
        begins = [_begin(path, entry) for entry in archive.infolist()]
    assert [begin % 4 for begin in begins] == [0, 0]
    assert apk.misaligned(path) == ["abcdef.so"]


def _elf(*segments, magic=b"\x7fELF\x02\x01\x01", program_headers=None):
    """A 64-bit little-endian ELF header and program headers of (type, alignment)."""
    count = len(segments) if program_headers is None else program_headers
    header = magic.ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 3, 183, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    table = [struct.pack("<IIQQQQQQ", kind, 5, 0, 0, 0, 0, 0, alignment) for kind, alignment in segments]
    return header + b"".join(table)


def test_page_size_is_the_smallest_alignment_of_what_is_loaded():
    assert apk.page_size(_elf((1, 0x4000), (1, 0x4000)), "lib.so") == 16384
    assert apk.page_size(_elf((1, 0x1000)), "lib.so") == 4096
    assert apk.page_size(_elf((1, 0x4000), (1, 0x1000)), "lib.so") == 4096
    assert apk.page_size(_elf((2, 8), (1, 0x10000), (0x6474E551, 16)), "lib.so") == 65536


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no 64-bit"),
        (b"PK\3\4" + bytes(100), "no 64-bit"),
        (_elf((1, 0x4000), magic=b"\x7fELF\x01\x01\x01"), "no 64-bit"),  # 32 bits
        (_elf((1, 0x4000), magic=b"\x7fELF\x02\x02\x01"), "no 64-bit"),  # big-endian
        (_elf((1, 0x4000), program_headers=2), "cut off"),
        (_elf((2, 8)), "no segment to load"),
        (_elf(), "no segment to load"),
    ],
)
def test_page_size_refuses_what_is_no_whole_library(content, reason):
    with pytest.raises(BuildError, match=rf"^lib\.so .*{reason}"):
        apk.page_size(content, "lib.so")


@given(st.binary(max_size=200), st.integers(0, 120))
def test_page_size_never_fails_in_another_way(harm, position):
    whole = _elf((1, 0x4000), (1, 0x1000))
    harmed = whole[:position] + harm + whole[position + len(harm) :]
    with suppress(BuildError):
        assert apk.page_size(harmed, "lib.so") >= 0

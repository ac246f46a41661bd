"""What an APK is as a zip: entries in the right order, stored where they must be, aligned; and checks of all that."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from artifacts import BuildError

PAGE = 16 * 1024  # memory pages of new phones; a library is mapped from the APK only if it begins on one
WORD = 4
LOCAL_HEADER = 30  # bytes of a zip's local header before the name
ALIGNMENT_FIELD = 0xD935  # the extra field that Android's tools pad with; apksig keeps it
ELF_MAGIC = b"\x7fELF"
PT_LOAD = 1


def alignment_of(name: str) -> int:
    """How a stored entry of this name has to be aligned, in bytes."""
    return PAGE if name.endswith(".so") else WORD


class ApkWriter:
    """Writes entries one after the other, always with the same bytes for the same content."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path, "w")
        self._names: set[str] = set()

    def __enter__(self) -> ApkWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def add(self, name: str, data: bytes, *, stored: bool) -> bool:
        """Adds an entry; of several with one name the first stays. Returns whether it was added."""
        if name in self._names:
            return False
        self._names.add(name)
        info = zipfile.ZipInfo(name, (1981, 1, 1, 1, 1, 2))  # what Android's own tools write
        info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
        info.external_attr = 0o644 << 16
        if stored:
            stream = self._zip.fp
            assert stream is not None
            # Field: id, size, alignment, then zeros until the data begins on a multiple of the alignment.
            begin = stream.tell() + LOCAL_HEADER + len(name.encode()) + 6
            padding = -begin % alignment_of(name)
            info.extra = struct.pack("<HHH", ALIGNMENT_FIELD, 2 + padding, alignment_of(name)) + bytes(padding)
        self._zip.writestr(info, data)
        return True


def misaligned(path: Path) -> list[str]:
    """Names of the stored entries of an APK whose data do not begin where they must."""
    wrong = []
    with zipfile.ZipFile(path) as apk, path.open("rb") as stream:
        for entry in apk.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                continue
            stream.seek(entry.header_offset)
            header = stream.read(LOCAL_HEADER)
            name_length, extra_length = struct.unpack_from("<HH", header, 26)
            begin = entry.header_offset + LOCAL_HEADER + name_length + extra_length
            if begin % alignment_of(entry.filename):
                wrong.append(entry.filename)
    return wrong


def page_size(library: bytes, name: str) -> int:
    """The largest memory page with which a 64-bit ELF library can be loaded, in bytes.

    Raises:
        BuildError: It is no such library.
    """
    if len(library) < 64 or library[:4] != ELF_MAGIC or library[4:6] != b"\x02\x01":
        raise BuildError(f"{name} is no 64-bit little-endian ELF library.")
    (table,) = struct.unpack_from("<Q", library, 0x20)
    size, count = struct.unpack_from("<HH", library, 0x36)
    alignments = []
    for index in range(count):
        begin = table + index * size
        if begin + 56 > len(library):
            raise BuildError(f"{name} is cut off: its program headers lie behind its end.")
        (kind,) = struct.unpack_from("<I", library, begin)
        if kind == PT_LOAD:
            alignments.append(int(struct.unpack_from("<Q", library, begin + 48)[0]))
    if not alignments:
        raise BuildError(f"{name} has no segment to load.")
    return min(alignments)

"""Opens a GGUF file, and checks its header before gguf believes it."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.errors import UserError
from et_pipeline.settings import first_line

if TYPE_CHECKING:
    from gguf import GGUFReader

MAGIC = b"GGUF"
MOST_ELEMENTS = 1 << 22  # values in a header; the largest vocabularies have a third of that
_ALIGNMENT = 32  # of tensors' data, where a header has no other
_STRING, _ARRAY = 8, 9  # types of values in a header, and the bytes of the others
_KV_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def check_magic(path: Path) -> None:
    """Look at the first bytes of a file, before all of it is read.

    Raises:
        UserError: it is no GGUF file.
    """
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise UserError(f"{path} is not a GGUF file: it does not begin with the letters GGUF")
        version = stream.read(4)
    if version[:2] == b"\0\0" and len(version) == 4 and version[2:] != b"\0\0":
        raise UserError(
            f"{path} is a big-endian GGUF file, as mainframes have them; make a little-endian one of it with gguf's "
            "gguf-convert-endian, or point model.source at its original checkpoint"
        )
    if version == b"\1\0\0\0":
        raise UserError(
            f"{path} is a GGUF file of version 1, of 2023; convert the original checkpoint anew, or point model.source "
            "at it"
        )


def open_file(path: Path, more: Sequence[Path] = ()) -> GGUFReader:
    """Read the header of a GGUF file.

    Args:
        path: the file, or its first part.
        more: the other parts in order, whose tensors the result has too.

    Raises:
        UserError: it is not one, or is cut short, or the parts are not those of one model.
    """
    reader = _open_part(path, 0, 1 + len(more))
    for number, part in enumerate(more, start=1):
        reader.tensors += _open_part(part, number, 1 + len(more)).tensors
    with trusting(path, "header"):
        if value_of(reader, "general.architecture") is None:
            raise UserError(f"{path} names no general.architecture")
        names = {tensor.name for tensor in reader.tensors}
        if more and not len(names) == len(reader.tensors) == value_of(reader, "split.tensors.count"):
            raise UserError(
                f"{path} and the parts beside it have {len(names)} different tensors in {len(reader.tensors)}, but its "
                f"split.tensors.count is {value_of(reader, 'split.tensors.count')}; they are not parts of one model"
            )
    return reader


def _open_part(path: Path, number: int, count: int) -> GGUFReader:
    from gguf import GGUFReader

    with trusting(path, "header"):
        _check_header(path)
        reader = GGUFReader(path)
        found = value_of(reader, "split.no") or 0, value_of(reader, "split.count") or 1
    if found != (number, count):
        raise UserError(
            f"{path} is by its metadata part {found[0] + 1} of {found[1]} of a model, and by its name part "
            f"{number + 1} of {count}; name parts as llama.cpp does, such as model-00001-of-00003.gguf, or join them "
            "with `llama-gguf-split --merge`"
        )
    return reader


class _Walk:
    """Goes through a header by its own counts and lengths, as far as the file goes."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.data, self.at, self.left = data, len(MAGIC), MOST_ELEMENTS
        self.damaged = f"{path} is damaged or cut short: its header"

    def skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.data):
            raise UserError(f"{self.damaged} leads to byte {self.at}, but the file has {len(self.data)}")

    def number(self, form: str) -> int:
        start = self.at
        self.skip(struct.calcsize(form))
        value: int = struct.unpack_from(form, self.data, start)[0]
        return value

    def text(self) -> bytes:
        length = self.number("<Q")
        self.skip(length)
        return self.data[self.at - length : self.at]

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise UserError(f"{self.damaged} has more than {MOST_ELEMENTS} values")

    def value(self, kind: int, count: int) -> None:
        self.spend(count)
        if kind == _STRING:
            for _ in range(count):
                self.skip(self.number("<Q"))
        elif kind in _KV_BYTES:
            self.skip(count * _KV_BYTES[kind])
        else:
            raise UserError(f"{self.damaged} has a value of type {kind} at byte {self.at}")

    def tensor(self) -> int:
        """Where a tensor ends, from where the first one begins."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        self.text()
        sizes = self.number("<I")
        self.spend(sizes)
        elements = math.prod(self.number("<Q") for _ in range(sizes))
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(self.number("<I"))]
        return self.number("<Q") + elements * size // block


def _check_header(path: Path) -> None:
    """Walk through the header before gguf does, which believes it, and goes on behind the file's end.

    Raises:
        UserError: it leads out of the file, or there are more values than gguf can take, at some 200 bytes each.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        walk, alignment = _Walk(path, data), _ALIGNMENT
        walk.number("<I")
        tensors, keys = walk.number("<Q"), walk.number("<Q")
        walk.spend(tensors + keys)
        for _ in range(keys):
            name, kind = walk.text(), walk.number("<I")
            if kind == _ARRAY:
                walk.value(walk.number("<I"), walk.number("<Q"))
            elif name == b"general.alignment" and _KV_BYTES.get(kind) == 4:
                alignment = walk.number("<I") or _ALIGNMENT
            else:
                walk.value(kind, 1)
        end = max((walk.tensor() for _ in range(tensors)), default=0)
        needed = end and walk.at + -walk.at % alignment + end
        if needed > len(data):
            raise UserError(
                f"{path} is damaged or cut short: it has {len(data)} bytes, and its tensors end at byte {needed}; "
                "download it again, or convert it anew"
            )


@contextmanager
def trusting(path: Path, part: str) -> Iterator[None]:
    """Libraries take the file's word for every length, index and text; what a broken one raises is chance."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        raise UserError(f"{path} is damaged or cut short: its {part} cannot be read ({first_line(error)})") from error


def value_of(reader: GGUFReader, key: str) -> Any:
    """A value of the metadata; None if the file does not have it."""
    field = reader.get_field(key)
    return None if field is None else field.contents()

"""Write a checkpoint shard by shard: one block of it is in memory at a time, and a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from et_pipeline.cache import sha256_file
from et_pipeline.checkpoints.layout import INDEX, SINGLE
from et_pipeline.errors import UserError
from et_pipeline.worker import Tick

if TYPE_CHECKING:
    import numpy as np

CHECKSUMS = "SHA256SUMS"
SHARD_BYTES = 2_000_000_000
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I64": 8}
_TEMPORARY = ".tmp"


class NewTensor(NamedTuple):
    """A tensor to be written; `dtype` is F32, F16, BF16, I32 or I64."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * _WIDTHS[self.dtype]


def encode(values: np.ndarray[Any, Any], dtype: str) -> bytes:
    """The bytes of float32 values in safetensors' little-endian F32, F16 or BF16."""
    if dtype == "BF16":
        return bfloat16(values).tobytes()
    return values.astype("<f4" if dtype == "F32" else "<f2", copy=False).tobytes()


def bfloat16(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """The bits of finite float32 values rounded to bfloat16, ties to even."""
    import numpy as np  # not above: the command line reads this module for other things

    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write_checkpoint(
    folder: Path,
    source: str,
    tensors: Sequence[NewTensor],
    content: Callable[[NewTensor], Iterable[bytes]],
    tick: Tick,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the safetensors files, their index, and the checksums of all files of the folder.

    A shard that is there already is kept: its name appears only once it is whole.

    Args:
        folder: takes the files; config and tokenizer lie there already.
        source: what the weights are made from, the subject of a sentence about a full disk.
        tensors: in the order in which they are read later.
        content: makes the bytes of a tensor, in pieces.
        tick: progress in bytes.
        shard_bytes: a shard is closed before it gets larger than this.

    Raises:
        UserError: the disk has too little room.
    """
    shards = _split(tensors, shard_bytes)
    headers = {name: _header(shard) for name, shard in shards.items()}
    sizes = {name: len(headers[name]) + sum(tensor.size for tensor in shard) for name, shard in shards.items()}
    missing = [name for name in shards if not _is_there(folder / name, headers[name], sizes[name])]
    for path in folder.glob(f"*{_TEMPORARY}"):
        path.unlink()
    check_room(folder, sum(sizes[name] for name in missing), source)
    done, total = 0, sum(sizes.values())
    sums = {}
    for name, shard in shards.items():
        tick(done, total)
        if name not in missing:
            sums[name] = sha256_file(folder / name)
            done += sizes[name]
            continue
        on_bytes = partial(lambda start, count: tick(start + count, total), done)
        sums[name] = _write_shard(folder / name, headers[name], shard, content, on_bytes)
        done += sizes[name]
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(tensor.size for tensor in tensors)},
            "weight_map": {tensor.name: name for name, shard in shards.items() for tensor in shard},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in sums and path.name != CHECKSUMS:
            sums[name] = sha256_file(path)
    (folder / CHECKSUMS).write_text("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)), encoding="utf-8")
    tick(total, total)


def _write_shard(
    path: Path,
    header: bytes,
    tensors: Sequence[NewTensor],
    content: Callable[[NewTensor], Iterable[bytes]],
    on_bytes: Callable[[int], None],
) -> str:
    """Write a file that gets its name when it is whole; returns its SHA-256."""
    temporary = path.with_name(f"{path.name}{_TEMPORARY}")
    checksum = hashlib.sha256(header)
    with temporary.open("wb") as stream:
        stream.write(header)
        for tensor in tensors:
            written = 0
            for piece in content(tensor):
                stream.write(piece)
                checksum.update(piece)
                written += len(piece)
                on_bytes(stream.tell())
            assert written == tensor.size, f"{tensor.name} has {written} bytes instead of {tensor.size}"
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    return checksum.hexdigest()


def check_room(folder: Path, needed: int, source: str, setting: str = "paths.cache") -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        UserError: says how much is needed, and where.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"{source} needs {needed / 1e9:.1f} GB on the disk of {existing}, which has {free / 1e9:.1f} GB free; "
            f"free some, or choose another {setting}"
        )


def _split(tensors: Sequence[NewTensor], shard_bytes: int) -> dict[str, list[NewTensor]]:
    groups: list[list[NewTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.size > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.size
    for group in groups:
        group.sort(key=lambda tensor: -_WIDTHS[tensor.dtype])  # keeps every tensor aligned to its own width
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{n:05}-of-{len(groups):05}.safetensors": group for n, group in enumerate(groups, start=1)}


def _header(tensors: Sequence[NewTensor]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape, dtype in tensors:
        end = offset + math.prod(shape) * _WIDTHS[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _is_there(path: Path, header: bytes, size: int) -> bool:
    if not path.is_file() or path.stat().st_size != size:
        return False
    with path.open("rb") as stream:
        return stream.read(len(header)) == header

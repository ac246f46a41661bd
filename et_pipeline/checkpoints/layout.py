"""What the headers of a checkpoint's safetensors files say: needs neither torch nor transformers.

The safetensors header is an 8-byte little-endian length, that many bytes of JSON, then the tensors' bytes
(https://huggingface.co/docs/safetensors). Only headers are read, so `plan` and `acquire` can check a folder in
milliseconds.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from et_pipeline.errors import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEAD = "lm_head.weight"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")

# What models that also see or hear call the parts of their language model, and what it calls them by itself.
_LANGUAGE_MODEL = {
    "model.language_model.": "model.",
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "lm_head.": "lm_head.",
}

_MAX_HEADER = 100_000_000  # safetensors' own limit
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class TensorInfo(NamedTuple):
    """Where a tensor lies and what it is.

    Attributes:
        file: its name.
        shape: of the tensor.
        dtype: safetensors' name for it, such as BF16.
        span: where its bytes begin and end in the file; nowhere, if it is to be made of others.
        stored: what the file calls it.
    """

    file: str
    shape: tuple[int, ...]
    dtype: str
    span: tuple[int, int] = (0, 0)
    stored: str = ""


def read_layout(folder: Path) -> dict[str, TensorInfo]:
    """List every tensor of a checkpoint from the safetensors headers, without reading weights.

    Args:
        folder: a folder in Hugging Face layout, with one safetensors file or an index over several.

    Returns:
        Tensor name to its file (relative to `folder`), shape and dtype.

    Raises:
        UserError: no safetensors, a pickle checkpoint, a broken or truncated file, or an index that does not match.
    """
    index = folder / INDEX
    if (folder / SINGLE).is_file():  # before an index beside it, as transformers does
        named, files = {}, [SINGLE]
    elif index.is_file():
        named = _read_index(index)
        files = sorted(set(named.values()))
    elif any((folder / name).is_file() for name in PICKLES):
        raise UserError(
            f"{folder} holds a pickle checkpoint (pytorch_model.bin), which can run code when it is read: "
            "convert it to safetensors first (model.save_pretrained(folder) of transformers writes them)"
        )
    else:
        raise UserError(f"{folder} holds neither {SINGLE} nor {INDEX}: point model.source at a checkpoint folder")
    layout: dict[str, TensorInfo] = {}
    for file in files:
        for name, info in read_header(folder, file).items():
            if name in layout:
                raise UserError(f"{folder}: tensor {name} is in both {layout[name].file} and {file}")
            layout[name] = info
    for name, file in named.items():
        if name not in layout or layout[name].file != file:
            raise UserError(f"{index} says that {file} holds {name}, but it does not: download the checkpoint again")
    return layout


def _read_index(path: Path) -> dict[str, str]:
    try:
        named = json.loads(path.read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise UserError(f"{path} is not a safetensors index ({error!r}): download the checkpoint again") from error
    if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
        raise UserError(f"{path} is not a safetensors index: its weight_map does not name files")
    for file in set(named.values()):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise UserError(f"{path} names {file!r}, which is not a safetensors file of the same folder")
    return named


def read_header(folder: Path, file: str) -> dict[str, TensorInfo]:
    """The tensors that one file's header names.

    Nothing is read or allocated on the word of a length that was not checked.

    Raises:
        UserError: the file is missing, truncated or damaged.
    """
    path = folder / file
    if not path.is_file():
        raise UserError(f"{path} is missing: download the checkpoint again")
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise UserError(f"{path} is truncated: {size} bytes are too few for a safetensors file")
        (length,) = struct.unpack("<Q", prefix)
        if length > _MAX_HEADER:
            raise UserError(f"{path} is not a safetensors file: its header claims {length} bytes")
        if length > size - 8:
            raise UserError(f"{path} is truncated: its header needs {length} bytes, and the file has {size - 8} left")
        raw = stream.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a safetensors file: its header is no JSON") from error
    if not isinstance(header, dict):
        raise UserError(f"{path} is not a safetensors file: its header is no JSON object")
    header.pop("__metadata__", None)
    data = size - 8 - length
    needed = 0
    layout = {}
    for name, entry in header.items():
        layout[name] = _read_entry(path, 8 + length, name, entry)
        needed = max(needed, layout[name].span[1] - 8 - length)
    if needed > data:
        raise UserError(f"{path} is truncated: its tensors need {needed} bytes, and the file has {data}")
    if needed < data:
        raise UserError(f"{path} is damaged: {data - needed} bytes follow its last tensor")
    return layout


def _read_entry(path: Path, begin: int, name: str, entry: Any) -> TensorInfo:
    """Check one tensor's entry; the file's data begin at byte `begin`."""
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        sound = all(type(n) is int and n >= 0 for n in (*shape, start, end)) and isinstance(dtype, str)
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound or end < start:
        raise UserError(f"{path} is damaged: the header entry of tensor {name} makes no sense")
    expected = math.prod(shape) * _DTYPE_BYTES[dtype] if dtype in _DTYPE_BYTES else None
    if expected is not None and end - start != expected:
        raise UserError(
            f"{path} is damaged: tensor {name} ({dtype} {list(shape)}) has {end - start} bytes instead of {expected}"
        )
    return TensorInfo(path.name, shape, dtype, (begin + start, begin + end), name)


def language_model(layout: Mapping[str, TensorInfo], where: Path) -> dict[str, TensorInfo]:
    """The tensors of the language model in one that also sees or hears, named as it has them by itself.

    Args:
        layout: all tensors.
        where: the folder, for a message.

    Raises:
        UserError: none is named as such.
    """
    found = {}
    for name, info in layout.items():
        for prefix, own in _LANGUAGE_MODEL.items():
            if name.startswith(prefix):
                found[own + name.removeprefix(prefix)] = info
                break
    if not found:
        raise UserError(
            f"{where} describes a model that sees or hears, and none of its tensors is named as its language model's "
            f"({', '.join(_LANGUAGE_MODEL)}); save that part by itself (model.language_model in transformers)"
        )
    return found


def has_copied_head(folder: Path, layout: Mapping[str, TensorInfo]) -> bool:
    """Whether a checkpoint's head is, byte by byte, its embedding."""
    names = [name for name in layout if name.endswith("embed_tokens.weight")]
    if HEAD not in layout or len(names) != 1:
        return False
    head, embedding = layout[HEAD], layout[names[0]]
    if (head.shape, head.dtype) != (embedding.shape, embedding.dtype):
        return False
    pieces = (read_bytes(folder, info) for info in (head, embedding))
    return all(a == b for a, b in zip(*pieces, strict=True))


def read_bytes(folder: Path, info: TensorInfo) -> Iterator[bytes]:
    """A tensor's bytes, 16 MiB at a time."""
    with (folder / info.file).open("rb") as stream:
        start, end = info.span
        stream.seek(start)
        for at in range(start, end, 1 << 24):
            yield stream.read(min(1 << 24, end - at))


def read_metadata(path: Path) -> dict[str, str]:
    """What else the header of a safetensors file says, which `read_layout` has checked."""
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        return json.loads(stream.read(length)).get("__metadata__") or {}

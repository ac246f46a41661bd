"""Finds for each tensor of the model the one of a GGUF file, and makes its bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.gguf.config import ROPE_FACTORS
from et_pipeline.checkpoints.shards import NewTensor, encode
from et_pipeline.checkpoints.skeleton import build_skeleton
from et_pipeline.errors import UserError

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

BLOCK = 1 << 22  # weights decoded at a time
GROUP = 32  # weights per scale
_FORMAT = "pack-quantized"
_PACKED, _SCALE, _SHAPE = "_packed", "_scale", "_shape"  # after `weight`, in this form
_KEPT_BITS = {"Q4_0": 4, "Q8_0": 8}
_WHOLE_TYPES = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
# Tensors that no family reorders. They are the largest, so they are decoded in blocks of rows.
_PLAIN = ("token_embd.weight", "output.weight")


class Source(NamedTuple):
    """What a weight is made from; `bits` are those of integers that are kept, 0 for floats."""

    tensor: ReaderTensor
    shape: tuple[int, ...]
    bits: int


def match(path: Path, reader: GGUFReader, architecture: str, out: Path) -> tuple[dict[str, Source], dict[str, Any]]:
    """Find for every tensor of the model the one of the file, in the model's order."""
    from torch import nn

    model, tied = build_skeleton(Folder(out), as_stored=True)
    values = json.loads((out / "config.json").read_text(encoding="utf-8"))
    values["architectures"] = [type(model).__name__]
    names, _ = names_in_file(path, architecture, model)
    tensors = {tensor.name: tensor for tensor in reader.tensors if tensor.name != ROPE_FACTORS}
    strangers = sorted(set(tensors) - set(names))
    if strangers:
        raise UserError(
            f"{path}: tensor {strangers[0]} has no place in the {architecture} model that its metadata describe; "
            "point model.source at its original checkpoint"
        )
    check_types(path, list(tensors.values()))
    stored = {names[name]: tensor for name, tensor in tensors.items()}
    found = {}
    for name, value in model.state_dict().items():
        if name in tied:
            continue
        if name not in stored:
            raise UserError(f"{path}: the file has no tensor for {name}, which its metadata ask for")
        tensor, shape = stored[name], tuple(value.shape)
        given = tuple(int(n) for n in reversed(tensor.shape))
        if math.prod(shape) != math.prod(given) or (len(given) == len(shape) and given != shape):
            raise UserError(
                f"{path}: tensor {tensor.name} has shape {list(given)}, but the metadata ask for {list(shape)}"
            )
        # Of linears alone: transformers, the other reader of the folder, knows no embedding in this form.
        linear = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear) and len(shape) == 2
        bits = _KEPT_BITS.get(tensor.tensor_type.name, 0) if linear else 0
        found[name] = Source(tensor, shape, bits)
    values |= _quantization(found)
    (out / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return found, values


def names_in_file(path: Path, architecture: str, model: Any) -> tuple[dict[str, str], Any]:
    """Names of a model's tensors by those that a GGUF file gives them, and what `in_order` wants.

    Args:
        path: the file.
        architecture: as it names it.
        model: of `build_skeleton`.
    """
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=config)
    try:
        return get_gguf_hf_weights_map(model, processor, architecture), processor
    except NotImplementedError as error:
        raise UserError(f"{path} holds a model of architecture {architecture}, which cannot be converted") from error


def in_order(path: Path, processor: Any, values: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """A tensor of a GGUF file with its rows where transformers' model wants them."""
    values, own, _ = processor.process(values, name)
    if own != name:
        raise UserError(f"{path}: tensor {name} is packed in a way that is not supported")
    return values


def _quantization(sources: dict[str, Source]) -> dict[str, Any]:
    """What config.json says of the integers that are kept."""
    groups = {}
    for kind, bits in _KEPT_BITS.items():
        modules = [name.removesuffix(".weight") for name, source in sources.items() if source.bits == bits]
        if modules:
            weights = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
            groups[kind] = {"targets": modules, "weights": weights, "format": _FORMAT}
    if not groups:
        return {}
    settings = {"quant_method": "compressed-tensors", "format": _FORMAT, "quantization_status": "compressed"}
    return {"quantization_config": {**settings, "converted_from": "GGUF", "config_groups": groups}}


def stored(name: str, source: Source) -> list[NewTensor]:
    """The tensors of the checkpoint that hold a weight."""
    if not source.bits:
        return [NewTensor(name, source.shape, _WHOLE_TYPES.get(source.tensor.tensor_type.name, "F16"))]
    rows, columns = source.shape
    return [
        NewTensor(f"{name}{_PACKED}", (rows, columns * source.bits // 32), "I32"),
        # As floats of 32 bits, for compressed-tensors multiplies in the scales' type.
        NewTensor(f"{name}{_SCALE}", (rows, columns // GROUP), "F32"),
        NewTensor(f"{name}{_SHAPE}", (2,), "I64"),
    ]


def check_types(path: Path, tensors: Sequence[ReaderTensor]) -> None:
    """Refuse a type that cannot be decoded, and a tensor of no dimension, which no model has.

    Raises:
        UserError: names the first such tensor.
    """
    from gguf import dequantize

    for tensor in tensors:
        if not tensor.data.ndim:
            raise UserError(f"{path}: tensor {tensor.name} has no dimension, so the file is damaged")
    firsts = {tensor.tensor_type: tensor for tensor in reversed(tensors)}
    for kind, tensor in firsts.items():
        try:
            dequantize(tensor.data[:1], kind)
        except NotImplementedError as error:
            raise UserError(
                f"{path}: tensor {tensor.name} is of type {kind.name}, which the gguf library cannot decode"
            ) from error


class Decoder:
    """Makes the bytes of a tensor from its blocks."""

    def __init__(self, path: Path, architecture: str, config: dict[str, Any]) -> None:
        from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS

        self._path = path
        kind = TENSOR_PROCESSORS.get(architecture)
        self._processor = None if kind is None else kind(config=config)

    def pieces(self, tensor: NewTensor, source: Source) -> Iterator[bytes]:
        """A tensor of `stored` in safetensors' form; in one piece if its family stores it in another order.

        Raises:
            UserError: it holds what is no weight.
        """
        part = tensor.name.rpartition("weight")[2]
        if part == _SHAPE:
            yield np.array(source.shape, "<i8").tobytes()
            return
        data, limit = source.tensor.data, np.finfo(np.float16 if tensor.dtype == "F16" else np.float32).max
        rows = len(data)
        if self._processor is None or source.tensor.name in _PLAIN:
            rows = max(1, BLOCK // (math.prod(source.shape) // rows))
        for start in range(0, len(data), rows):
            blocks = data[start : start + rows]
            if part == _SCALE:
                yield encode(self._scales(blocks, source), tensor.dtype)
                continue
            values = self._floats(blocks, source)
            if not bool((np.abs(values) <= limit).all()):  # false for NaN too
                raise UserError(
                    f"{self._path} is damaged: tensor {source.tensor.name} holds values that are no weights"
                )
            if part == _PACKED:
                yield _pack(values, self._scales(blocks, source), source.bits)
            else:
                yield encode(values, tensor.dtype)

    def _floats(self, blocks: np.ndarray[Any, Any], source: Source) -> np.ndarray[Any, Any]:
        from gguf import dequantize

        return self._in_order(np.asarray(dequantize(blocks, source.tensor.tensor_type), np.float32), source)

    def _in_order(self, values: np.ndarray[Any, Any], source: Source) -> np.ndarray[Any, Any]:
        if self._processor is None or source.tensor.name in _PLAIN:
            return values
        return in_order(self._path, self._processor, values, source.tensor.name)

    def _scales(self, blocks: np.ndarray[Any, Any], source: Source) -> np.ndarray[Any, Any]:
        """A block of either type begins with its scale; rows are put in order as those of weights are."""
        groups = source.shape[1] // GROUP
        stored = blocks.reshape(len(blocks), groups, -1)[..., :2].copy().view("<f2")[..., 0].astype(np.float32)
        return self._in_order(np.repeat(stored, GROUP, axis=1), source)[:, ::GROUP]


def _pack(values: np.ndarray[Any, Any], scales: np.ndarray[Any, Any], bits: int) -> bytes:
    """The integers of which gguf has made the weights, from 0 on, the first in the lowest bits."""
    groups, steps = values.reshape(len(values), -1, GROUP), scales[..., None]
    integers = np.rint(groups / np.where(steps == 0, np.float32(1), steps))
    half = 1 << (bits - 1)
    assert bool((integers * steps == groups).all() and (integers >= -half).all() and (integers < half).all())
    unsigned = (integers + half).astype(np.uint8).reshape(len(values), -1)
    return (unsigned[:, ::2] | unsigned[:, 1::2] << 4 if bits == 4 else unsigned).tobytes()

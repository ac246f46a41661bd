"""Checkpoints that somebody has quantized already: the float weights that they stand for, one tensor at a time.

bitsandbytes, GPTQ, AWQ, torchao and compressed-tensors keep a linear's weight as several tensors; what was Q4_0 or Q8_0
in a GGUF file is kept in compressed-tensors' form (`gguf`). `find` says from the
headers which weights are stored so, and what the checkpoint would hold without that; it needs no torch. `decode` makes
one weight: integers and scales where all of them have a zero point in the middle, as ours do, and floats otherwise.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from et_pipeline.checkpoints.config import is_tied
from et_pipeline.checkpoints.layout import HEAD, TensorInfo, has_copied_head, read_layout
from et_pipeline.errors import UserError

if TYPE_CHECKING:
    import torch

READABLE = (
    "bitsandbytes (NF4, FP4, int8), gptq (2, 4 or 8 bits), awq (gemm), torchao (IntxUnpackedToInt8Tensor, Int8Tensor) "
    "and compressed-tensors (integers of 2, 4 or 8 bits) can, and so can the original float weights"
)
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # in which nibble of a word a column lies, from the lowest
_INTEGER_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized")
_TORCHAO = ("IntxUnpackedToInt8Tensor", "Int8Tensor")
_BNB_STATE = "weight.quant_state.bitsandbytes__"
_FLOATS = ("F32", "F16", "BF16")
LARGEST = 128.0  # magnitude of an integer


class Packed(NamedTuple):
    """A weight that is stored in another form.

    Attributes:
        shape: of the float weight, [outputs, inputs].
        parts: what the form calls a tensor, and the tensor's name in the files.
        decode: makes the weight of the parts; see `decode`.
    """

    shape: tuple[int, int]
    parts: dict[str, str]
    decode: Callable[[dict[str, torch.Tensor]], torch.Tensor]


class Contents(NamedTuple):
    """What a checkpoint holds, whatever it looks like in its files.

    Attributes:
        layout: every tensor, with a packed weight as the one float tensor that it stands for, and without a tied head
            that is the embedding's copy.
        packed: how the packed ones among them are stored, by name.
        idle: biases of packed linears that are zero throughout; tools write them for models that have none.
        form: how packed weights are stored, in words; None if there are none.
    """

    layout: dict[str, TensorInfo]
    packed: dict[str, Packed]
    idle: dict[str, TensorInfo]
    form: str | None


class _Part(NamedTuple):
    """What a tensor beside a packed weight must be like; a None in its shape stands for any number."""

    dtypes: tuple[str, ...]
    shape: tuple[int | None, ...]
    needed: bool = True


def check_method(config: Mapping[str, Any], where: str) -> str | None:
    """Refuse a quantization that cannot be read; returns the name of one that can, None if the config has none.

    Args:
        config: the content of config.json.
        where: what to call it in a message.

    Raises:
        UserError: says what it has, and what can be read.
    """
    settings = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config")
    if not settings:
        return None
    if not isinstance(settings, Mapping):
        raise UserError(f"{where} has quantization_config={settings!r}, expected an object")
    method = settings.get("quant_method")
    if not isinstance(method, str) or method not in _METHODS:
        raise UserError(f"{where} has quantization_config.quant_method={method!r}, which cannot be read; {READABLE}")
    try:
        fault = _METHODS[method].fault(settings)
    except (AttributeError, TypeError, ValueError):  # an entry is of another type than it should be
        fault = f"{ {key: value for key, value in settings.items() if key != 'quant_method'} }"
    if fault:
        raise UserError(
            f"{where} has quantization_config.quant_method={method!r} with {fault}, which cannot be read; {READABLE}"
        )
    return str(method)


def _gptq_fault(settings: Mapping[str, Any]) -> str | None:
    form = settings.get("checkpoint_format") or settings.get("format") or "gptq"
    if settings.get("bits") not in (2, 4, 8):
        return f"bits={settings.get('bits')!r}"
    if form not in ("gptq", "gptq_v2"):
        return f"checkpoint_format={form!r}"
    return next((f"{key}={settings[key]!r}" for key in ("is_marlin_format", "dynamic") if settings.get(key)), None)


def _awq_fault(settings: Mapping[str, Any]) -> str | None:
    version = settings.get("version") or settings.get("format") or "gemm"
    if settings.get("bits") != 4:
        return f"bits={settings.get('bits')!r}"
    return None if str(version).lower() == "gemm" else f"version={version!r}"


def _compressed_fault(settings: Mapping[str, Any]) -> str | None:
    groups = settings.get("config_groups")
    if not isinstance(groups, Mapping) or not all(isinstance(group, Mapping) for group in groups.values()):
        return f"config_groups={groups!r}"
    overall = settings.get("format")
    for group in groups.values():
        form = group.get("format") or overall
        if form not in _INTEGER_FORMATS:
            return f"format={form!r}"
        weights = group.get("weights") or {}
        if weights.get("type", "int") != "int" or weights.get("num_bits") not in (2, 4, 8):
            return f"weights of type {weights.get('type')!r} and num_bits={weights.get('num_bits')!r}"
    if (settings.get("sparsity_config") or {}).get("format", "dense") != "dense":
        return f"sparsity_config={settings['sparsity_config']!r}"
    # Weights that are rotated for a model that turns its activations at run time.
    return "a transform_config" if (settings.get("transform_config") or {}).get("config_groups") else None


def find(folder: Path, config: Mapping[str, Any]) -> Contents:
    """Work out from the headers what a checkpoint holds.

    Args:
        folder: a checkpoint in Hugging Face layout.
        config: the content of its config.json.

    Raises:
        UserError: as `read_layout` and `check_method`, or a part of a packed weight is missing or has a wrong shape.
    """
    layout = read_layout(folder)
    if is_tied(config) and has_copied_head(folder, layout):
        del layout[HEAD]
    method = check_method(config, str(folder / "config.json"))
    if method is None:
        return Contents(layout, {}, {}, None)
    settings = config.get("quantization_config") or config["text_config"]["quantization_config"]
    finder = _Finder(folder, layout, settings)
    _METHODS[method].collect(finder)
    whole = {name: info for name, info in layout.items() if name not in finder.used}
    for name, packed in finder.packed.items():
        if name in whole:
            raise UserError(f"{folder}: weight {name} is there twice, as floats and as {min(packed.parts.values())}")
        file = layout[next(iter(packed.parts.values()))].file
        whole[name] = TensorInfo(file, packed.shape, "F32")
    idle = {
        name: whole.pop(name)
        for name in [f"{name.removesuffix('weight')}bias" for name in finder.packed]
        if name in whole and not any(finder.raw(name))
    }
    origin = settings.get("converted_from", method)
    return Contents(whole, finder.packed, idle, f"{origin} ({finder.words})" if finder.packed else None)


class _Finder:
    """Collects the packed weights of a checkpoint."""

    def __init__(self, folder: Path, layout: dict[str, TensorInfo], settings: Mapping[str, Any]) -> None:
        self.folder, self.layout, self.settings = folder, layout, settings
        self.packed: dict[str, Packed] = {}
        self.used: set[str] = set()
        self.words = ""
        self._headers: dict[str, tuple[int, dict[str, Any]]] = {}

    def add(
        self,
        stem: str,
        shape: tuple[int, int],
        parts: dict[str, _Part],
        decode: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    ) -> None:
        """Take the weight of the module `stem`; its parts are named `stem` and their own name."""
        found = {}
        for part, wanted in parts.items():
            name = f"{stem}{part}"
            info = self.layout.get(name)
            if info is None:
                if wanted.needed:
                    raise UserError(
                        f"{self.folder}: tensor {name} is in no safetensors file, and "
                        f"quantization_config.quant_method={self.settings['quant_method']!r} asks for it"
                    )
                continue
            fits = len(info.shape) == len(wanted.shape) and all(
                n in (None, m) for n, m in zip(wanted.shape, info.shape, strict=True)
            )
            if not fits or info.dtype not in wanted.dtypes or 0 in info.shape:
                expected = ", ".join("any" if n is None else str(n) for n in wanted.shape)
                raise UserError(
                    f"{self.folder / info.file}: tensor {name} is {info.dtype} {list(info.shape)}, but the weight "
                    f"{stem}weight of {list(shape)} asks for {' or '.join(wanted.dtypes)} [{expected}]"
                )
            found[part] = name
        self.used.update(found.values())
        self.packed[f"{stem}weight"] = Packed(shape, found, partial(_named, f"{self.folder}: weight {stem}", decode))

    def stems(self, part: str) -> list[str]:
        """The modules, each with a dot at its end, that have a tensor of this name."""
        return [name.removesuffix(part) for name in self.layout if name.endswith(f".{part}")]

    def dimensions(self, name: str, count: int) -> tuple[int, ...]:
        """A tensor's shape, which has `count` numbers."""
        info = self.layout[name]
        if len(info.shape) != count:
            raise UserError(
                f"{self.folder / info.file}: tensor {name} has shape {list(info.shape)}, expected {count} dimensions"
            )
        return info.shape

    def raw(self, name: str) -> bytes:
        """A tensor's bytes."""
        file = self.layout[name].file
        start, header = self.header(file)
        first, last = header[name]["data_offsets"]
        with (self.folder / file).open("rb") as stream:
            stream.seek(start + first)
            return stream.read(last - first)

    def header(self, file: str) -> tuple[int, dict[str, Any]]:
        """Where a file's data begin, and its header, which `read_layout` has checked."""
        if file not in self._headers:
            with (self.folder / file).open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                self._headers[file] = 8 + length, json.loads(stream.read(length))
        return self._headers[file]

    def gptq(self) -> None:
        bits, size = self.settings["bits"], self.settings.get("group_size") or -1
        form = self.settings.get("checkpoint_format") or self.settings.get("format")
        self.words = _words(bits, size)
        for stem in self.stems("qweight"):
            words, rows = self.dimensions(f"{stem}qweight", 2)
            columns = words * 32 // bits
            groups = -(-columns // size) if size > 0 else 1
            parts = {
                "qweight": _Part(("I32",), (words, rows)),
                "qzeros": _Part(("I32",), (groups, -(-rows * bits // 32))),
                "scales": _Part(_FLOATS, (groups, rows)),
                "g_idx": _Part(("I32",), (columns,), needed=False),
            }
            # The first form stores zero points less one.
            decode = partial(_decode_gptq, bits=bits, size=size if size > 0 else columns, less=form != "gptq_v2")
            self.add(stem, (rows, columns), parts, decode)

    def awq(self) -> None:
        size = self.settings.get("group_size") or -1
        self.words = _words(4, size)
        for stem in self.stems("qweight"):
            columns, words = self.dimensions(f"{stem}qweight", 2)
            groups = columns // size if size > 0 else 1
            parts = {
                "qweight": _Part(("I32",), (columns, words)),
                "qzeros": _Part(("I32",), (groups, words)),
                "scales": _Part(_FLOATS, (groups, 8 * words)),
            }
            self.add(stem, (8 * words, columns), parts, _decode_awq)

    def bitsandbytes(self) -> None:
        self.words = "int8"
        for stem in self.stems("SCB"):
            weight = f"{stem}weight"
            if weight not in self.layout:
                raise UserError(f"{self.folder}: tensor {weight} is in no safetensors file, but {stem}SCB is")
            rows, columns = self.dimensions(weight, 2)
            parts = {
                "weight": _Part(("I8",), (rows, columns)),
                "SCB": _Part(("F32",), (rows,)),
                "weight_format": _Part(("U8",), (), needed=False),
            }
            self.add(stem, (rows, columns), parts, _decode_int8)
        for name in [name for name in self.layout if _BNB_STATE in name]:
            stem, kind = name.split(_BNB_STATE)
            self.words = kind.upper()
            shape, state = self._bnb_state(name)
            blocks = -(-math.prod(shape) // state["blocksize"])
            nested = f"{stem}weight.nested_absmax" in self.layout
            parts = {
                f"{_BNB_STATE}{kind}": _Part(("U8",), (None,)),
                "weight": _Part(("U8", *_FLOATS), (None, 1)),
                "weight.quant_map": _Part(("F32",), (16,)),
                "weight.absmax": _Part(("U8",) if nested else ("F32",), (blocks,)),
            }
            if nested:
                parts["weight.nested_absmax"] = _Part(("F32",), (-(-blocks // state["nested_blocksize"]),))
                parts["weight.nested_quant_map"] = _Part(("F32",), (256,))
            self.add(stem, shape, parts, partial(_decode_4bit, shape=shape, state=state))

    def _bnb_state(self, name: str) -> tuple[tuple[int, int], dict[str, Any]]:
        """The weight's shape and what bitsandbytes needs to know beside its tensors; JSON in a tensor of its own."""
        nested = f"{name.split('.quant_state')[0]}.nested_absmax" in self.layout
        wanted = {"blocksize": int} | ({"nested_blocksize": int, "nested_offset": float} if nested else {})
        try:
            state = json.loads(self.raw(name))
            rows, columns = state["shape"]
            sound = all(type(n) is int and n > 0 for n in (rows, columns, state["blocksize"]))
            sound = sound and all(isinstance(state[key], kind) for key, kind in wanted.items())
            sound = sound and (not nested or state["nested_blocksize"] > 0)
        except (ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            raise UserError(f"{self.folder / self.layout[name].file} is damaged: tensor {name} makes no sense")
        return (rows, columns), state

    def torchao(self) -> None:
        kinds = set()
        for file in sorted({info.file for info in self.layout.values()}):
            metadata = self.header(file)[1].get("__metadata__") or {}
            for name, text in metadata.items():
                if not name.endswith("weight") or "_type" not in text:
                    continue
                stem = name.removesuffix("weight")
                try:
                    tensor = json.loads(text)
                    kind = tensor["_type"]
                    target = tensor.get("_data", {}).get("target_dtype", {}).get("_data", "int8")
                    bits = int(target.removeprefix("int"))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise UserError(f"{self.folder / file} is damaged: its metadata of {name} make no sense") from error
                if kind == "Tensor":
                    continue
                if kind not in _TORCHAO or f"{stem}_weight_act_pre_scale" in self.layout:
                    raise UserError(
                        f"{self.folder / file}: weight {name} is a {kind} of torchao, which cannot be read; {READABLE}"
                    )
                qdata = f"{stem}_weight_qdata"
                if qdata not in self.layout:
                    raise UserError(
                        f"{self.folder}: tensor {qdata} is in no safetensors file, but the metadata name it"
                    )
                rows, columns = self.dimensions(qdata, 2)
                groups = self.layout.get(f"{stem}_weight_scale", TensorInfo("", (rows, 1), "")).shape[-1]
                kinds.add(_words(bits, columns // max(1, groups) if groups > 1 else -1))
                parts = {
                    "_weight_qdata": _Part(("I8",), (rows, columns)),
                    "_weight_scale": _Part(_FLOATS, (rows, None)),
                    "_weight_zero_point": _Part(("I8", *_FLOATS), (rows, None), needed=False),
                }
                self.add(stem, (rows, columns), parts, partial(_decode_torchao, bits=bits))
        self.words = " and ".join(sorted(kinds))

    def compressed(self) -> None:
        weights = [group["weights"] for group in self.settings["config_groups"].values()]
        bits = {each["num_bits"] for each in weights}
        self.words = " and ".join(sorted({_words(each["num_bits"], each.get("group_size") or -1) for each in weights}))
        for stem in self.stems("weight_packed"):
            rows, words = self.dimensions(f"{stem}weight_packed", 2)
            if f"{stem}weight_shape" not in self.layout:
                raise UserError(f"{self.folder}: tensor {stem}weight_shape is in no safetensors file")
            raw = self.raw(f"{stem}weight_shape")
            columns = struct.unpack("<2q", raw)[1] if len(raw) == 16 else 0
            used = next((n for n in sorted(bits) if columns > 0 and words == -(-columns * n // 32)), 0)
            if not used or struct.unpack("<2q", raw)[0] != rows:
                raise UserError(
                    f"{self.folder / self.layout[f'{stem}weight_packed'].file}: tensor {stem}weight_packed has shape "
                    f"{[rows, words]}, which does not go with {stem}weight_shape and {sorted(bits)} bits"
                )
            parts = {
                "weight_packed": _Part(("I32",), (rows, words)),
                "weight_shape": _Part(("I64",), (2,)),
                "weight_scale": _Part(_FLOATS, (rows, None)),
                "weight_zero_point": _Part(("I32",), (-(-rows * used // 32), None), needed=False),
                "weight_g_idx": _Part(("I32",), (columns,), needed=False),
                **_STATIC_INPUT,
            }
            self.add(stem, (rows, columns), parts, partial(_decode_packed, bits=used, columns=columns))
        for stem in self.stems("weight_scale"):
            if f"{stem}weight_packed" in self.layout:
                continue
            if f"{stem}weight" not in self.layout:
                raise UserError(f"{self.folder}: tensor {stem}weight is in no safetensors file, but its scale is")
            rows, columns = self.dimensions(f"{stem}weight", 2)
            scale = self.layout[f"{stem}weight_scale"].shape
            parts = {
                "weight": _Part(("I8",), (rows, columns)),
                "weight_scale": _Part(_FLOATS, (1,) if scale == (1,) else (rows, None)),
                "weight_zero_point": _Part(("I8",), (1,) if scale == (1,) else (rows, None), needed=False),
                "weight_g_idx": _Part(("I32",), (columns,), needed=False),
                **_STATIC_INPUT,
            }
            self.add(stem, (rows, columns), parts, partial(_decode_integers, bits=max(bits)))


class _Method(NamedTuple):
    """How a method's weights are found, and what of its settings cannot be read (in words), if anything."""

    collect: Callable[[_Finder], None]
    fault: Callable[[Mapping[str, Any]], str | None] = lambda _: None


_METHODS = {
    "bitsandbytes": _Method(_Finder.bitsandbytes),
    "gptq": _Method(_Finder.gptq, _gptq_fault),
    "awq": _Method(_Finder.awq, _awq_fault),
    "torchao": _Method(_Finder.torchao),
    "compressed-tensors": _Method(_Finder.compressed, _compressed_fault),
}
# Ranges of activations that were fixed by calibration, which ours are not.
_STATIC_INPUT = {name: _Part((*_FLOATS, "I8"), (1,), needed=False) for name in ("input_scale", "input_zero_point")}


def _words(bits: int, size: int) -> str:
    return f"{bits} bits in groups of {size}" if size > 0 else f"{bits} bits per output channel"


def decode(packed: Packed, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
    """Make a weight of the tensors that it is stored in.

    Args:
        packed: of `find`.
        read: gives a tensor of the checkpoint by name.

    Returns:
        [outputs, inputs]: an `IntxUnpackedToInt8Tensor` with the very integers and with float32 scales, of int4 or
        int8, if each scale is for equally many neighbouring inputs, and zero points are 0; float32 otherwise. No scale
        is 0: integers that stand for 0 in that way are 0 with a scale of 1. Some may be negative.

    Raises:
        UserError: the tensors hold what cannot be.
    """
    return packed.decode({part: read(name) for part, name in packed.parts.items()})


def floats(weight: Any, rows: slice = slice(None)) -> torch.Tensor:
    """Rows of a weight as float32, quantized or not."""
    if not hasattr(weight, "qdata"):
        return weight[rows].float()
    size = weight.block_size[-1]
    integers = weight.qdata[rows].float().unflatten(1, (-1, size))
    return ((integers - weight.zero_point[rows, :, None]) * weight.scale[rows, :, None].float()).flatten(1)


def unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Unsigned integers of `bits` bits, the lowest first, from the last dimension of int32 words; uint8."""
    import torch

    pieces = words.clone(memory_format=torch.contiguous_format).view(torch.uint8)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    return ((pieces.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).flatten(-2)


def _named(
    what: str, decode: Callable[[dict[str, torch.Tensor]], torch.Tensor], parts: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Decode, and say in a fault of the content which weight it is about."""
    try:
        return decode(parts)
    except ValueError as error:
        raise UserError(f"{what}weight is damaged: {error}") from error


def _centred(unsigned: torch.Tensor, bits: int) -> torch.Tensor:
    """Integers from 0 on as int8 around 0."""
    import torch

    return (unsigned - (1 << (bits - 1))).view(torch.int8)  # wraps around, as two's complement does


def _decode_gptq(parts: dict[str, torch.Tensor], bits: int, size: int, less: bool) -> torch.Tensor:
    """GPTQ's (Frantar et al. 2022, arXiv:2210.17323) files: inputs are packed along the first dimension."""
    import torch

    integers = _centred(unpack(parts["qweight"].T, bits), bits)
    zeros = unpack(parts["qzeros"], bits)[:, : len(integers)].T
    if less:
        zeros = (zeros + 1) & ((1 << bits) - 1)
    index = parts.get("g_idx")
    index = torch.arange(integers.shape[1]) // size if index is None else index
    return _weight(integers, parts["scales"].T, _centred(zeros, bits), index, bits)


def _decode_awq(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """AWQ's (Lin et al. 2023, arXiv:2306.00978) files: outputs are packed, and out of order within a word."""

    def in_order(words: torch.Tensor) -> torch.Tensor:
        return unpack(words, 4).unflatten(-1, (-1, 8))[..., _AWQ_ORDER].flatten(-2).T.contiguous()

    integers, zeros = (_centred(in_order(parts[name]), 4) for name in ("qweight", "qzeros"))
    return _weight(integers, parts["scales"].T, zeros, None, 4)


def _decode_int8(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """LLM.int8()'s (Dettmers et al. 2022, arXiv:2208.07339): what is 127 steps, per output."""
    if int(parts.get("weight_format", 0)):
        raise ValueError("its weight_format is not 0, that of rows")
    return _weight(parts["weight"], parts["SCB"][:, None] / 127, None, None, 8)


def _decode_4bit(parts: dict[str, torch.Tensor], shape: tuple[int, int], state: dict[str, Any]) -> torch.Tensor:
    """NF4 (Dettmers et al. 2023, arXiv:2305.14314) and FP4: a table's values, times the largest of each block."""
    import torch

    count, size = math.prod(shape), state["blocksize"]
    codes = parts["weight"].flatten().view(torch.uint8)
    if len(codes) != -(-count // 2):
        raise ValueError(f"it has {len(codes)} bytes instead of {-(-count // 2)}")
    largest = parts["weight.absmax"]
    if "weight.nested_absmax" in parts:  # those are 8 bits themselves
        scales = parts["weight.nested_absmax"].repeat_interleave(state["nested_blocksize"])[: len(largest)]
        largest = parts["weight.nested_quant_map"][largest.int()] * scales + state["nested_offset"]
    _check_scales(largest)
    nibbles = torch.stack([codes >> 4, codes & 15], -1).flatten()[:count]
    values = parts["weight.quant_map"][nibbles.int()]
    return values.mul_(largest.repeat_interleave(size)[:count]).reshape(shape)


def _decode_torchao(parts: dict[str, torch.Tensor], bits: int) -> torch.Tensor:
    return _weight(parts["_weight_qdata"], parts["_weight_scale"], parts.get("_weight_zero_point"), None, bits)


def _decode_packed(parts: dict[str, torch.Tensor], bits: int, columns: int) -> torch.Tensor:
    """compressed-tensors' pack-quantized: zero points are packed along the outputs."""
    integers = _centred(unpack(parts["weight_packed"], bits)[:, :columns].contiguous(), bits)
    zeros = parts.get("weight_zero_point")
    if zeros is not None:
        zeros = _centred(unpack(zeros.T, bits)[:, : len(integers)].T.contiguous(), bits)
    return _weight(integers, parts["weight_scale"], zeros, parts.get("weight_g_idx"), bits)


def _decode_integers(parts: dict[str, torch.Tensor], bits: int) -> torch.Tensor:
    """compressed-tensors' int-quantized."""
    rows = len(parts["weight"])
    scale, zeros = (
        None if part is None else part.reshape(-1, 1).expand(rows, 1) if part.dim() == 1 else part
        for part in (parts["weight_scale"], parts.get("weight_zero_point"))
    )
    assert scale is not None
    return _weight(parts["weight"], scale, zeros, parts.get("weight_g_idx"), bits)


def _weight(
    integers: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, index: torch.Tensor | None, bits: int
) -> torch.Tensor:
    """What `decode` returns, (integers - zeros) * scales.

    Args:
        integers: [outputs, inputs] int8.
        scales: [outputs, groups].
        zeros: as scales, or None for 0.
        index: [inputs], each one's group; None if groups are equally many inputs one after the other.
        bits: of the integers.
    """
    import torch
    from torchao.quantization import IntxUnpackedToInt8Tensor

    width, groups = integers.shape[1], scales.shape[1]
    _check_scales(scales)
    if zeros is not None and zeros.shape != scales.shape:
        raise ValueError(f"it has {list(scales.shape)} scales, but {list(zeros.shape)} zero points")
    if index is not None and (int(index.min()) < 0 or int(index.max()) >= groups):
        raise ValueError(f"its g_idx names groups outside of the {groups} that there are")
    if index is None and width % groups:
        raise ValueError(f"its {width} inputs are no whole number of {groups} groups")
    if index is not None and width % groups == 0 and torch.equal(index, _neighbours(width, groups).to(index.dtype)):
        index = None
    scales = scales.float()
    if index is None and (zeros is None or not zeros.any()):
        empty = scales == 0
        if bool(empty.any()):
            integers = integers.masked_fill(empty.repeat_interleave(width // groups, 1), 0)
            scales = scales.masked_fill(empty, 1)
        return IntxUnpackedToInt8Tensor(
            qdata=integers.contiguous(),
            scale=scales.contiguous(),
            zero_point=torch.zeros(scales.shape, dtype=torch.int8),
            target_dtype=torch.int8 if bits > 4 else getattr(torch, "int4"),  # noqa: B009  not in torch's stubs
            block_size=(1, width // groups),
            dtype=torch.float32,
            activation_quantization=None,
        )
    index = _neighbours(width, groups) if index is None else index.long()
    values = integers.float()
    if zeros is not None:
        values -= zeros.float()[:, index]
    return values.mul_(scales[:, index])


def _neighbours(width: int, groups: int) -> torch.Tensor:
    import torch

    return torch.arange(width) // (width // groups)


def _check_scales(scales: torch.Tensor) -> None:
    if not bool(scales.isfinite().all()):
        raise ValueError("its scales are not all numbers")

"""Checkpoints that somebody has quantized already: the float weights that they stand for, one tensor at a time.

bitsandbytes, GPTQ, AWQ, torchao and compressed-tensors keep a linear's weight as several tensors, and each has a file
here that says which and what they mean; what was Q4_0 or Q8_0 in a GGUF file is kept in compressed-tensors' form
(`gguf`). `find` says from the headers which weights are stored so, and what the checkpoint would hold without that; it
needs no torch. `decode` makes one weight: integers and scales where all of them have a zero point in the middle, as
ours do, and floats otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from et_pipeline.checkpoints.config import is_tied
from et_pipeline.checkpoints.layout import HEAD, TensorInfo, has_copied_head
from et_pipeline.checkpoints.prequantized import awq, bitsandbytes, compressed, gptq, torchao
from et_pipeline.checkpoints.prequantized.finder import READABLE, Finder, Packed
from et_pipeline.errors import UserError

if TYPE_CHECKING:
    import torch


# A form's file has `collect`, which finds its weights, and may have `fault`: what of its settings cannot be read, if
# anything, in words.
_FORMS: dict[str, ModuleType] = {
    "bitsandbytes": bitsandbytes,
    "gptq": gptq,
    "awq": awq,
    "torchao": torchao,
    "compressed-tensors": compressed,
}


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
    if not isinstance(method, str) or method not in _FORMS:
        raise UserError(f"{where} has quantization_config.quant_method={method!r}, which cannot be read; {READABLE}")
    try:
        fault = getattr(_FORMS[method], "fault", lambda _: None)(settings)
    except (AttributeError, TypeError, ValueError):  # an entry is of another type than it should be
        fault = f"{ {key: value for key, value in settings.items() if key != 'quant_method'} }"
    if fault:
        raise UserError(
            f"{where} has quantization_config.quant_method={method!r} with {fault}, which cannot be read; {READABLE}"
        )
    return str(method)


def find(folder: Path, config: Mapping[str, Any], layout: Mapping[str, TensorInfo]) -> Contents:
    """Work out from the headers what a checkpoint holds.

    Args:
        folder: a checkpoint in Hugging Face layout.
        config: the content of its config.json.
        layout: the tensors of its files.

    Raises:
        UserError: as `check_method`, or a part of a packed weight is missing or has a wrong shape.
    """
    copied = is_tied(config) and has_copied_head(folder, layout)
    layout = {name: info for name, info in layout.items() if not (copied and name == HEAD)}
    method = check_method(config, str(folder / "config.json"))
    if method is None:
        return Contents(layout, {}, {}, None)
    settings = config.get("quantization_config") or config["text_config"]["quantization_config"]
    finder = Finder(folder, layout, settings)
    words = _FORMS[method].collect(finder)
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
    return Contents(whole, finder.packed, idle, f"{origin} ({words})" if finder.packed else None)


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
    parts = {part: read(name) for part, name in packed.parts.items()}
    try:
        return packed.decode(parts)
    except ValueError as error:
        raise UserError(f"{packed.what} is damaged: {error}") from error

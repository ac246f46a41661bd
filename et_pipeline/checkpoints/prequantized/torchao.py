"""torchao's files: tensor subclasses by their parts, described in the files' metadata."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from et_pipeline.checkpoints.layout import read_metadata
from et_pipeline.checkpoints.prequantized.finder import FLOATS, READABLE, Finder, Part, in_words
from et_pipeline.checkpoints.prequantized.weight import make_weight
from et_pipeline.errors import UserError

if TYPE_CHECKING:
    import torch

_KINDS = ("IntxUnpackedToInt8Tensor", "Int8Tensor")


def collect(finder: Finder) -> str:
    """Find the packed weights; returns their form in words."""
    kinds = set()
    for file in sorted({info.file for info in finder.layout.values()}):
        for name, text in read_metadata(finder.folder / file).items():
            if not name.endswith("weight") or "_type" not in text:
                continue
            stem = name.removesuffix("weight")
            try:
                tensor = json.loads(text)
                kind = tensor["_type"]
                target = tensor.get("_data", {}).get("target_dtype", {}).get("_data", "int8")
                bits = int(target.removeprefix("int"))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{finder.folder / file} is damaged: its metadata of {name} make no sense") from error
            if kind == "Tensor":
                continue
            if kind not in _KINDS or f"{stem}_weight_act_pre_scale" in finder.layout:
                raise UserError(
                    f"{finder.folder / file}: weight {name} is a {kind} of torchao, which cannot be read; {READABLE}"
                )
            qdata = f"{stem}_weight_qdata"
            if qdata not in finder.layout:
                raise UserError(f"{finder.folder}: tensor {qdata} is in no safetensors file, but the metadata name it")
            rows, columns = finder.dimensions(qdata, 2)
            scale = finder.layout.get(f"{stem}_weight_scale")
            groups = 1 if scale is None else scale.shape[-1]
            kinds.add(in_words(bits, columns // max(1, groups) if groups > 1 else -1))
            parts = {
                "_weight_qdata": Part(("I8",), (rows, columns)),
                "_weight_scale": Part(FLOATS, (rows, None)),
                "_weight_zero_point": Part(("I8", *FLOATS), (rows, None), needed=False),
            }
            finder.add(stem, (rows, columns), parts, partial(_decode, bits=bits))
    return " and ".join(sorted(kinds))


def _decode(parts: dict[str, torch.Tensor], bits: int) -> torch.Tensor:
    return make_weight(parts["_weight_qdata"], parts["_weight_scale"], parts.get("_weight_zero_point"), None, bits)

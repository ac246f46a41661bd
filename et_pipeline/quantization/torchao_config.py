"""Quantize a model's linears and embeddings in place, one module at a time, with torchao."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torchao.quantization import (
    Int8DynamicActivationIntxWeightConfig,
    IntxWeightOnlyConfig,
    MappingType,
    quantize_,
)
from torchao.quantization.granularity import PerAxis, PerGroup

from et_pipeline.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from et_pipeline.settings import Quantization

_MAPPINGS = {
    "symmetric": MappingType.SYMMETRIC,
    "symmetric_no_clipping_error": MappingType.SYMMETRIC_NO_CLIPPING_ERR,
    "asymmetric": MappingType.ASYMMETRIC,
}
_WEIGHT_DTYPES = {
    "8da4w": torch.int4,
    "8da8w": torch.int8,
    "int4_weight_only": torch.int4,
    "int8_weight_only": torch.int8,
}
_EMBEDDING_DTYPES = {4: torch.int4, 8: torch.int8}


def quantize_module(name: str, module: nn.Module, q: Quantization) -> None:
    """Quantize one module that holds its float32 weights; modules of other kinds stay as they are.

    Weights are rounded to the nearest step. `8da4w` and `8da8w` quantize activations per token to 8 bits at run time
    (the dynamic quantization of Jacob et al. 2018, arXiv:1712.05877); the weight-only schemes compute in float32.

    Args:
        name: qualified name, for messages.
        module: a linear or embedding is changed in place.
        q: what to do.

    Raises:
        UserError: a row is not a whole number of groups.
    """
    if isinstance(module, nn.Linear):
        config = _linear_config(q)
        if config is not None:
            _check_groups(f"linear layer {name}", module.in_features, q.group_size, "recipe.group_size")
            quantize_(module, config, lambda _module, _name: True)
    elif isinstance(module, nn.Embedding) and q.embedding_bits != 32:
        _check_groups(f"embedding {name}", module.embedding_dim, q.embedding_group_size, "recipe.embedding_group_size")
        config = IntxWeightOnlyConfig(
            weight_dtype=_EMBEDDING_DTYPES[q.embedding_bits],
            granularity=_granularity(q.embedding_group_size),
            mapping_type=_MAPPINGS[q.mapping],
        )
        quantize_(module, config, lambda _module, _name: True)


def _linear_config(q: Quantization) -> Any:
    if q.scheme == "fp32":
        return None
    if q.scheme in ("8da4w", "8da8w"):
        return Int8DynamicActivationIntxWeightConfig(
            weight_dtype=_WEIGHT_DTYPES[q.scheme],
            weight_granularity=_granularity(q.group_size),
            weight_mapping_type=_MAPPINGS[q.mapping],
            # XNNPACK keeps the scales of groups in bf16: with the same here, eager equals deployed.
            weight_scale_dtype=torch.bfloat16 if q.group_size else None,
        )
    return IntxWeightOnlyConfig(
        weight_dtype=_WEIGHT_DTYPES[q.scheme],
        granularity=_granularity(q.group_size),
        mapping_type=_MAPPINGS[q.mapping],
    )


def _granularity(group_size: int) -> PerGroup | PerAxis:
    return PerGroup(group_size) if group_size else PerAxis(0)


def _check_groups(what: str, width: int, group_size: int, key: str) -> None:
    if group_size and width % group_size:
        raise UserError(f"{what} has rows of {width} weights, which {key}={group_size} does not divide")


def save_quantized(model: PreTrainedModel, path: Path) -> None:
    """Write the weights; the same model gives the same bytes in any process."""
    with path.open("wb") as stream:
        torch.save(dict(model.state_dict()), stream)


def load_quantized(folder: Path, path: Path, q: Quantization) -> PreTrainedModel:
    """Rebuild the model of `save_quantized` from a checkpoint's config and the saved weights.

    Args:
        folder: the checkpoint; only config.json is read.
        path: what `save_quantized` wrote.
        q: the settings it was quantized with.

    Raises:
        UserError: the file is unreadable or of another model or recipe.
    """
    raise NotImplementedError

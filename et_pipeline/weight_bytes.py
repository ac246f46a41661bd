"""How many bytes a weight takes in a program. Plain arithmetic, no torch."""

from __future__ import annotations

import math

from et_pipeline import gemma
from et_pipeline.architecture import EMBEDDINGS, Sizes
from et_pipeline.settings import Quantization

WEIGHT_BITS = {"fp32": 32, "8da4w": 4, "8da8w": 8, "int4_weight_only": 4, "int8_weight_only": 8}
SCALE_BYTES_GROUP = 2  # XNNPACK keeps group scales of linears in bf16
SCALE_BYTES = 4


def tensor_bytes(name: str, shape: tuple[int, ...], recipe: Quantization) -> int:
    """Size of one weight in the .pte: its integers and their scales, or fp32 where it is not quantized."""
    count = math.prod(shape)
    bits = weight_bits(name, recipe)
    if len(shape) != 2 or bits == 32:
        return 4 * count
    embedding = is_embedding(name)
    if recipe.mixed_bits is not None and not embedding:
        return round(count * recipe.mixed_bits / 8)  # a mean over the linears, their scales included
    group = recipe.embedding_group_size if embedding else recipe.group_size
    group = 0 if not embedding and shape[1] <= group else group
    scales = count // group if group else shape[0]
    return count * bits // 8 + scales * (SCALE_BYTES_GROUP if group and not embedding else SCALE_BYTES)


def table_bytes(sizes: Sizes, recipe: Quantization) -> int:
    """Bytes of the table of per-layer embeddings; 0 without one."""
    return 0 if sizes.table is None else tensor_bytes(f"{gemma.TABLE}.weight", sizes.table, recipe)


def is_embedding(name: str) -> bool:
    """Whether a tensor is looked up by row."""
    return gemma.TABLE in name or name.endswith(EMBEDDINGS) or name.startswith("embeddings.")


def weight_bits(name: str, recipe: Quantization) -> int:
    """How many bits a weight of a matrix takes, its scales aside."""
    if gemma.stays_float(name):
        return 32
    return recipe.embedding_bits if is_embedding(name) else WEIGHT_BITS[recipe.scheme]

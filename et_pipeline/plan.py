"""The forecast: size, memory and speed from a checkpoint's headers alone, without torch, before anything heavy."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from et_pipeline.models.checkpoint import read_layout
from et_pipeline.models.facts import read_facts
from et_pipeline.settings import Quantization, Settings

WEIGHT_BITS = {"fp32": 32, "8da4w": 4, "8da8w": 8, "int4_weight_only": 4, "int8_weight_only": 8}
SCALE_BYTES_GROUP = 2  # XNNPACK keeps group scales in bf16
SCALE_BYTES_CHANNEL = 4
RUNTIME_BYTES = 500_000_000  # the app around the program: code, activations, packing buffers, Android's own share
BANDWIDTH_SHARE = 0.55  # of the roofline that decoding reaches on phones: 0.5-0.6 in published measurements


class Plan(BaseModel):
    """What to expect of a model with a recipe on a device. Sizes in bytes, speed in tokens per second.

    `resident_bytes` is the whole app's memory; `decode_tok_s` is what the memory bus allows, which a small model does
    not reach.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    recipe: str
    device: str
    parameters: int
    pte_bytes: int
    fp16_bytes: int
    kv_cache_bytes: int
    resident_bytes: int
    limit_bytes: int
    decode_tok_s: float

    @property
    def fits(self) -> bool:
        """Whether the app stays under the device's limit per app."""
        return self.resident_bytes <= self.limit_bytes


def plan(settings: Settings, checkpoint: Path) -> Plan:
    """Forecast a bundle.

    Args:
        settings: the run.
        checkpoint: a folder in Hugging Face layout; only headers and small files are read.

    Raises:
        UserError: the checkpoint is incomplete or broken.
    """
    facts = read_facts(checkpoint)
    shapes = {name: info.shape for name, info in read_layout(checkpoint).items()}
    streamed = size = 0
    for name, shape in shapes.items():
        stored = tensor_bytes(name, shape, settings.recipe)
        size += stored
        if "embed_tokens" not in name:
            streamed += stored
    if facts.tied_head:  # the head is quantized as a linear of its own
        head = tensor_bytes("lm_head.weight", (facts.vocab_size, _hidden(shapes)), settings.recipe)
        size, streamed = size + head, streamed + head
    kv = kv_cache_bytes(facts.layers, facts.kv_heads, facts.head_dim, settings.model.max_context)
    device = settings.device
    return Plan(
        model=settings.model.name,
        recipe=settings.recipe.name,
        device=device.name,
        parameters=facts.parameters,
        pte_bytes=size,
        fp16_bytes=2 * facts.parameters,
        kv_cache_bytes=kv,
        resident_bytes=size + kv + RUNTIME_BYTES,
        limit_bytes=int(device.app_memory_limit_gb * 1e9),
        decode_tok_s=round(BANDWIDTH_SHARE * device.memory_bandwidth_gb_s * 1e9 / streamed, 1),
    )


def kv_cache_bytes(layers: int, kv_heads: int, head_dim: int, context: int) -> int:
    """Size of the fp32 KV cache: keys and values of every layer and position."""
    return layers * 2 * kv_heads * head_dim * context * 4


def tensor_bytes(name: str, shape: tuple[int, ...], recipe: Quantization) -> int:
    """Size of one weight in the .pte: its integers and their scales, or fp32 where it is not quantized."""
    count = math.prod(shape)
    embedding = "embed_tokens" in name
    bits = recipe.embedding_bits if embedding else WEIGHT_BITS[recipe.scheme]
    if len(shape) != 2 or bits == 32:
        return 4 * count
    group = recipe.embedding_group_size if embedding else recipe.group_size
    scales = count // group * SCALE_BYTES_GROUP if group else shape[0] * SCALE_BYTES_CHANNEL
    return count * bits // 8 + scales


def _hidden(shapes: dict[str, tuple[int, ...]]) -> int:
    return next(shape[1] for name, shape in shapes.items() if "embed_tokens" in name)

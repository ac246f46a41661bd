"""What quantization did inside a model: where its bytes are, and how far each weight and each layer is off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.reader import prepare
from et_pipeline.models.rope import freeze_rope
from et_pipeline.quantization.mixed import with_8_bits
from et_pipeline.quantization.rotation import STREAM, hadamard, rotated
from et_pipeline.weight_bytes import tensor_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from et_pipeline.settings import Quantization

EMBEDDING, ATTENTION, FEED_FORWARD, HEAD = "embedding", "attention", "feed-forward", "head"


def part_bytes(model: PreTrainedModel, q: Quantization) -> dict[str, int]:
    """Bytes of a quantized model's embedding and linears in the program, scales included, by part.

    A head with the embedding's numbers takes none of its own.

    Args:
        model: of `load_quantized`.
        q: what it was quantized with.
    """
    found: Counter[str] = Counter()
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, nn.Embedding)):
            continue
        weight: Any = module.weight
        finer = q.mixed_bits is not None and getattr(weight, "target_dtype", None) is torch.int8
        if isinstance(module, nn.Embedding):
            part = EMBEDDING
        elif module is head:
            part = HEAD
            if _alike(weight, model.get_input_embeddings().weight):
                continue
        else:
            part = ATTENTION if "attn" in name or "attention" in name else FEED_FORWARD
        known_as = "embed_tokens.weight" if part == EMBEDDING else f"{name}.weight"
        is_finer = finer and part != EMBEDDING
        found[part] += tensor_bytes(known_as, tuple(weight.shape), with_8_bits(q) if is_finer else q)
    return {part: found[part] for part in (EMBEDDING, ATTENTION, FEED_FORWARD, HEAD)}


def _alike(one: Any, other: Any) -> bool:
    """Whether two weights are the same bytes in a program."""
    if getattr(one, "target_dtype", None) != getattr(other, "target_dtype", None):
        return False
    if not hasattr(one, "qdata"):
        return torch.equal(one, other)
    return (
        one.target_dtype is torch.int8 and torch.equal(one.qdata, other.qdata) and torch.equal(one.scale, other.scale)
    )


def weight_errors(checkpoint: Path, model: PreTrainedModel, q: Quantization) -> dict[str, float]:
    """How far each linear's weight is from what was rounded, ‖W − Q‖ / ‖W‖, one linear in memory at a time.

    Under `rotation`, W is the rotated weight. Under `awq` and `smoothquant` it depends on calibration and is not
    known any more, so nothing is found.

    Args:
        checkpoint: the original weights.
        model: of `load_quantized`.
        q: what it was quantized with.
    """
    if q.scheme == "fp32" or q.transform in ("awq", "smoothquant"):
        return {}
    original, modules, fill, _, tied = prepare(Folder(checkpoint))
    if q.transform == "rotation":
        fill = rotated(original, fill, tied)
    found = {}
    with torch.no_grad():
        for name, module in modules:
            if isinstance(module, nn.Linear):
                fill(name, module)
                made: Any = model.get_submodule(name).weight
                missed = (made.dequantize().float() - module.weight).norm()
                found[name] = (missed / module.weight.norm()).item()
                module.to("meta")
    return found


def streams(model: PreTrainedModel, tokens: Sequence[int], context: int) -> list[torch.Tensor]:
    """What leaves each decoder layer, [tokens, width] each.

    Args:
        model: its weights may be read as they are needed.
        tokens: one text.
        context: the longest that is meant.
    """
    found: list[torch.Tensor] = []
    decoder: Any = model.get_decoder()

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output)[0].float())

    freeze_rope(model, context)
    hooks = [layer.register_forward_hook(keep) for layer in decoder.layers]
    try:
        with torch.no_grad():
            decoder(input_ids=torch.tensor([list(tokens)]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def layer_errors(found: Sequence[torch.Tensor], original: Sequence[torch.Tensor], q: Quantization) -> tuple[float, ...]:
    """How far each layer's output is off, ‖ĥ − h‖ / ‖h‖, mean over the tokens.

    Args:
        found: of `streams`, of the quantized model.
        original: the same of the original model.
        q: what was done; `rotation` turns the stream, which is then turned in the original too.
    """
    if q.transform == "rotation":
        turn = hadamard(original[0].shape[-1], STREAM)
        original = [turn(rows.double()).float() for rows in original]
    return tuple(
        ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).mean().item()
        for ours, theirs in zip(found, original, strict=True)
    )

"""Rotate what flows between a decoder's layers, so that no channel stands out; the model computes what it did."""

from __future__ import annotations

from contextlib import redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from et_pipeline.errors import UserError
from et_pipeline.quantization.torchao_config import quantize_turn
from et_pipeline.quantization.turned import turned

if TYPE_CHECKING:
    from collections.abc import Callable

    Turn = Callable[[torch.Tensor], torch.Tensor]

ATTENTION, FEED_FORWARD = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
NORMS = {"input_layernorm": ATTENTION, "post_attention_layernorm": FEED_FORWARD}  # and the linears that read them
_LINEARS = {*ATTENTION, *FEED_FORWARD, "o_proj", "down_proj"}
STREAM = 0  # seed of what turns the residual stream
BLOCK = 1024  # rows that are turned at a time, because they are in double precision then
_PER_HEAD = {"q_norm", "k_norm"}


def final_norm(model: Any) -> Any:
    """The norm behind the last layer of a decoder, which families call differently."""
    norms = [part for name, part in model.get_decoder().named_children() if "norm" in name]
    return norms[-1]


def plain_layers(model: Any, key: str) -> list[dict[str, nn.Module]]:
    """The parts of each layer of a decoder whose residual stream is read by `NORMS` and by nothing else.

    Args:
        model: with its linears split.
        key: what is to be done with them, for the message.

    Returns:
        Per layer, `NORMS` and the seven linears by name.

    Raises:
        UserError: the family's layers are of another kind.
    """
    decoder = model.get_decoder()
    found = []
    for layer in decoder.layers:
        parts = {name.split(".")[-1]: part for name, part in layer.named_modules() if part._parameters}
        norms = [*(parts.get(name) for name in NORMS), final_norm(model)]
        # Gemma's gain is 1 + weight, and what is multiplied into the weight would be wrong.
        plain = all(type(norm).__name__.endswith("RMSNorm") and "Gemma" not in type(norm).__name__ for norm in norms)
        if not plain or parts.keys() - _PER_HEAD != {*NORMS, *_LINEARS}:
            raise UserError(
                f"{key} is for layers of two RMS norms and seven linears, as Llama, Mistral, Phi-3, Qwen2 and Qwen3 "
                f"have, and those of {model.config.model_type} are others; use recipe.transform=none"
            )
        found.append(parts)
    return found


def rotated(model: Any, fill: Callable[..., None], tied: bool = False) -> Callable[..., None]:
    """Make the `fill` of `checkpoint.prepare` give rotated weights.

    The residual stream is turned by one random Hadamard matrix, and what each head sums up by another per layer: R1 and
    R2 of SpinQuant (Liu et al. 2024, arXiv:2405.16406), not learnt, as in QuaRot (Ashkboos et al. 2024,
    arXiv:2404.00456). Both are multiplied into the weights, and the gains of the norms with them.

    Args:
        model: of `checkpoint.prepare`.
        fill: what fills one of its modules.
        tied: the head's weight is the embedding's, and stays so (see `turned`).

    Raises:
        UserError: the family's layers are of another kind.
    """
    layers = plain_layers(model, "recipe.transform=rotation")
    names = {module: name for name, module in model.named_modules()}
    norms = {final_norm(model)} | {parts[name] for parts in layers for name in NORMS}
    # The first norm reads an embedding of 8 bits. Were its gain 1, activations would be multiples of one number, which
    # lie half way between two steps of their own quantization by the dozen, and each kernel rounds those as it likes.
    generator = torch.Generator().manual_seed(0)
    first = layers[0]["input_layernorm"]
    left = {first: 1 + (torch.rand(model.config.get_text_config().hidden_size, generator=generator) - 0.5) / 50}

    def gain(norm: Any) -> torch.Tensor:
        fill(names[norm], norm)
        found = norm.weight.double()
        norm.weight.data = left.get(norm, torch.ones_like(norm.weight))  # not in place: it may lie in the mapped file
        return found

    changes = _changes(model, layers, gain, tied)

    def fill_rotated(name: str, module: nn.Module, as_stored: bool = False) -> None:
        changed = changes.get(module)
        fill(name, module, as_stored and changed is None)
        if changed is not None:
            changed(module)
        elif module in norms:
            gain(module)

    return fill_rotated


def _changes(
    model: Any, layers: list[dict[str, nn.Module]], gain: Callable[[Any], torch.Tensor], tied: bool
) -> dict[nn.Module, Callable[[nn.Module], None]]:
    """What is done to each module that has its weights; `gain` takes a norm's gain out of it."""
    config = model.config.get_text_config()
    stream = hadamard(config.hidden_size, STREAM)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    def read(linear: Any, norm: Any) -> None:
        found = gain(norm)
        linear.weight.data = _in_blocks(linear.weight, lambda rows: stream(rows * found) / norm.weight)

    def write(linear: Any) -> None:
        linear.weight.data = _in_blocks(linear.weight.T, stream).T.contiguous()
        if linear.bias is not None:
            linear.bias.data = stream(linear.bias.double()).float()

    def read_values(linear: Any, norm: Any, heads: Turn) -> None:
        read(linear, norm)
        weight = linear.weight.double().unflatten(0, (-1, size))
        linear.weight.data = heads(weight.mT).mT.flatten(0, 1).float().contiguous()
        if linear.bias is not None:
            linear.bias.data = heads(linear.bias.double().unflatten(0, (-1, size))).flatten().float()

    def write_heads(linear: Any, heads: Turn) -> None:
        linear.weight.data = heads(linear.weight.double().unflatten(1, (-1, size))).flatten(1).float()
        write(linear)

    def embed(embedding: Any) -> None:
        embedding.weight.data = _in_blocks(embedding.weight, stream)

    def turn(table: Any) -> None:
        matrix = stream(torch.eye(config.hidden_size, dtype=torch.float64))
        if isinstance(table, nn.Embedding):
            turned(table, matrix.T.float().contiguous())
        else:
            turned(table, (gain(final_norm(model))[:, None] * matrix).float())
        quantize_turn(table.turn)

    changes: dict[nn.Module, Callable[[nn.Module], None]] = {
        model.get_input_embeddings(): turn if tied else embed,
        model.get_output_embeddings(): turn if tied else partial(read, norm=final_norm(model)),
    }
    for number, parts in enumerate(layers, 1):
        heads = hadamard(size, number)
        for norm, readers in NORMS.items():
            changes |= {parts[reader]: partial(read, norm=parts[norm]) for reader in readers}
        changes[parts["v_proj"]] = partial(read_values, norm=parts["input_layernorm"], heads=heads)
        changes[parts["o_proj"]] = partial(write_heads, heads=heads)
        changes[parts["down_proj"]] = write
    return changes


def _in_blocks(weight: torch.Tensor, change: Turn) -> torch.Tensor:
    """A new float32 tensor of the rows of `weight`, changed in double precision."""
    changed = torch.empty(weight.shape)
    for rows, into in zip(weight.split(BLOCK), changed.split(BLOCK), strict=True):
        into.copy_(change(rows.double()))
    return changed


def hadamard(size: int, seed: int) -> Turn:
    """Multiplication of rows [..., size] by a random orthogonal matrix; of Hadamard's kind where there is one."""
    with redirect_stdout(None):  # it says there that on a GPU another library would be faster
        from torchao.prototype.spinquant.hadamard_utils import get_hadK, matmul_hadU_slow

    generator = torch.Generator().manual_seed(seed)
    try:
        matrix, rest = get_hadK(size)
    except AssertionError:  # no such matrix is known for this size
        orthogonal = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
        return lambda rows: rows @ orthogonal
    signs = torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1
    return lambda rows: matmul_hadU_slow((rows * signs).contiguous(), matrix, rest)

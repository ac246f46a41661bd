"""Quantize a checkpoint by what its layers see: one decoder layer in memory at a time, its inputs in a file."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from et_pipeline.checkpoints.prequantized.weight import floats
from et_pipeline.quantization.gptq import error_weights, gptq
from et_pipeline.quantization.mixed import in_8_bits, with_8_bits
from et_pipeline.quantization.requantized import Requantized
from et_pipeline.quantization.torchao_config import Shards, group_of, keep, quantize_module, unpack
from et_pipeline.quantization.turned import Turn
from et_pipeline.quantization.walk import Enough, Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from et_pipeline.quantization.sensitivity import Loss
    from et_pipeline.settings import Quantization


def quantize_calibrated(
    folder: Path,
    q: Quantization,
    texts: Sequence[Sequence[int]],
    out: Path,
    tick: Callable[[int, int], None],
    losses: Mapping[str, Loss] | None = None,
) -> dict[str, Any]:
    """Quantize a decoder by what its layers see, and write it as `quantize_checkpoint` does; the model is never whole.

    A linear is calibrated with the inputs it will get: from the quantized embedding, the quantized layers before and
    the quantized linears before it in its own layer, with activations rounded as they will be. Integers that came with
    the checkpoint stay if they fit and no transform changes them.

    Args:
        folder: a checkpoint in Hugging Face layout.
        q: what to do: the transform, the algorithm, and under `mixed_bits` which linears keep 8 bits.
        texts: token ids to calibrate with; none if nothing of it is calibrated.
        out: an existing folder for the files.
        tick: called with (modules done, modules in all).
        losses: of `sensitivity.measure`, where `q.mixed_bits` asks for them.

    Returns:
        `Requantized.figures`; a transform is no loss, so errors are relative to the transformed weights.

    Raises:
        UserError: the weights do not fit config.json or the recipe, or the transform does not fit the family.
    """
    with torch.no_grad():
        walk = Walk(folder, q, texts, out, tick)
        finer = {} if losses is None else _finer(walk, losses)
        shards, requantized = Shards(out), Requantized()
        for part, calls in walk.parts(shards.add):
            # A tied head holds the embedding's numbers.
            shared = walk.tied and bool(finer) and part is walk.model.get_output_embeddings()
            for group in _sharing_inputs(part, calls):
                before = {linear: linear.weight for linear in group if f"{walk.names[linear]}.weight" in walk.packed}
                own = {linear: finer.get(walk.names[linear], q) for linear in group}
                left = [linear for linear in group if not _kept(linear, own[linear], own[linear] if shared else q)]
                chosen = [linear for linear in left if own[linear] is q]
                if q.algorithm == "gptq" and chosen:
                    _gptq(chosen, walk.names, calls, q)
                for linear in left:
                    if q.algorithm != "gptq" or linear not in chosen:
                        quantize_module(walk.names[linear], linear, own[linear])
                for linear, weight in before.items():
                    requantized.add(weight, linear.weight, linear not in left)
                if calls and part is not walk.model.get_output_embeddings():
                    for linear in group:
                        unpack(linear)
        shards.close()
    return requantized.figures()


def _finer(walk: Walk, losses: Mapping[str, Loss]) -> dict[str, Quantization]:
    """The linears that get 8 bits: a tied head does, as it then has the embedding's numbers and costs nothing."""
    q, head = walk.q, walk.names[walk.model.get_output_embeddings()]
    if not walk.tied:
        return in_8_bits(losses, q)
    return in_8_bits({name: each for name, each in losses.items() if name != head}, q) | {head: with_8_bits(q)}


def _kept(linear: nn.Linear, own: Quantization, q: Quantization) -> bool:
    """Whether a linear's integers stay: 8 bits of its own are not worth those of 4 that it came with, floats are."""
    return keep(linear, own) or (own.scheme == "8da8w" and keep(linear, q))


def _sharing_inputs(part: nn.Module, calls: Sequence[Callable[[], Any]]) -> list[list[nn.Linear]]:
    """The part's linears in the order in which they compute, those of one input together; each alone without calls."""
    linears = [each for each in part.modules() if isinstance(each, nn.Linear) and not isinstance(each, Turn)]
    if not calls or len(linears) == 1:
        return [[linear] for linear in linears]
    groups: list[tuple[torch.Tensor, list[nn.Linear]]] = []

    def note(linear: nn.Module, args: tuple[torch.Tensor]) -> None:
        assert isinstance(linear, nn.Linear)
        for given, group in groups:
            if given is args[0]:
                group.append(linear)
                return
        groups.append((args[0], [linear]))

    with ExitStack() as hooks:
        for linear in linears:
            hooks.enter_context(linear.register_forward_pre_hook(note))
        calls[0]()
    return [group for _, group in groups]


def _gptq(
    group: Sequence[nn.Linear], names: dict[nn.Module, str], calls: Sequence[Callable[[], Any]], q: Quantization
) -> None:
    """Quantize linears of one input by what `calls` bring them."""
    size = group[0].in_features
    hessian = torch.zeros(size, size, dtype=torch.float64, device=group[0].weight.device)

    def add(_: nn.Module, args: tuple[torch.Tensor]) -> None:
        rows = args[0].reshape(-1, size)
        hessian.add_(rows.T @ rows)
        raise Enough

    with group[0].register_forward_pre_hook(add):
        for call in calls:
            with suppress(Enough):
                call()
    u = error_weights(hessian)
    for linear in group:
        weight = floats(linear.weight.detach())
        quantize_module(names[linear], linear, q)  # makes the tensor, whose numbers are then replaced
        made: Any = linear.weight
        made.qdata, made.scale = gptq(weight, u, group_of(linear, q), made.scale.dtype)

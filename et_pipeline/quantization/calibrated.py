"""Quantize a checkpoint by what its layers see: one decoder layer in memory at a time, its inputs in a file."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from et_pipeline.models.checkpoint import prepare
from et_pipeline.quantization.gptq import error_weights, gptq
from et_pipeline.quantization.torchao_config import Shards, quantize_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from et_pipeline.settings import Quantization

BATCH_TOKENS = 2048


class _Enough(Exception):
    """Ends a forward of which the rest is not needed."""


def quantize_calibrated(
    folder: Path, q: Quantization, texts: Sequence[Sequence[int]], out: Path, tick: Callable[[int, int], None]
) -> None:
    """Quantize a decoder with GPTQ and write it as `quantize_checkpoint` does; the model is never whole.

    Each linear's Hessian is of the inputs it will get: from the quantized embedding, the quantized layers before and
    the quantized linears before it in its own layer, with activations rounded as they will be.

    Args:
        folder: a checkpoint in Hugging Face layout.
        q: what to do; 4-bit symmetric linears.
        texts: token ids to calibrate with.
        out: an existing folder for the files.
        tick: called with (modules done, modules in all).

    Raises:
        UserError: the weights do not fit config.json or the recipe.
    """
    model, modules, fill = prepare(folder)
    model.eval().requires_grad_(False)
    decoder: Any = model.get_decoder()
    layers = list(decoder.layers)
    names = {id(module): name for name, module in modules}
    shards = Shards(out)
    done = 0

    def own(part: nn.Module) -> list[nn.Module]:
        return [module for module in part.modules() if id(module) in names]

    def finish(part: nn.Module) -> None:
        nonlocal done
        for module in own(part):
            shards.add(names.pop(id(module)), module)
            done += 1
            tick(done, len(modules))

    with torch.no_grad(), tempfile.TemporaryFile(dir=out) as spilled:
        batches = list(_batches(texts))
        for part in (model.get_input_embeddings(), decoder.norm):
            for module in own(part):
                fill(names[id(module)], module)
                quantize_module(names[id(module)], module, q)
        seen = _Inputs(spilled, batches, model.config.get_text_config().hidden_size)
        for at, tokens in enumerate(batches):
            seen[at] = _input_of_layer(decoder, layers[0], tokens)
        finish(model.get_input_embeddings())
        for layer in layers:
            for module in own(layer):
                fill(names[id(module)], module)
            with ExitStack() as patches:
                for other in layers:
                    if other is not layer:
                        patches.enter_context(mock.patch.object(other, "forward", lambda hidden, *_, **__: hidden))
                calls = [partial(_call, decoder, layer, seen, at) for at in range(len(batches))]
                for group in _sharing_inputs(layer, calls[0]):
                    _quantize(group, names, calls, q)
                for at, call in enumerate(calls):
                    seen[at] = call()
            finish(layer)
        head: Any = model.get_output_embeddings()
        fill(names[id(head)], head)
        _quantize([head], names, [partial(_call_head, decoder, head, seen, at) for at in range(len(batches))], q)
        finish(model)
    shards.close()


def _batches(texts: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
    """Texts of one length together, so that nothing is padded; [texts, length] each."""
    lengths: dict[int, list[Sequence[int]]] = {}
    for text in texts:
        lengths.setdefault(len(text), []).append(text)
    for length, alike in sorted(lengths.items()):
        size = max(1, BATCH_TOKENS // length)
        for start in range(0, len(alike), size):
            yield torch.tensor(alike[start : start + size])


class _Inputs:
    """What goes into the present layer, one [texts, length, width] per batch, in a file that is mapped."""

    def __init__(self, file: Any, batches: Sequence[torch.Tensor], width: int) -> None:
        self.shapes = [(*batch.shape, width) for batch in batches]
        self.starts = np.cumsum([0, *(batch.numel() for batch in batches)])
        self.rows = np.memmap(file, np.float32, "w+", shape=(int(self.starts[-1]), width))

    def __getitem__(self, at: int) -> torch.Tensor:
        return torch.from_numpy(self.rows[self.starts[at] : self.starts[at + 1]].copy()).reshape(self.shapes[at])

    def __setitem__(self, at: int, value: torch.Tensor) -> None:
        self.rows[self.starts[at] : self.starts[at + 1]] = value.reshape(-1, self.rows.shape[1]).numpy()


def _input_of_layer(decoder: nn.Module, layer: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    found = []

    def catch(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        found.append(args[0])
        raise _Enough

    with layer.register_forward_pre_hook(catch), suppress(_Enough):
        decoder(input_ids=tokens, use_cache=False)
    return found[0]


def _call_head(decoder: Any, head: nn.Module, seen: _Inputs, at: int) -> torch.Tensor:
    return head(decoder.norm(seen[at]))


def _call(decoder: nn.Module, layer: nn.Module, seen: _Inputs, at: int) -> torch.Tensor:
    """The layer's output for a batch, called with the masks and positions that the family's own code gives it."""
    hidden, found = seen[at], []

    def give(_: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> Any:
        return (hidden, *args[1:]), kwargs  # some families scale what they take for embeddings

    def catch(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        found.append(output)
        raise _Enough

    with layer.register_forward_pre_hook(give, with_kwargs=True), layer.register_forward_hook(catch):
        try:
            decoder(inputs_embeds=hidden, use_cache=False)
        except _Enough:
            if not found:  # it was one of the layer's linears that has seen enough
                raise
    return found[0]


def _sharing_inputs(layer: nn.Module, call: Callable[[], Any]) -> list[list[nn.Linear]]:
    """The layer's linears in the order in which they compute, those of one input together."""
    groups: list[tuple[torch.Tensor, list[nn.Linear]]] = []

    def note(linear: nn.Module, args: tuple[torch.Tensor]) -> None:
        assert isinstance(linear, nn.Linear)
        for given, group in groups:
            if given is args[0]:
                group.append(linear)
                return
        groups.append((args[0], [linear]))

    with ExitStack() as hooks:
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                hooks.enter_context(module.register_forward_pre_hook(note))
        call()
    return [group for _, group in groups]


def _quantize(
    group: Sequence[nn.Linear], names: dict[int, str], calls: Sequence[Callable[[], Any]], q: Quantization
) -> None:
    """Quantize linears of one input by what `calls` bring them."""
    size = group[0].in_features
    hessian = torch.zeros(size, size, dtype=torch.float64)

    def add(_: nn.Module, args: tuple[torch.Tensor]) -> None:
        rows = args[0].reshape(-1, size)
        hessian.add_(rows.T @ rows)
        raise _Enough

    with group[0].register_forward_pre_hook(add):
        for call in calls:
            with suppress(_Enough):
                call()
    u = error_weights(hessian)
    for linear in group:
        weight = linear.weight.detach()
        quantize_module(names[id(linear)], linear, q)  # makes the tensor, whose numbers are then replaced
        made: Any = linear.weight
        made.qdata, made.scale = gptq(weight, u, q.group_size, made.scale.dtype)

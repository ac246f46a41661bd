"""What rounding a linear's weights or inputs does to a model's answers, by Fisher information.

One decoder layer is in memory at a time.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from et_pipeline.checkpoints.prequantized.weight import floats
from et_pipeline.quantization.rotation import final_norm
from et_pipeline.quantization.torchao_config import quantize_module, rounded_activations
from et_pipeline.quantization.walk import Walk, alone, output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from et_pipeline.settings import Quantization

FILE = "losses.json"
TOKENS = 4096  # of the calibration text that are read; with 3,072 nine tenths of what 8,192 choose in SmolLM2 stay
HEAD_TOKENS = 256  # whose logits are in memory at a time
SEED = 0  # of the labels that are drawn


class Loss(NamedTuple):
    """What rounding a linear does to the answers.

    Attributes:
        weights: how many it has.
        rounded: nats of KL per token, its weights rounded as the recipe says.
        activations: the same, its inputs rounded to 8 bits.
    """

    weights: int
    rounded: float
    activations: float


def write(losses: Mapping[str, Loss], folder: Path) -> None:
    """Keep what was measured in a folder."""
    (folder / FILE).write_text(json.dumps(losses, indent=0), encoding="utf-8")


def read(folder: Path) -> dict[str, Loss]:
    """What `write` has kept there."""
    return {name: Loss(*each) for name, each in json.loads((folder / FILE).read_text(encoding="utf-8")).items()}


def measure(
    folder: Path, q: Quantization, texts: Sequence[Sequence[int]], out: Path, tick: Callable[[int, int], None]
) -> dict[str, Loss]:
    """What 4 bits of each linear alone, and 8 of its inputs, do to the answers of the model in float.

    Scales that AWQ or SmoothQuant fold in are left out: each layer's would have to be searched for once more.

    Args:
        folder: a checkpoint in Hugging Face layout.
        q: the recipe; how many bits it gives in the mean changes nothing.
        texts: token ids, of which the first `TOKENS` are read.
        out: an existing folder, for what does not fit in memory.
        tick: called with (modules done, modules in all) of the way forward.

    Returns:
        Of each linear, by name.
    """
    with torch.no_grad():
        return _walked(Walk(folder, q, _first(texts, TOKENS), out, tick))


def _walked(walk: Walk) -> dict[str, Loss]:
    q, names, kept = walk.q, dict(walk.names), []
    walk.q, walk.folds = q.model_copy(update={"scheme": "fp32", "embedding_bits": 32}), []
    losses, generator = Losses(q), torch.Generator().manual_seed(SEED)
    layers, norm = list(walk.decoder.layers), final_norm(walk.model)
    with ExitStack() as files:
        for part, calls in walk.parts(lambda _, module: module.to("meta")):
            inputs = calls[0].args[2]  # type: ignore[attr-defined]
            kept.append(inputs.copy(files.enter_context(tempfile.TemporaryFile(dir=walk.out))))
            if isinstance(part, nn.Linear):
                with losses.watch({names[part]: part}):
                    for at in range(len(calls)):
                        kept[-1][at] = of_head(nn.Sequential(norm, part), inputs[at], generator)
        gradients = kept.pop()
        for layer, inputs in zip(reversed(layers), reversed(kept), strict=True):
            walk.names |= {module: names[module] for module in layer.modules() if module in names}
            walk.fill_part(layer)
            linears = {names[part]: part for part in layer.modules() if isinstance(part, nn.Linear)}
            with losses.watch(linears), alone(walk.decoder, layer):
                for at in range(len(walk.batches)):
                    call = partial(output, walk.decoder, layer)
                    gradients[at] = of_layer(call, inputs[at], gradients[at])
            layer.to("meta")
    return losses.per_token(sum(batch.numel() for batch in walk.batches))


def _first(texts: Sequence[Sequence[int]], tokens: int) -> list[Sequence[int]]:
    """As many texts as have that many tokens."""
    ends = np.cumsum([len(text) for text in texts])
    return list(texts[: int(np.searchsorted(ends, tokens)) + 1])


class Losses:
    """What rounding the weights and the inputs of linears does to the answers, added up in backward passes.

    A model's answers move by KL ≈ ½ δᵀFδ, where F is the Fisher information: the mean of g·gᵀ, g being the gradient of
    the log-likelihood of an answer that the model itself draws. What rounding does to a linear's output at one token is
    taken to be independent of what it does at another.
    """

    def __init__(self, q: Quantization) -> None:
        self._q = q
        self._sums: dict[str, list[float]] = {}
        self._weights: dict[str, int] = {}

    @contextmanager
    def watch(self, linears: Mapping[str, nn.Linear]) -> Iterator[None]:
        """Count for linears by name, which get float weights."""
        with ExitStack() as hooks:
            for name, linear in linears.items():
                before = floats(linear.weight.detach())
                quantize_module(name, linear, self._q)
                change = floats(linear.weight.detach()) - before
                linear.weight = nn.Parameter(before, requires_grad=False)
                self._sums[name], self._weights[name] = [0.0, 0.0], before.numel()
                hooks.enter_context(linear.register_forward_hook(partial(self._forward, name, change)))
            yield

    def _forward(self, name: str, change: torch.Tensor, linear: Any, args: Any, output: torch.Tensor) -> None:
        rows = args[0].detach()

        def add(gradient: torch.Tensor) -> None:
            moves = functional.linear(rows, change), functional.linear(rounded_activations(rows) - rows, linear.weight)
            for at, moved in enumerate(moves):
                self._sums[name][at] += (gradient * moved).sum(-1).square().sum().item()

        if output.requires_grad:
            output.register_hook(add)

    def per_token(self, tokens: int) -> dict[str, Loss]:
        """By linear."""
        return {
            name: Loss(self._weights[name], *(total / 2 / tokens for total in sums))
            for name, sums in self._sums.items()
        }


def of_head(head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, generator: torch.Generator) -> Any:
    """Run backward from answers that are drawn from the model.

    Args:
        head: makes logits of what the last layer gives.
        hidden: [texts, length, width] of that.
        generator: draws.

    Returns:
        Gradient of the drawn answers' negative log-likelihoods with regard to `hidden`.
    """
    found = []
    for rows in hidden.flatten(0, -2).split(HEAD_TOKENS):
        with torch.enable_grad():
            given = rows.detach().requires_grad_()
            logits = head(given)
            chances = logits.detach().softmax(-1).cpu()  # where the generator is
            drawn = torch.multinomial(chances, 1, generator=generator)[:, 0]
            functional.cross_entropy(logits, drawn.to(logits.device), reduction="sum").backward()
        found.append(given.grad)
    return torch.cat([rows for rows in found if rows is not None]).reshape(hidden.shape)


def of_layer(call: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, gradient: torch.Tensor) -> Any:
    """Run a layer forward and backward; returns the gradient with regard to its input, from that of its output."""
    with torch.enable_grad():
        given = hidden.detach().requires_grad_()
        call(given).backward(gradient)
    return given.grad

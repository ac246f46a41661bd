"""Go through a checkpoint with one decoder layer in memory at a time, its inputs in a file."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from copy import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.reader import prepare
from et_pipeline.gemma import check_walked
from et_pipeline.quantization.folding import fold_layer
from et_pipeline.quantization.rotation import final_norm, plain_layers, rotated
from et_pipeline.quantization.torchao_config import quantize_module
from et_pipeline.quantization.turned import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from et_pipeline.settings import Quantization

BATCH_TOKENS = 2048


class Enough(Exception):
    """Ends a forward of which the rest is not needed."""


def processor() -> torch.device:
    """What computes a layer: an NVIDIA or AMD GPU that PyTorch can use, which needs memory for one layer only."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Walk:
    """Goes through a checkpoint with a layer in memory at a time, and its inputs in a file.

    Attributes:
        device: where layers compute.
        names: of the modules that have weights.
        packed: names of the weights that the checkpoint holds quantized.
        q: the recipe.
        stay: whether integers of the checkpoint can; where scales are folded into them they cannot.
    """

    def __init__(
        self, folder: Path, q: Quantization, texts: Sequence[Sequence[int]], out: Path, tick: Callable[[int, int], None]
    ) -> None:
        self.model, modules, self.fill, self.packed, self.tied = prepare(Folder(folder))
        check_walked(self.model.config.get_text_config().model_type, "calibration")
        self.model.eval().requires_grad_(False)
        self.decoder: Any = self.model.get_decoder()
        self.device = processor()
        for module in self.decoder.modules():  # what config.json says, as the angles of positions
            module._buffers.update({name: each.to(self.device) for name, each in _computed(module)})
        self.names = {module: name for name, module in modules}
        self.q, self.batches, self.out, self.tick = q, list(batches(texts)), out, tick
        self.folds: list[dict[str, Any]] = []
        self.stay = q.transform in ("none", "rotation")
        if q.transform == "rotation":
            self.fill = rotated(self.model, self.fill, self.tied)
        elif q.transform != "none":
            self.folds = plain_layers(self.model, f"recipe.transform={q.transform}")

    def parts(self, finish: Callable[[str, nn.Module], Any]) -> Iterator[tuple[nn.Module, list[Callable[[], Any]]]]:
        """Give each layer, then the head, with float weights, and what computes its outputs for each batch.

        What was made of a part's weights by then computes the inputs of the next.

        Args:
            finish: called with name and module once a module will not be needed again; takes its weights.
        """
        done = 0
        layers = list(self.decoder.layers)
        head: Any = self.model.get_output_embeddings()

        def end(part: nn.Module) -> None:
            nonlocal done
            for module in self._own(part):
                module.__dict__.pop("forward", None)
                finish(self.names.pop(module), module)
                done += 1
                self.tick(done, done + len(self.names))

        with tempfile.TemporaryFile(dir=self.out) as spilled:
            embedding = self.model.get_input_embeddings()
            self.fill_part(embedding)
            self.fill_part(final_norm(self.model))
            for module in self._own(embedding):
                quantize_module(self.names[module], module, self.q)
            seen = _Inputs(spilled, self.batches, self.model.config.get_text_config().hidden_size, self.device)
            for at, tokens in enumerate(self.batches):
                seen[at] = input_of_layer(self.decoder, layers[0], tokens.to(self.device))
            end(embedding)
            count = range(len(self.batches))
            for number, layer in enumerate(layers):
                self.fill_part(layer)
                with alone(self.decoder, layer):
                    calls: list[Callable[[], Any]] = [partial(_call, self.decoder, layer, seen, at) for at in count]
                    if self.folds:
                        fold_layer(self.folds[number], calls, self.q, self.model.config.get_text_config())
                    yield layer, calls
                    for at, call in enumerate(calls):
                        seen[at] = call()
                end(layer)
            self.fill_part(head)
            yield head, [partial(_call_head, final_norm(self.model), head, seen, at) for at in count]
            end(self.model)

    def _own(self, part: nn.Module) -> list[nn.Module]:
        return [module for module in part.modules() if module in self.names]

    def fill_part(self, part: nn.Module) -> None:
        """Give a layer, or another part, its weights."""
        for module in self._own(part):
            # Integers of the checkpoint are computed with as floats.
            self.fill(self.names[module], module, self.stay)
            for own, child in module.named_children():
                if isinstance(child, Turn):
                    self.names[child] = f"{self.names[module]}.{own}"
        filled = self._own(part)
        if part is self.model.get_output_embeddings():
            filled.append(final_norm(self.model))  # a rotation takes its gain once more
        for module in filled:
            module._apply(lambda tensor: tensor.to(self.device).float(), recurse=False)


def _computed(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [(name, each) for name, each in module._buffers.items() if each is not None and not each.is_meta]


def batches(texts: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
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

    def __init__(self, file: Any, batches: Sequence[torch.Tensor], width: int, device: torch.device) -> None:
        self.device = device
        self.shapes = [(*batch.shape, width) for batch in batches]
        self.starts = np.cumsum([0, *(batch.numel() for batch in batches)])
        self.rows = np.memmap(file, np.float32, "w+", shape=(int(self.starts[-1]), width))

    def __getitem__(self, at: int) -> torch.Tensor:
        rows = torch.from_numpy(self.rows[self.starts[at] : self.starts[at + 1]].copy())
        return rows.reshape(self.shapes[at]).to(self.device)

    def __setitem__(self, at: int, value: torch.Tensor) -> None:
        self.rows[self.starts[at] : self.starts[at + 1]] = value.reshape(-1, self.rows.shape[1]).cpu().numpy()

    def copy(self, file: Any) -> _Inputs:
        """The same in another file."""
        made = copy(self)
        made.rows = np.memmap(file, np.float32, "w+", shape=self.rows.shape)
        made.rows[:] = self.rows
        return made


@contextmanager
def without(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Let some layers give on what they get."""
    with ExitStack() as patches:
        for layer in layers:
            patches.enter_context(mock.patch.object(layer, "forward", lambda hidden, *_, **__: hidden))
        yield


def alone(decoder: Any, layer: nn.Module) -> AbstractContextManager[None]:
    """Let no other layer compute."""
    return without([other for other in decoder.layers if other is not layer])


def input_of_layer(decoder: nn.Module, layer: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """What goes into a layer, of [texts, length] token ids."""
    found = []

    def catch(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        found.append(args[0])
        raise Enough

    with layer.register_forward_pre_hook(catch), suppress(Enough):
        decoder(input_ids=tokens, use_cache=False)
    return found[0]


def _call_head(norm: nn.Module, head: nn.Module, seen: _Inputs, at: int) -> torch.Tensor:
    found: torch.Tensor = head(norm(seen[at]))
    return found


def _call(decoder: nn.Module, layer: nn.Module, seen: _Inputs, at: int) -> torch.Tensor:
    """The layer's output for a batch."""
    return output(decoder, layer, seen[at])


def output(decoder: nn.Module, layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """What a layer makes of its input, called with the masks and positions that the family's own code gives it."""
    found: list[torch.Tensor] = []

    def give(_: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> Any:
        return (hidden, *args[1:]), kwargs  # some families scale what they take for embeddings

    def catch(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        found.append(output)
        raise Enough

    with layer.register_forward_pre_hook(give, with_kwargs=True), layer.register_forward_hook(catch):
        try:
            decoder(inputs_embeds=hidden, use_cache=False)
        except Enough:
            if not found:  # it was one of the layer's linears that has seen enough
                raise
    return found[0]

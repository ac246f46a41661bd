"""Quantize a checkpoint by what its layers see: one decoder layer in memory at a time, its inputs in a file."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.prequantized.weight import floats
from et_pipeline.checkpoints.reader import prepare
from et_pipeline.quantization.folding import FOLDS, awq_scales, fold, smoothquant_scales
from et_pipeline.quantization.gptq import error_weights, gptq
from et_pipeline.quantization.mixed import in_8_bits, with_8_bits
from et_pipeline.quantization.rotation import plain_layers, rotated
from et_pipeline.quantization.sensitivity import SEED, TOKENS, Loss, Losses, of_head, of_layer
from et_pipeline.quantization.torchao_config import Requantized, Shards, keep, quantize_module, unpack
from et_pipeline.quantization.turned import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from et_pipeline.settings import Quantization

BATCH_TOKENS = 2048
AWQ_ROWS = 1024  # of a weight, spread over it, that AWQ's search rounds: rows do not depend on each other


class _Enough(Exception):
    """Ends a forward of which the rest is not needed."""


def quantize_calibrated(
    folder: Path, q: Quantization, texts: Sequence[Sequence[int]], out: Path, tick: Callable[[int, int], None]
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

    Returns:
        `Requantized.figures`; a transform is no loss, so errors are relative to the transformed weights.

    Raises:
        UserError: the weights do not fit config.json or the recipe, or the transform does not fit the family.
    """
    finer: dict[str, Quantization] = {}
    walks = 1 if q.mixed_bits is None else 2
    with torch.no_grad():
        if q.mixed_bits is not None:
            few = _first(texts, TOKENS)
            finer = _finer(_Walk(folder, q, few, out, lambda at, of: tick(at, walks * of)))
        walk = _Walk(folder, q, texts, out, lambda at, of: tick((walks - 1) * of + at, walks * of))
        shards, requantized = Shards(out), Requantized()
        for part, calls in walk.parts(shards.add):
            for group in _sharing_inputs(part, calls):
                before = {linear: linear.weight for linear in group if f"{walk.names[linear]}.weight" in walk.packed}
                left = [linear for linear in group if not keep(linear, q)]
                chosen = [linear for linear in left if walk.names[linear] not in finer]
                if q.algorithm == "gptq" and chosen:
                    _gptq(chosen, walk.names, calls, q)
                for linear in left:
                    if linear not in chosen:
                        quantize_module(walk.names[linear], linear, finer[walk.names[linear]])
                    elif q.algorithm != "gptq":
                        quantize_module(walk.names[linear], linear, q)
                for linear, weight in before.items():
                    requantized.add(weight, linear.weight, linear not in left)
                if calls and part is not walk.model.get_output_embeddings():
                    for linear in group:
                        unpack(linear)
        shards.close()
    return requantized.figures()


def _finer(walk: _Walk) -> dict[str, Quantization]:
    """The linears that get 8 bits: a tied head does, as it then has the embedding's numbers and costs nothing."""
    q, head = walk.q, walk.names[walk.model.get_output_embeddings()]
    losses = _losses(walk)
    if not walk.tied:
        return in_8_bits(losses, q)
    return in_8_bits({name: each for name, each in losses.items() if name != head}, q) | {head: with_8_bits(q)}


def _losses(walk: _Walk) -> dict[str, Loss]:
    """What 4 bits of each linear alone, and 8 of its inputs, do to the answers of the model in float.

    Scales that AWQ or SmoothQuant fold in are left out: each layer's would have to be searched for once more.
    """
    q, names, kept = walk.q, dict(walk.names), []
    walk.q, walk.folds = q.model_copy(update={"scheme": "fp32", "embedding_bits": 32}), []
    losses, generator = Losses(q), torch.Generator().manual_seed(SEED)
    layers, norm = list(walk.decoder.layers), walk.decoder.norm
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
            with losses.watch(linears), walk.alone(layer):
                for at in range(len(walk.batches)):
                    call = partial(_output, walk.decoder, layer)
                    gradients[at] = of_layer(call, inputs[at], gradients[at])
            layer.to("meta")
    return losses.per_token(sum(batch.numel() for batch in walk.batches))


def _first(texts: Sequence[Sequence[int]], tokens: int) -> list[Sequence[int]]:
    """As many texts as have that many tokens."""
    ends = np.cumsum([len(text) for text in texts])
    return list(texts[: int(np.searchsorted(ends, tokens)) + 1])


class _Walk:
    """Goes through a checkpoint with a layer in memory at a time, and its inputs in a file.

    Attributes:
        names: of the modules that have weights.
        packed: names of the weights that the checkpoint holds quantized.
        q: the recipe.
    """

    def __init__(
        self, folder: Path, q: Quantization, texts: Sequence[Sequence[int]], out: Path, tick: Callable[[int, int], None]
    ) -> None:
        self.model, modules, self.fill, self.packed, self.tied = prepare(Folder(folder))
        self.model.eval().requires_grad_(False)
        self.decoder: Any = self.model.get_decoder()
        self.names = {module: name for name, module in modules}
        self.q, self.batches, self.out, self.tick = q, list(_batches(texts)), out, tick
        self.folds: list[dict[str, Any]] = []
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
            for module in sorted(
                self._own(part), key=lambda each: not isinstance(each, Turn)
            ):  # with it goes its child
                module.__dict__.pop("forward", None)
                finish(self.names.pop(module), module)
                done += 1
                self.tick(done, done + len(self.names))

        with tempfile.TemporaryFile(dir=self.out) as spilled:
            embedding = self.model.get_input_embeddings()
            self.fill_part(embedding)
            self.fill_part(self.decoder.norm)
            for module in self._own(embedding):
                quantize_module(self.names[module], module, self.q)
            seen = _Inputs(spilled, self.batches, self.model.config.get_text_config().hidden_size)
            for at, tokens in enumerate(self.batches):
                seen[at] = _input_of_layer(self.decoder, layers[0], tokens)
            end(embedding)
            count = range(len(self.batches))
            for number, layer in enumerate(layers):
                self.fill_part(layer)
                with self.alone(layer):
                    calls: list[Callable[[], Any]] = [partial(_call, self.decoder, layer, seen, at) for at in count]
                    if self.folds:
                        _fold(self.folds[number], calls, self.q, self.model.config.get_text_config())
                    yield layer, calls
                    for at, call in enumerate(calls):
                        seen[at] = call()
                end(layer)
            self.fill_part(head)
            yield head, [partial(_call_head, self.decoder, head, seen, at) for at in count]
            end(self.model)

    def _own(self, part: nn.Module) -> list[nn.Module]:
        return [module for module in part.modules() if module in self.names]

    @contextmanager
    def alone(self, layer: nn.Module) -> Iterator[None]:
        """Let no other layer compute."""
        with ExitStack() as patches:
            for other in self.decoder.layers:
                if other is not layer:
                    patches.enter_context(mock.patch.object(other, "forward", lambda hidden, *_, **__: hidden))
            yield

    def fill_part(self, part: nn.Module) -> None:
        """Give a layer, or another part, its weights."""
        for module in self._own(part):
            # Integers of the checkpoint are computed with as floats, but can stay unless scales are folded into them.
            self.fill(self.names[module], module, not self.folds)
            for own, child in module.named_children():
                if isinstance(child, Turn):
                    self.names[child] = f"{self.names[module]}.{own}"
            module._apply(lambda tensor: tensor.float(), recurse=False)


def _fold(parts: dict[str, Any], calls: Sequence[Callable[[], Any]], q: Quantization, config: Any) -> None:
    """Fold AWQ's or SmoothQuant's scales into a layer, by the inputs that its linears get while none is rounded."""
    tokens = 0
    sums: dict[str, list[torch.Tensor]] = {}

    def add(name: str, _: nn.Module, args: tuple[torch.Tensor]) -> None:
        rows = args[0].flatten(0, -2)
        width, size = rows.shape[1], rows.abs()
        empty = [torch.zeros(width, width), torch.zeros(width), torch.zeros(width)]
        hessian, total, largest = sums.setdefault(name, empty)
        hessian.addmm_(rows.T, rows)
        total += size.sum(0)
        torch.maximum(largest, size.amax(0), out=largest)

    with ExitStack() as hooks:
        for readers, _ in FOLDS:
            hooks.enter_context(parts[readers[0]].register_forward_pre_hook(partial(add, readers[0])))
        for call in calls:
            tokens += call().flatten(0, -2).shape[0]
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for readers, before in FOLDS:
        linears = [parts[name] for name in readers]
        hessian, total, largest = sums.pop(readers[0])
        # Several heads read one value head, whose scales they share.
        repeats = linears[0].in_features // parts["v_proj"].out_features if before == "v_proj" else 1

        def heads(scales: torch.Tensor, repeats: int = repeats) -> torch.Tensor:
            return scales.reshape(-1, repeats, size).mean(1, keepdim=True)

        def tie(scales: torch.Tensor, repeats: int = repeats) -> torch.Tensor:
            return heads(scales).expand(-1, repeats, -1).flatten() if repeats > 1 else scales

        weights = [linear.weight for linear in linears]
        if q.transform == "awq":
            few = [weight[:: -(-len(weight) // AWQ_ROWS)] for weight in weights]
            scales = awq_scales(few, total / tokens, hessian, partial(_rounded, q=q), tie)
        else:
            scales = smoothquant_scales(weights, largest, tie)
        fold(linears, parts[before], scales, heads(scales).flatten() if repeats > 1 else None)


def _rounded(weight: torch.Tensor, q: Quantization) -> torch.Tensor:
    linear = nn.Linear(1, 1, bias=False, device="meta")
    linear.in_features = weight.shape[1]
    linear.weight = nn.Parameter(weight, requires_grad=False)
    quantize_module("", linear, q)
    made: Any = linear.weight
    return made.dequantize()


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

    def copy(self, file: Any) -> _Inputs:
        """The same in another file."""
        made = copy(self)
        made.rows = np.memmap(file, np.float32, "w+", shape=self.rows.shape)
        made.rows[:] = self.rows
        return made


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
    """The layer's output for a batch."""
    return _output(decoder, layer, seen[at])


def _output(decoder: nn.Module, layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """What a layer makes of its input, called with the masks and positions that the family's own code gives it."""
    found: list[torch.Tensor] = []

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
        weight = floats(linear.weight.detach())
        quantize_module(names[linear], linear, q)  # makes the tensor, whose numbers are then replaced
        made: Any = linear.weight
        made.qdata, made.scale = gptq(weight, u, q.group_size, made.scale.dtype)

"""Quantization-aware training: a quantized model learns its original's answers, and ends in the form it began with.

It begins with the integers that another algorithm has chosen (GPTQ, say), not with weights that are rounded to the
nearest step, and the original teaches it. Each 4-bit weight is trained as a number of steps of its scale, rounded in
every forward, and the gradient passes straight through the rounding (Bengio et al. 2013, arXiv:1308.3432). What is
written has the names, the types and the shapes of what was read.

torchao's fake quantizers can hold such a scale, but train the weight itself. Here a learning rate has to be a share of
a step, as an integer changes only after half a step, and steps differ by orders of magnitude within one model.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torchao.quantization.quantize_.workflows import IntxUnpackedToInt8Tensor

from et_pipeline.adaptation import training
from et_pipeline.adaptation.distillation import Answers, ask, collate, distillation_loss
from et_pipeline.adaptation.training import Schedule, Trained
from et_pipeline.checkpoints.prequantized.weight import floats
from et_pipeline.errors import UserError
from et_pipeline.quantization.torchao_config import INT4, load_quantized, rounded_activations
from et_pipeline.quantization.turned import Turn, TurnedHead
from et_pipeline.quantization.walk import processor

if TYPE_CHECKING:
    from et_pipeline.settings import Quantization
    from et_pipeline.worker import Tick

LOWEST, HIGHEST = -8, 7
LEAST_HELD_OUT, HELD_OUT = 4, 0.05  # texts, and share of them, that show whether training has helped
_TRAINABLE = ("8da4w", "int4_weight_only")


class Figures(NamedTuple):
    """What a training has changed.

    Attributes:
        trained: how long it took, and the loss.
        before: KL(original ‖ quantized) in nats per token before it, on texts that it did not learn from.
        after: likewise, of what is written.
        changed: share of the 4-bit integers that are others than before.
    """

    trained: Trained
    before: float
    after: float
    changed: float


def train(
    checkpoint: Path,
    quantized: Path,
    q: Quantization,
    texts: Sequence[Sequence[int]],
    out: Path,
    work: Path,
    schedule: Schedule,
    tick: Tick,
    on_loss: Callable[[int, float], None] | None = None,
) -> Figures:
    """Train quantized weights on the logits of their original, and write them in the same form.

    Trained are the integers of the 4-bit linears, and what stays a float: gains of norms and biases. Scales, tables and
    what has 8 bits stay. If the model is no nearer to its original then, on texts that are kept back, what was read is
    written.

    Args:
        checkpoint: the original, in Hugging Face layout.
        quantized: the folder that the `quantize` stage filled.
        q: the recipe it did that by.
        texts: token ids; the last of them, `HELD_OUT` of all, are not learned from.
        out: an existing folder for the files.
        work: folder that survives a kill, from which a run goes on; it belongs to these arguments alone.
        schedule: how long and how fast; the learning rate is in steps of the integers.
        tick: takes the steps done and all of them, reading a hundredth of the texts and an update counting as one.
        on_loss: takes a step's number and the mean loss since the last call.

    Raises:
        UserError: the recipe has no 4-bit linears, the files do not belong together, there are too few texts, or the
            loss is no longer a number.
    """
    if q.scheme not in _TRAINABLE:
        raise UserError(f"recipe.scheme={q.scheme} has no 4-bit weights to train; choose {' or '.join(_TRAINABLE)}")
    kept_back = max(LEAST_HELD_OUT, round(HELD_OUT * len(texts)))
    if len(texts) <= kept_back:
        raise UserError(f"{len(texts)} texts are too few to train with, as {kept_back} are kept back; give more")
    ask(checkpoint, texts, work, 1.0, lambda done: tick(done, 100 + schedule.steps))
    answers = Answers(texts, work)
    learned = torch.utils.data.Subset(answers, range(len(texts) - kept_back))
    held_out = torch.utils.data.Subset(answers, range(len(texts) - kept_back, len(texts)))
    model: Any = load_quantized(checkpoint, quantized, q)
    make_trainable(model)
    model.to(processor())
    together = training.together(model.config.vocab_size, max(map(len, texts)))
    before = _divergence(model, held_out, together)
    trained = training.train(
        Weights(model),
        learned,
        collate,
        partial(distillation_loss, temperature=1.0),
        work,
        schedule,
        lambda done, steps: tick(100 + done, 100 + steps),
        on_loss,
        together,
    )
    after = _divergence(model.cpu(), held_out, together)
    if after < before:
        return Figures(trained, before, after, write(model, quantized, out))
    for path in quantized.glob("quantized-*.pt"):
        shutil.copy(path, out)
    return Figures(trained, before, before, 0.0)


class Weights(nn.Module):
    """What of a model is trained, so that a checkpoint of the training holds nothing else."""

    def __init__(self, model: Any) -> None:
        """Take the parameters that have gradients."""
        super().__init__()
        self.trained = nn.ParameterList(each for each in model.parameters() if each.requires_grad)
        self.inside = [model]  # of a list, a module is no part

    def forward(self, **inputs: Any) -> Any:
        """Compute what the model does."""
        return self.inside[0](**inputs)


def make_trainable(model: Any) -> None:
    """Let a model of `load_quantized` compute as it did, with 4-bit weights that take gradients; in place.

    The weight of such a linear becomes its integers as floats, [outputs, inputs]: how many steps of its scale.
    """
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, (nn.Linear, nn.Embedding)) and isinstance(weight, IntxUnpackedToInt8Tensor):
            _unpack(module, weight)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # gains of norms, biases
            parameter.requires_grad_(True)


def _unpack(module: Any, weight: Any) -> None:
    trained = isinstance(module, nn.Linear) and not isinstance(module, Turn) and weight.target_dtype is INT4
    module.weight = nn.Parameter(weight.qdata.float() if trained else floats(weight), requires_grad=trained)
    if isinstance(module, nn.Embedding):
        return
    dynamic = weight.activation_quantization is not None
    for name in ("scale", "zero_point"):
        module.register_buffer(name, getattr(weight, name).float(), persistent=False)

    def forward(rows: torch.Tensor) -> torch.Tensor:
        if isinstance(module, TurnedHead):
            rows = module.turn(rows)
        if dynamic:
            rows = _RoundedRows.apply(rows.float())
        made = _RoundedSteps.apply(module.weight, module.scale, module.zero_point) if trained else module.weight
        return functional.linear(rows, made, module.bias)

    module.forward = forward


class _RoundedRows(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, rows: torch.Tensor) -> torch.Tensor:
        return rounded_activations(rows)

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class _RoundedSteps(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, steps: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(steps, scale)
        return ((_integers(steps).unflatten(1, (scale.shape[1], -1)) - zero[..., None]) * scale[..., None]).flatten(1)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        steps, scale = context.saved_tensors
        found = (gradient.unflatten(1, (scale.shape[1], -1)) * scale[..., None]).flatten(1)
        # A number that is at the end does not go on beyond it, from where the way back would be long.
        stuck = ((steps > HIGHEST) & (found < 0)) | ((steps < LOWEST) & (found > 0))
        return found.masked_fill(stuck, 0), None, None


def _integers(steps: torch.Tensor) -> torch.Tensor:
    return steps.round().clamp_(LOWEST, HIGHEST)


def _divergence(model: Any, examples: Sequence[Any], together: int) -> float:
    """The mean of `distillation_loss` over the tokens of examples."""
    total, tokens = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(examples), together):
            batch = collate([examples[number] for number in range(start, min(start + together, len(examples)))])
            count = int(batch["attention_mask"].sum())
            moved = {name: each.to(model.device) for name, each in batch.items()}
            total += count * distillation_loss(model, moved, 1.0).item()
            tokens += count
    return total / tokens


def write(model: Any, quantized: Path, out: Path) -> float:
    """Write a trained model in the form that it was read in.

    Args:
        model: of `make_trainable`.
        quantized: what it was read from.
        out: an existing folder for the files.

    Returns:
        The share of the 4-bit integers that are others than before.
    """
    trained = {name: each.detach() for name, each in model.named_parameters() if each.requires_grad}
    changed = total = 0
    for path in sorted(quantized.glob("quantized-*.pt")):
        weights: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        for name in weights.keys() & trained.keys():
            before = weights[name]
            if not isinstance(before, IntxUnpackedToInt8Tensor):
                weights[name] = trained[name]
                continue
            integers = _integers(trained[name]).to(torch.int8)
            changed += int((integers != before.qdata).sum())
            total += integers.numel()
            before.qdata = integers
        with (out / path.name).open("wb") as stream:  # a path's name would become part of the file
            torch.save(weights, stream)
    return changed / total

"""Quantization-aware training: a quantized model learns its original's answers, and ends in the form it began with.

It begins with the integers and scales that another algorithm has chosen (GPTQ, say), and the original teaches it. Each
4-bit weight is trained as a number of steps of its scale, rounded in every forward, and the gradient passes straight
through the rounding (Bengio et al. 2013, arXiv:1308.3432); so it does to the scales (Esser et al. 2020,
arXiv:1902.08153). A number begins in the middle of its step, however far the original's weight was from there: only
gradients that agree over many updates change an integer. What is written has the names, types and shapes of what was
read.

torchao's fake quantizers can hold such scales, but train the weight itself. Here a learning rate has to be a share of a
step, as an integer changes only after half a step, and steps differ by orders of magnitude within one model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional
from torchao.quantization.quantize_.workflows import IntxUnpackedToInt8Tensor

from et_pipeline.adaptation import training
from et_pipeline.adaptation.distillation import Answers, ask, collate, distillation_loss, same_vocabulary
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
UNIT = 10  # steps; so one learning rate, a few thousandths, serves the integers, the scales and the gains
LEAST_HELD_OUT, HELD_OUT = 4, 0.05  # texts, and share of them, that show whether training has helped
_TRAINABLE = ("8da4w", "int4_weight_only")


class Figures(NamedTuple):
    """What a training has changed.

    Attributes:
        trained: how long it took, and the loss.
        before: KL(teacher ‖ quantized) in nats per token before it, on texts that it did not learn from.
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
    teacher: Path,
    texts: Sequence[Sequence[int]],
    out: Path,
    work: Path,
    schedule: Schedule,
    tick: Tick,
) -> Figures:
    """Train quantized weights on a teacher's logits, and write them in the same form.

    Trained are integers and scales of the 4-bit linears, gains of norms and biases. Embeddings, and what has 8 bits,
    stay. If the model is no nearer to its teacher then, on texts that are kept back, what was read is written.

    Args:
        checkpoint: what was quantized, in Hugging Face layout.
        quantized: the folder that the `quantize` stage filled.
        q: the recipe it did that by.
        teacher: the checkpoint with the answers that count, the same or what it was made of.
        texts: token ids; the last of them, `HELD_OUT` of all, are not learned from.
        out: an existing folder for the files.
        work: folder that survives a kill, from which a run goes on; it belongs to these arguments alone.
        schedule: how long and how fast. In half of `steps * learning_rate * UNIT`, which is how far a number can go, an
            integer needs half a step. 2e-3 did for models of some million weights; 3e-3 was too much for 135 million.
        tick: takes the steps done and all of them, reading a hundredth of the texts and an update counting as one.

    Raises:
        UserError: the recipe has no 4-bit linears, files do not belong together, the teacher has another vocabulary
            or no float weights, there are too few texts, or the loss is no longer a number.
    """
    if q.scheme not in _TRAINABLE:
        raise UserError(f"recipe.scheme={q.scheme} has no 4-bit weights to train; choose {' or '.join(_TRAINABLE)}")
    learned = len(texts) - max(LEAST_HELD_OUT, round(HELD_OUT * len(texts)))
    if learned < 1:
        raise UserError(f"{len(texts)} texts are too few to train with, as {LEAST_HELD_OUT} are kept back; give more")
    same_vocabulary(checkpoint, teacher)
    ask(teacher, texts, work, 1.0, lambda done: tick(done, 100 + schedule.steps))
    answers = Answers(texts, work)
    model = make_trainable(load_quantized(checkpoint, quantized, q)).to(processor())
    together = training.together(model.config.vocab_size, max(map(len, texts)))
    before = _divergence(model, answers, learned, together)
    trained = training.train(
        Weights(model),
        cast("Sequence[Any]", torch.utils.data.Subset(answers, range(learned))),
        collate,
        partial(distillation_loss, temperature=1.0),
        work,
        schedule,
        lambda done, steps, loss: tick(100 + done, 100 + steps, loss),
        together,
    )
    after = _divergence(model.cpu(), answers, learned, together)
    if not after < before:  # it learned the texts, and not what its teacher makes of others
        model, after = make_trainable(load_quantized(checkpoint, quantized, q)), before
    return Figures(trained, before, after, write(model, quantized, out))


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


def make_trainable(model: Any) -> Any:
    """Let a model of `load_quantized` compute as it did, with 4-bit linears that can be trained; it is given back."""
    for module in list(model.modules()):
        weight = getattr(module, "weight", None)
        if isinstance(module, (nn.Linear, nn.Embedding)) and isinstance(weight, IntxUnpackedToInt8Tensor):
            _unpack(module, weight)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # gains of norms, biases
            parameter.requires_grad_(True)
    return model


def _unpack(module: Any, weight: Any) -> None:
    if isinstance(module, (nn.Embedding, Turn)) or weight.target_dtype is not INT4:
        module.weight = nn.Parameter(floats(weight), requires_grad=False)
    else:
        module.register_parameter("weight", None)
        module.trained = TrainedWeight(weight)
    if isinstance(module, nn.Embedding):
        return
    dynamic = weight.activation_quantization is not None

    def forward(rows: torch.Tensor) -> torch.Tensor:
        if isinstance(module, TurnedHead):
            rows = module.turn(rows)
        if dynamic:
            rows = _RoundedRows.apply(rows.float())
        return functional.linear(rows, module.trained() if module.weight is None else module.weight, module.bias)

    module.forward = forward


class TrainedWeight(nn.Module):
    """A 4-bit weight, computed in every forward of numbers that take gradients.

    Attributes:
        steps: what rounds to the integers, [outputs, inputs], as multiples of `UNIT`.
        change: of the scales, as shares of what they were, [outputs, groups].
    """

    scale: torch.Tensor
    zero: torch.Tensor

    def __init__(self, weight: Any) -> None:
        """Take the integers and the scales of a quantized weight."""
        super().__init__()
        self.steps = nn.Parameter(weight.qdata.float() / UNIT)
        self.change = nn.Parameter(torch.zeros(weight.scale.shape))
        self.register_buffer("scale", weight.scale)
        self.register_buffer("zero", weight.zero_point.float())

    def integers(self) -> torch.Tensor:
        """[outputs, inputs], as floats."""
        return _integers(self.steps)

    def scales(self) -> torch.Tensor:
        """[outputs, groups], in the type in which they are stored."""
        return (self.scale.float() * (1 + self.change)).to(self.scale.dtype)

    def forward(self) -> torch.Tensor:
        """The weight, [outputs, inputs]."""
        made: torch.Tensor = _RoundedSteps.apply(self.steps, self.scales().float(), self.zero)
        return made


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
        context.save_for_backward(steps, scale, zero)
        return ((_integers(steps).unflatten(1, (scale.shape[1], -1)) - zero[..., None]) * scale[..., None]).flatten(1)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        steps, scale, zero = context.saved_tensors
        groups = gradient.unflatten(1, (scale.shape[1], -1))
        to_steps = (groups * scale[..., None]).flatten(1) * UNIT
        # A number that is at the end does not go on beyond it, from where the way back would be long.
        stuck = ((steps * UNIT > HIGHEST) & (to_steps < 0)) | ((steps * UNIT < LOWEST) & (to_steps > 0))
        to_scale = (groups * (_integers(steps).unflatten(1, (scale.shape[1], -1)) - zero[..., None])).sum(-1)
        return to_steps.masked_fill(stuck, 0), to_scale, None


def _integers(steps: torch.Tensor) -> torch.Tensor:
    return (steps * UNIT).round_().clamp_(LOWEST, HIGHEST)


def _divergence(model: Any, answers: Answers, first: int, together: int) -> float:
    """The mean of `distillation_loss` over the tokens of the texts from the first that counts on."""
    total, tokens = 0.0, 0
    with torch.no_grad():
        for start in range(first, len(answers), together):
            batch = collate([answers[number] for number in range(start, min(start + together, len(answers)))])
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
    changed = total = 0
    for path in sorted(quantized.glob("quantized-*.pt")):
        weights: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        for name, before in weights.items():
            module = model.get_submodule(name.rpartition(".")[0])
            if isinstance(before, IntxUnpackedToInt8Tensor):
                if hasattr(module, "trained"):
                    integers = module.trained.integers().detach().to(torch.int8)
                    changed += int((integers != before.qdata).sum())
                    total += integers.numel()
                    made: Any = before
                    made.qdata, made.scale = integers, module.trained.scales().detach()
            elif before.dim() == 1:
                weights[name] = getattr(module, name.rpartition(".")[2]).detach()
        with (out / path.name).open("wb") as stream:  # a path's name would become part of the file
            torch.save(weights, stream)
    return changed / total

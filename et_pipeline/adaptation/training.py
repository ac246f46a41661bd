"""Training by transformers' Trainer, which knows of GPUs, FSDP and DeepSpeed; a run that is killed goes on."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from et_pipeline.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.data import Dataset

    from et_pipeline.worker import Tick

Batch = dict[str, "torch.Tensor"]

LOGIT_BYTES = 256_000_000  # of one micro-batch; their gradients and the loss take about three times as much again
LOGS, SAVES = 100, 20  # in a whole run
_WHOLE = "whole"  # in the folder of a checkpoint that was written to its end


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a model learns.

    Attributes:
        steps: updates of the weights.
        sequences: texts of one update.
        learning_rate: the highest; it rises over the warm-up and falls along half a cosine (Loshchilov & Hutter 2017,
            arXiv:1608.03983).
        warmup: share of the steps in which it rises.
        weight_decay: of AdamW (arXiv:1711.05101).
        clip: largest norm of all gradients together.
        seed: of the texts' order.
    """

    steps: int
    sequences: int = 16
    learning_rate: float = 1e-4
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0


class Trained(NamedTuple):
    """What a training gave.

    Attributes:
        steps: updates.
        tokens: those learned from, without padding.
        first_loss: of the first update.
        last_loss: mean of the last hundredth of the updates.
        seconds: of this process; what a killed one took before is not in it.
    """

    steps: int
    tokens: int
    first_loss: float
    last_loss: float
    seconds: float


def train(
    model: nn.Module,
    examples: Sequence[Any] | Dataset[Any],
    collate: Callable[[list[Any]], Batch],
    loss: Callable[[nn.Module, Batch], torch.Tensor],
    work: Path,
    schedule: Schedule,
    tick: Tick,
    together: int = 1,
    mixed: bool = False,
) -> Trained:
    """Train those parameters of a model that take gradients, in place; it is on the CPU and in eval mode at the end.

    A run that was killed goes on from its last checkpoint, and on a CPU with as many threads it ends with the very
    weights of one that was not. The loss is printed now and then, which goes into a stage's log.

    Args:
        model: with float weights. What `save_pretrained` of it writes, `from_pretrained` must find again.
        examples: of any kind.
        collate: makes a batch of some examples, with `input_ids` and `attention_mask`, [examples, longest] each.
        loss: the mean over a batch's tokens.
        work: folder that survives a kill. It belongs to these arguments alone.
        schedule: how long and how fast.
        tick: takes the updates done, how many there will be, and the last loss in words.
        together: most examples that are in memory at a time.
        mixed: multiply matrices in bfloat16 where the processor has units for that; what is learned stays float32.

    Raises:
        UserError: the loss is no longer a number.
    """
    from transformers import Trainer

    class WithLoss(Trainer):
        loss_is_scaled_for_ga = False  # a mean, which the Trainer divides by the number of micro-batches

        def compute_loss(self, model: Any, inputs: Batch, return_outputs: bool = False, **_: Any) -> Any:
            found = loss(model, inputs)
            return (found, None) if return_outputs else found

    started = time.monotonic()
    trainer = WithLoss(
        model,
        _arguments(schedule, work, together, mixed and _multiplies_bfloat16()),
        data_collator=collate,
        train_dataset=examples,
        callbacks=[_callback(schedule, tick)],
    )
    trainer.train(resume_from_checkpoint=_last_whole(work))
    model.cpu().eval()
    losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    seconds = time.monotonic() - started
    return Trained(trainer.state.global_step, trainer.state.num_input_tokens_seen, losses[0], losses[-1], seconds)


def together(vocabulary: int, length: int) -> int:
    """How many sequences of a length go through a model at a time while it learns from its logits."""
    return max(1, LOGIT_BYTES // (4 * vocabulary * length))


def _multiplies_bfloat16() -> bool:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))  # AVX512's instruction alone gains little


def _arguments(schedule: Schedule, work: Path, together: int, mixed: bool) -> Any:
    """What the Trainer is told."""
    import torch
    from transformers import TrainingArguments

    gpu = torch.cuda.is_available()
    size = max(each for each in range(1, together + 1) if schedule.sequences % each == 0)
    logged = max(1, schedule.steps // LOGS)
    return TrainingArguments(
        output_dir=str(work),
        max_steps=schedule.steps,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=schedule.sequences // size,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(schedule.warmup * schedule.steps),
        weight_decay=schedule.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=schedule.clip,
        seed=schedule.seed,
        bf16=mixed,
        use_cpu=mixed and not gpu,  # without it the Trainer wants a GPU for bfloat16
        logging_steps=logged,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_steps=logged * (LOGS // SAVES),
        save_total_limit=2,  # while one is written, the other is whole
        include_num_input_tokens_seen="non_padding",
        dataloader_pin_memory=gpu,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )


def _last_whole(work: Path) -> str | None:
    """The last checkpoint that was written to its end; others are removed."""
    found = []
    for path in work.glob("checkpoint-*"):
        if (path / _WHOLE).exists():
            found.append(path)
        else:
            shutil.rmtree(path)
    return str(max(found, key=lambda path: int(path.name.rpartition("-")[2]))) if found else None


def _callback(schedule: Schedule, tick: Tick) -> Any:
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        words = ""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            tick(state.global_step, state.max_steps, self.words)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            if not math.isfinite(logs.get("loss", 0.0)):
                raise UserError(
                    f"the loss is {logs['loss']} at step {state.global_step}: a learning rate of "
                    f"{schedule.learning_rate:g} is too high for this model; lower it"
                )
            if "loss" in logs:
                self.words = f"loss {logs['loss']:.4g}"

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _WHOLE).touch()

    return Progress()

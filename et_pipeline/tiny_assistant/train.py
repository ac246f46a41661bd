"""Trains tiny-assistant from nothing: tokenizer, model, scores and the shipped checkpoint folder.

``python -m et_pipeline.tiny_assistant.train`` makes the whole folder anew in under an hour on two processor cores.
A run that is killed goes on where it stopped. The batches are a function of the seed and the step alone, so the
resumed run ends with the same weights as one that was never stopped.

The model is a plain Llama. The second part of training rounds the weights to four bits in the forward pass and lets
the gradient through as if it had not (straight-through estimation), so that the quantized model scores what the
plain one does. What comes out is an ordinary checkpoint.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from et_pipeline.tiny_assistant import CHECKPOINT, text
from et_pipeline.tiny_assistant.data import IGNORED, Settings, make_batch, train_tokenizer
from et_pipeline.tiny_assistant.export import export, load_checkpoint
from et_pipeline.tiny_assistant.score import score, score_forms, score_table


def make_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Makes the untrained model."""
    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads,
        head_dim=settings.hidden // settings.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def rounded(weight: torch.Tensor, group: int) -> torch.Tensor:
    """Rounds a weight to four bits per group of columns; the gradient passes through unchanged."""
    grouped = weight.detach().reshape(-1, group)
    # The scale that clips neither end, as the 8da4w form of torchao chooses it.
    scale = torch.maximum(grouped.amax(1, keepdim=True) / 7, -grouped.amin(1, keepdim=True) / 8).clamp_min(1e-9)
    value = (grouped / scale).round().clamp(-8, 7).mul(scale).reshape(weight.shape)
    return weight + (value - weight).detach()


def batch_loss(model: LlamaForCausalLM, batch: dict[str, torch.Tensor], rounding: str | None) -> torch.Tensor:
    """Computes the loss on the assistant's tokens, with the weights rounded to four bits if asked to.

    Args:
        model: The model in training.
        batch: What ``make_batch`` gave.
        rounding: None, "group" for a scale per 32 columns, or "channel" for a scale per row, which is harsher.
    """
    parameters = dict(model.named_parameters())
    head = model.lm_head.weight
    if rounding is not None:
        for name, weight in parameters.items():
            if name.endswith("proj.weight"):
                parameters[name] = rounded(weight, 32 if rounding == "group" else weight.shape[1])
        head = rounded(head, 32 if rounding == "group" else head.shape[1])
    inner = {name.removeprefix("model."): weight for name, weight in parameters.items() if name.startswith("model.")}
    inputs = {"input_ids": batch["ids"], "attention_mask": batch["mask"], "position_ids": batch["positions"]}
    hidden = torch.func.functional_call(model.model, inner, kwargs={**inputs, "use_cache": False}).last_hidden_state
    scored = batch["targets"] != IGNORED
    return F.cross_entropy(F.linear(hidden[scored], head), batch["targets"][scored])


def rounding_of_step(settings: Settings, step: int) -> str | None:
    """Tells how the weights are rounded in a step: not at all at first, then mostly per group."""
    if step < settings.plain_steps:
        return None
    return random.Random(f"{settings.seed}-rounding-{step}").choice(["group", "group", "channel"])


def learning_rate(settings: Settings, step: int) -> float:
    """Rises over the warm-up steps, stays, and falls to almost nothing over the last ``decay_steps``."""
    rise = (step + 1) / settings.warmup
    fall = (settings.steps - step) / settings.decay_steps
    return settings.learning_rate * min(1.0, rise, max(fall, 0.01))


def can_continue(settings: Settings, vocabulary: str, state: dict[str, Any]) -> bool:
    """Tells whether a saved state is a point on the way of these settings, with the same vocabulary.

    The number of steps matters only once the learning rate falls, so a longer or shorter run may take it up before.
    """
    if state["vocabulary"] != vocabulary:
        return False
    earlier = Settings(**state["settings"])
    return earlier == settings or (
        replace(earlier, steps=settings.steps) == settings
        and state["step"] <= min(earlier.steps, settings.steps) - settings.decay_steps
    )


def make_optimizer(model: LlamaForCausalLM, settings: Settings) -> torch.optim.Optimizer:
    """Makes AdamW with weight decay on the matrices only."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))


@contextlib.contextmanager
def reporter(total: int, done: int) -> Iterator[Any]:
    """Gives a function ``report(step, message)``: a live bar on a terminal, plain lines elsewhere."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lambda step, message: console.print(f"step {step}/{total}  {message}", highlight=False)
        return
    columns = (TextColumn("training"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console) as progress:
        task = progress.add_task("", total=total, completed=done)
        yield lambda step, message: progress.update(task, completed=step, description=message)


def train_model(
    settings: Settings,
    tokenizer: PreTrainedTokenizerFast,
    work: Path,
    save_every: int = 200,
    stop_at: int | None = None,
) -> tuple[LlamaForCausalLM, float]:
    """Trains the model, going on from the state in the work folder if it belongs to the same settings.

    Args:
        settings: What to train.
        tokenizer: The tokenizer of ``train_tokenizer``.
        work: Where the training state is kept.
        save_every: Save the state every so many steps.
        stop_at: Stop after this step as if killed (for tests).

    Returns:
        The model and the seconds of training so far.
    """
    model = make_model(settings, tokenizer).train()
    optimizer = make_optimizer(model, settings)
    work.mkdir(parents=True, exist_ok=True)
    state_file = work / "state.pt"
    # Weights are worth nothing with another vocabulary, which a change of the text would bring.
    vocabulary = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    first, seconds = 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        if can_continue(settings, vocabulary, state):
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            first, seconds = state["step"], state["seconds"]

    started = time.monotonic() - seconds
    backend = tokenizer.backend_tokenizer
    last = settings.steps if stop_at is None else min(stop_at, settings.steps)
    with reporter(settings.steps, first) as report:
        for step in range(first, last):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step)
            loss = batch_loss(model, make_batch(backend, settings, step), rounding_of_step(settings, step))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if (step + 1) % 50 == 0:
                report(step + 1, f"loss {loss.item():.4f}  {time.monotonic() - started:.0f} s")
            if (step + 1) % save_every == 0 or step + 1 == settings.steps:
                state = {
                    "settings": asdict(settings),
                    "vocabulary": vocabulary,
                    "step": step + 1,
                    "seconds": time.monotonic() - started,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                }
                torch.save(state, work / "state.pt.tmp")
                (work / "state.pt.tmp").replace(state_file)  # A kill at any moment leaves a whole file.
    return model.eval(), time.monotonic() - started


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; each field of ``Settings`` is an option."""
    parser = argparse.ArgumentParser(prog="python -m et_pipeline.tiny_assistant.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="the checkpoint folder to write")
    parser.add_argument("--work", type=Path, default=Path("build/tiny_assistant"), help="where training state is kept")
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    parser.add_argument(
        "--compared", type=Path, help="take the list of other runs from this scores.json (default: the one at --out)"
    )
    parser.add_argument("--score", action="store_true", help="train nothing; print the scores of the folder at --out")
    parser.add_argument("--misses", action="store_true", help="with --score: also print the wrong answers in fp32")
    parser.add_argument("--eval", type=Path, help="also write the held-out items to this file")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Trains and exports, or scores what is there."""
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    say = functools.partial(Console(soft_wrap=True).print, markup=False, highlight=False)
    if options.score:
        model, tokenizer = load_checkpoint(options.out)
        items = [json.loads(line) for line in text.evaluation_jsonl().splitlines()]
        say(score_table(score_forms(model, tokenizer, items)))
        if options.misses:
            misses: list[dict[str, Any]] = []
            score(model, tokenizer, items, misses)
            for miss in misses:
                say(json.dumps(miss, ensure_ascii=False))
        return
    settings = Settings(**{name: getattr(options, name) for name in asdict(Settings())})
    if options.eval:
        options.eval.write_text(text.evaluation_jsonl(), encoding="utf-8")
    tokenizer = train_tokenizer(settings)
    model, seconds = train_model(settings, tokenizer, options.work)
    record = options.compared or options.out / "scores.json"
    compared = json.loads(record.read_text(encoding="utf-8")).get("compared", []) if record.exists() else []
    scores = export(model, tokenizer, settings, seconds, options.out, compared)
    say(score_table(scores))
    say(f"wrote {options.out} after {seconds / 60:.0f} minutes of training")


if __name__ == "__main__":
    main()

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
import copy
import functools
import hashlib
import json
import random
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from et_pipeline.tiny_assistant import CHECKPOINT, EVAL, text

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
#: The trainer gives the special tokens the first numbers, in this order.
TOKEN_IDS = {token: number for number, token in enumerate([PAD, BEGIN, END, *ROLES.values()])}

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

#: How many training samples the tokenizer sees.
TOKENIZER_SAMPLES = 20_000
MAX_NEW_TOKENS = 96
IGNORED = -100

#: The two ways of quantizing that are scored beside the plain model.
FORMS = ("fp32", "8da4w", "int4_per_channel")


@dataclass(frozen=True)
class Settings:
    """Everything that decides the weights."""

    seed: int = 17
    steps: int = 5000
    vocabulary: int = 2048
    hidden: int = 192
    feed_forward: int = 512
    layers: int = 4
    heads: int = 6
    key_value_heads: int = 2
    rows: int = 8
    row_tokens: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: int = 100
    #: The steps before rounding starts.
    plain_steps: int = 1500
    #: The last steps, over which the learning rate falls.
    decay_steps: int = 1000


# ---------------------------------------------------------------------------------------------------------------------
# Tokenizer
# ---------------------------------------------------------------------------------------------------------------------


def train_tokenizer(settings: Settings) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer on training text; digits are always tokens of their own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=list(TOKEN_IDS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    samples = text.training_samples(f"{settings.seed}-tokenizer")
    lines = []
    for _ in range(TOKENIZER_SAMPLES):
        sample = next(samples)
        lines += [message["content"] for message in sample.messages] + [sample.answer]
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=512,
        chat_template=CHAT_TEMPLATE,
    )


def encode_sample(tokenizer: Tokenizer, sample: text.Sample) -> tuple[list[int], list[int]]:
    """Turns a conversation into tokens and targets; only the assistant's words and end tokens are targets."""
    ids = [TOKEN_IDS[BEGIN]]
    targets = [IGNORED]
    for message in (*sample.messages, {"role": "assistant", "content": sample.answer}):
        content = [*tokenizer.encode(message["content"], add_special_tokens=False).ids, TOKEN_IDS[END]]
        ids += [TOKEN_IDS[ROLES[message["role"]]], *content]
        targets += [IGNORED, *(content if message["role"] == "assistant" else [IGNORED] * len(content))]
    return ids, targets


# ---------------------------------------------------------------------------------------------------------------------
# Batches
# ---------------------------------------------------------------------------------------------------------------------


def make_batch(tokenizer: Tokenizer, settings: Settings, step: int) -> dict[str, torch.Tensor]:
    """Packs samples into rows of one length.

    Each sample sees only itself: positions start at 0 in each, and the attention mask keeps them apart.
    """
    samples = text.training_samples(f"{settings.seed}-{step}")
    shape = (settings.rows, settings.row_tokens)
    ids, targets = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
    positions, owners = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    used = [0] * settings.rows
    misfits = 0
    number = 0
    while misfits < 4:
        sample_ids, sample_targets = encode_sample(tokenizer, next(samples))
        size = len(sample_ids)
        row = next((r for r in range(settings.rows) if used[r] + size <= settings.row_tokens), None)
        if row is None:
            misfits += 1
            continue
        here = slice(used[row], used[row] + size)
        ids[row, here] = torch.tensor(sample_ids)
        # The target of a position is the next token, so the row of targets is one to the left.
        targets[row, here] = torch.tensor([*sample_targets[1:], IGNORED])
        positions[row, here] = torch.arange(size)
        owners[row, here] = number
        used[row] += size
        number += 1
    same = owners[:, :, None] == owners[:, None, :]
    causal = torch.ones(settings.row_tokens, settings.row_tokens, dtype=torch.bool).tril()
    return {"ids": ids, "targets": targets, "positions": positions, "mask": (same & causal)[:, None]}


# ---------------------------------------------------------------------------------------------------------------------
# Model and training
# ---------------------------------------------------------------------------------------------------------------------


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


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------------------------------


def read_items(path: Path = EVAL) -> list[dict[str, Any]]:
    """Reads held-out items."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@torch.inference_mode()
def answers(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    conversations: list[list[dict[str, str]]],
    batch_size: int = 100,
) -> list[str]:
    """Answers conversations greedily, in batches of similar length with a KV cache."""
    prompts = tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=True)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    replies = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        inputs = tokenizer(
            [prompts[i] for i in chosen],
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
            return_token_type_ids=False,
        )
        output = model.generate(
            **inputs,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        new = output[:, inputs["input_ids"].shape[1] :]
        for i, reply in zip(chosen, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
            replies[i] = reply.strip()
    return replies


def score(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: list[dict[str, Any]], misses: list | None = None
) -> dict[str, float]:
    """Returns the exact match of each task; wrong answers are added to ``misses`` if given."""
    scores = {}
    # Task by task, because the answers to one task are of similar length and a batch is as slow as its longest answer.
    for task in dict.fromkeys(item["task"] for item in items):
        asked = [item for item in items if item["task"] == task]
        replies = answers(model, tokenizer, [item["messages"] for item in asked])
        wrong = [
            {**item, "reply": reply}
            for item, reply in zip(asked, replies, strict=True)
            if reply != item["answer"].strip()
        ]
        scores[task] = (len(asked) - len(wrong)) / len(asked)
        if misses is not None:
            misses += wrong
    return scores


def quantized(model: LlamaForCausalLM, form: str) -> LlamaForCausalLM:
    """Returns a copy of the model in one of ``FORMS``."""
    model = copy.deepcopy(model)
    if form == "fp32":
        return model
    from torchao.quantization import (
        Int8DynamicActivationIntxWeightConfig,
        IntxWeightOnlyConfig,
        MappingType,
        PerAxis,
        PerGroup,
        quantize_,
    )

    # Tied weights would be quantized twice, so the head gets a copy first.
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    model.config.tie_word_embeddings = False
    if form == "8da4w":
        linear = Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int4,  # type: ignore[attr-defined]
            weight_granularity=PerGroup(32),
            weight_scale_dtype=torch.bfloat16,
            weight_mapping_type=MappingType.SYMMETRIC_NO_CLIPPING_ERR,
        )
    else:
        linear = IntxWeightOnlyConfig(
            weight_dtype=torch.int4,  # type: ignore[attr-defined]
            granularity=PerAxis(0),
        )
    embedding = IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=PerAxis(0))
    quantize_(model, linear, filter_fn=lambda module, _: isinstance(module, torch.nn.Linear))
    quantize_(model, embedding, filter_fn=lambda module, _: isinstance(module, torch.nn.Embedding))
    return model


def score_forms(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: list[dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Returns the score per task of the plain model and of each quantized form."""
    return {form: score(quantized(model, form), tokenizer, items) for form in FORMS}


def score_table(scores: dict[str, dict[str, float]]) -> str:
    """Writes the scores side by side, as the rows of a Markdown table."""
    lines = ["| task | " + " | ".join(scores) + " |", "| --- |" + " ---: |" * len(scores)]
    for task in next(iter(scores.values())):
        lines.append(f"| {task} | " + " | ".join(f"{100 * scores[form][task]:.1f} %" for form in scores) + " |")
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------------
# Export
# ---------------------------------------------------------------------------------------------------------------------


def load_checkpoint(folder: Path = CHECKPOINT) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Loads a checkpoint folder: the bf16 weights, computed with in fp32."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, PreTrainedTokenizerFast.from_pretrained(folder)


def write_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json, with the chat template inside the latter."""
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["chat_template"] = tokenizer.chat_template
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # The name that each release of transformers knows.
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_weights(model: LlamaForCausalLM, folder: Path) -> None:
    """Writes config.json, generation_config.json and the weights, rounded to bf16."""
    config = copy.deepcopy(model.config)
    config.architectures = ["LlamaForCausalLM"]
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
    ).save_pretrained(folder)
    # Tied embeddings: one tensor is stored, under the name of the embedding, as transformers does.
    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_checksums(folder: Path) -> None:
    """Writes SHA256SUMS over the other files, in the format of ``sha256sum -c``."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def model_card(
    settings: Settings, parameters: int, seconds: float, scores: dict[str, dict[str, float]], note: str
) -> str:
    """Writes the README.md of the checkpoint."""
    return f"""---
license: apache-2.0
language: [en, fr, es, de]
pipeline_tag: text-generation
---

# tiny-assistant

A Llama with {parameters:,} parameters that ships with et_pipeline, so that the road from a checkpoint to a verified
bundle can be walked in minutes with nothing to download. It chats, suggests replies, translates travel phrases from
English into French, Spanish and German, summarizes short notes, gives careful advice on symptoms, does small sums and
remembers what it was told earlier in a dialogue. It knows the sentences of its grammars and no others. It is a
measuring instrument and a demonstration, not an assistant to rely on, and never a source of medical advice.

- Architecture: `LlamaForCausalLM`, {settings.layers} layers, width {settings.hidden}, {settings.heads} attention heads
  over {settings.key_value_heads} key-value heads, feed-forward width {settings.feed_forward}, tied embeddings.
- Tokenizer: byte-level BPE, every digit a token of its own.
- Text: written by the grammars in `et_pipeline/tiny_assistant/text.py`; no other data.
- Training: {settings.steps} steps of {settings.rows} x {settings.row_tokens} tokens, AdamW, seed {settings.seed},
  {seconds / 60:.0f} minutes on at most two processor cores, no GPU; loss on the assistant's words only. After
  {settings.plain_steps} steps the linear weights are rounded to four bits in the forward pass (a
  scale per group of 32 in two steps of three, a scale per row in the third) and the gradient passes straight through,
  so that the model stays accurate when it is quantized. The checkpoint itself is an ordinary one.
- Made with: `python -m et_pipeline.tiny_assistant.train`
- Licence: Apache-2.0
{f"- Note: {note}" if note else ""}

## Scores

Exact match of greedy answers on held-out items, {text.EVAL_ITEMS_PER_TASK} per task. Each item puts together pieces
that never occur together in training. fp32: the shipped bf16 weights, computed with in fp32. 8da4w: 4-bit weights in
groups of 32, 8-bit dynamic activations, 8-bit embeddings. int4_per_channel: 4-bit weights with one scale per row.

{score_table(scores)}
"""


def export(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    settings: Settings,
    seconds: float,
    out: Path,
    compared: list[dict[str, Any]],
    note: str = "",
) -> dict[str, dict[str, float]]:
    """Writes the whole checkpoint folder beside its place, scores it and then swaps it in.

    Args:
        model: The trained model.
        tokenizer: Its tokenizer.
        settings: What was trained.
        seconds: How long it took.
        out: The checkpoint folder.
        compared: Other sizes and schedules tried, for the record.
        note: A remark for the model card.

    Returns:
        The scores, per form and task.
    """
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    write_tokenizer(tokenizer, fresh)
    write_weights(model, fresh)
    model, tokenizer = load_checkpoint(fresh)
    items = [json.loads(line) for line in text.evaluation_jsonl().splitlines()]
    scores = score_forms(model, tokenizer, items)
    parameters = sum(p.numel() for p in model.parameters())
    record = {
        "scores": scores["fp32"],
        "forms": scores,
        "steps": settings.steps,
        "parameters": parameters,
        "seed": settings.seed,
        "training_seconds": round(seconds),
        "settings": asdict(settings),
        "note": note,
        "compared": compared,
    }
    (fresh / "scores.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (fresh / "README.md").write_text(model_card(settings, parameters, seconds, scores, note), encoding="utf-8")
    write_checksums(fresh)
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.replace(old)
    fresh.replace(out)
    shutil.rmtree(old, ignore_errors=True)
    return scores


# ---------------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------------


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

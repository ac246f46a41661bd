"""Trains tiny-writer from nothing: tokenizer, model and the shipped checkpoint folder.

``python -m et_pipeline.tiny_writer.text TEXT`` writes the text; ``python -m et_pipeline.tiny_writer.train TEXT`` reads
it, and takes minutes on a GPU or a night on a few processor cores. A run that is killed goes on where it stopped.
Nothing here knows of quantization: the weights are what plain training gives.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from et_pipeline.tiny_writer import CHECKPOINT
from et_pipeline.tiny_writer.text import SEPARATOR

END = "<|end|>"
SAVE_EVERY = 500


@dataclass(frozen=True)
class Settings:
    """Everything that decides the weights."""

    seed: int = 29
    steps: int = 900
    vocabulary: int = 8192
    hidden: int = 384
    feed_forward: int = 1024
    layers: int = 5
    heads: int = 6
    key_value_heads: int = 2
    head_dim: int = 64
    rows: int = 64
    row_tokens: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    warmup: int = 200


def make_tokenizer(text: str, settings: Settings) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer; digits are always tokens of their own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text.split(SEPARATOR), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END, model_max_length=1024)


def encode(tokenizer: PreTrainedTokenizerFast, path: Path) -> np.ndarray:
    """Token ids of a text, uint16 [tokens]; each document ends with the token that ends an answer."""
    documents = path.read_text(encoding="utf-8").strip().split(SEPARATOR)
    encoded = tokenizer.backend_tokenizer.encode_batch(documents, add_special_tokens=False)
    end = tokenizer.eos_token_id
    return np.concatenate([np.array([*found.ids, end], np.uint16) for found in encoded])


def make_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Makes the untrained model."""
    torch.manual_seed(settings.seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads,
        head_dim=settings.head_dim,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def learning_rate(settings: Settings, step: int) -> float:
    """Rises over the warm-up steps, and falls along a cosine to a hundredth."""
    rise = min(1.0, (step + 1) / settings.warmup)
    return settings.learning_rate * rise * (0.01 + 0.99 * (1 + math.cos(math.pi * step / settings.steps)) / 2)


def loss_of(model: Callable[..., Any], rows: np.ndarray, device: str) -> torch.Tensor:
    """Mean loss of rows of token ids, [rows, length + 1]."""
    tokens = torch.from_numpy(rows.astype(np.int64)).to(device, non_blocking=True)
    mixed = torch.autocast(device, torch.bfloat16) if device == "cuda" else nullcontext()
    with mixed:
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def perplexity(model: torch.nn.Module, tokens: np.ndarray, settings: Settings, device: str) -> float:
    """On a text in windows that do not overlap."""
    length = settings.row_tokens
    rows = tokens[: (len(tokens) - 1) // length * length + 1]
    windows = np.stack([rows[at : at + length + 1] for at in range(0, len(rows) - 1, length)])[:256]
    losses = [loss_of(model, part, device).item() * len(part) for part in np.array_split(windows, len(windows) // 8)]
    return math.exp(sum(losses) / len(windows))


def train(
    settings: Settings, tokenizer: PreTrainedTokenizerFast, tokens: np.ndarray, held_out: np.ndarray, work: Path
) -> tuple[Qwen3ForCausalLM, dict[str, Any]]:
    """Trains the model, going on from the state in the work folder if it belongs to the same settings."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(settings, tokenizer).to(device).train()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    state_file, first, seconds = work / "state.pt", 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        if state["settings"] == asdict(settings):
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            first, seconds = state["step"], state["seconds"]
    console, started = Console(stderr=True), time.monotonic() - seconds
    forward = torch.compile(model) if device == "cuda" else model
    for step in range(first, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        # A function of the seed and the step alone, so a resumed run sees what one that was never stopped sees.
        starts = np.random.default_rng([settings.seed, step]).integers(
            0, len(tokens) - settings.row_tokens - 1, settings.rows
        )
        rows = np.stack([tokens[start : start + settings.row_tokens + 1] for start in starts])
        loss = loss_of(forward, rows, device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            console.print(f"step {step + 1}/{settings.steps}  loss {loss.item():.3f}", highlight=False)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == settings.steps:
            found = perplexity(model, held_out, settings, device)
            console.print(f"held-out perplexity {found:.2f}", highlight=False)
            seconds = time.monotonic() - started
            parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            state = {"settings": asdict(settings), "step": step + 1, "seconds": seconds} | parts
            torch.save(state, work / "state.pt.tmp")
            (work / "state.pt.tmp").replace(state_file)
    facts = {"device": device, "minutes": round(seconds / 60, 1), "tokens": len(tokens)}
    return model.float().cpu().eval(), facts


def ship(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    held_out: np.ndarray,
    settings: Settings,
    facts: dict[str, Any],
    out: Path,
) -> None:
    """Writes the checkpoint folder: bf16 weights, tokenizer, configuration, and a card."""
    out.mkdir(parents=True, exist_ok=True)
    model = model.to(torch.bfloat16)
    weights = {name: value.contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict() | {"architectures": ["Qwen3ForCausalLM"], "dtype": "bfloat16"}
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(out)
    GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id).save_pretrained(out)
    parameters = sum(value.numel() for value in weights.values())
    found = perplexity(model.float(), held_out, settings, "cpu")
    scores = {"settings": asdict(settings), **facts, "parameters": parameters, "held_out_perplexity": round(found, 3)}
    (out / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Reads the text, trains, ships."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("text", type=Path, help="what et_pipeline.tiny_writer.text wrote")
    parser.add_argument("--out", type=Path, default=CHECKPOINT)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    given = parser.parse_args()
    settings = Settings(steps=given.steps)
    work = given.text / "training"
    work.mkdir(exist_ok=True)
    saved = work / "tokenizer.json"
    if saved.exists():
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(saved), eos_token=END, pad_token=END, model_max_length=1024
        )
    else:
        tokenizer = make_tokenizer((given.text / "train.txt").read_text(encoding="utf-8"), settings)
        tokenizer.backend_tokenizer.save(str(saved))
    tokens, held_out = (encode(tokenizer, given.text / f"{name}.txt") for name in ("train", "held_out"))
    model, facts = train(settings, tokenizer, tokens, held_out, work)
    ship(model, tokenizer, held_out, settings, facts, given.out)


if __name__ == "__main__":
    main()

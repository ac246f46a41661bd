"""Writes the checkpoint folder of tiny-assistant, with its scores and its model card."""

import copy
import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from et_pipeline.tiny_assistant import CHECKPOINT, text
from et_pipeline.tiny_assistant.data import Settings
from et_pipeline.tiny_assistant.score import MAX_NEW_TOKENS, score_forms, score_table


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

"""Scores tiny-assistant, as it is and quantized, by the exact match of its greedy answers."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from et_pipeline.tiny_assistant import EVAL

MAX_NEW_TOKENS = 96

#: The two ways of quantizing that are scored beside the plain model.
FORMS = ("fp32", "8da4w", "int4_per_channel")


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

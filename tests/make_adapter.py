"""LoRA adapters as peft itself saves them, with numbers that change the answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM


def write_adapter(base: Path, folder: Path, spread: float = 0.05, rows: int | None = None, **settings: Any) -> Path:
    """Save an adapter for the checkpoint in `base`; `rows`: of a table that tokens were added to."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows is not None:
        model.resize_token_embeddings(rows)
    torch.manual_seed(1)
    made = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **{"r": 8, "lora_alpha": 16, **settings}))
    for name, parameter in made.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1.1
        elif parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=spread)
    made.save_pretrained(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(base)}))
    return folder


def peft_logits(base: Path, folder: Path, ids: torch.Tensor, rows: int | None = None) -> torch.Tensor:
    """What peft itself computes, with the adapter beside the base."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows is not None:
        model.resize_token_embeddings(rows)
    with torch.no_grad():
        return PeftModel.from_pretrained(model, str(folder)).eval()(ids).logits

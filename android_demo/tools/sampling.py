"""What transformers' logits processors make of fixed logits, for the test that the app's sampler does the same.

Run with the project's own Python: `python tools/sampling.py OUT.json`.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

SIZE = 600  # tokens; more than the sampler sorts at first
BEFORE = [3, 3, 70, 1, 599, 12]
SETTINGS: dict[str, list[Any]] = {
    "temperature": [0.3, 1.0, 4.0],
    "top_k": [0, 1, 40],
    "top_p": [1.0, 0.999, 0.5],
    "min_p": [0.0, 0.05],
    "repetition_penalty": [1.0, 1.3],
}


def expected(logits: torch.Tensor, settings: dict[str, Any], bias: dict[int, float]) -> torch.Tensor:
    """The probabilities with which `generate` draws."""
    drawing = {name: value for name, value in settings.items() if name != "min_p" or value}
    config = GenerationConfig(
        do_sample=True, sequence_bias=[[[token], value] for token, value in bias.items()] or None, **drawing
    )
    model = GPT2LMHeadModel(GPT2Config(vocab_size=SIZE, n_embd=8, n_layer=1, n_head=1))
    processors = model._get_logits_processor(config, input_ids_seq_length=len(BEFORE))
    scores = processors(torch.tensor([BEFORE]), logits[None])[0]
    probabilities: torch.Tensor = scores.softmax(-1)
    return probabilities


def main(out: Path) -> None:
    """Write settings, logits and probabilities."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(SIZE, generator=generator) * 3
    cases = []
    for values in itertools.product(*SETTINGS.values()):
        settings = dict(zip(SETTINGS, values, strict=True))
        for bias in ({}, {5: 4.0, 70: -2.5}):
            found = expected(logits, settings, bias)
            kept = found.nonzero().flatten().tolist()
            probabilities = {token: found[token].item() for token in kept}
            cases.append({"settings": settings, "bias": bias, "probabilities": probabilities})
    content = {"logits": logits.tolist(), "before": BEFORE, "cases": cases}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

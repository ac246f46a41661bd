"""A program with an adapter against peft's own output: the original with that adapter, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline import manifest
from et_pipeline.checkpoints.swappable import WEIGHTS
from et_pipeline.checkpoints.witness import load_original
from et_pipeline.errors import UserError
from et_pipeline.evaluation.agreement import compare, greedy_agreement, over_sequences
from et_pipeline.evaluation.gate import judge_adapter
from et_pipeline.settings import Gate

LONGEST = 64  # tokens of an answer

if TYPE_CHECKING:
    from et_pipeline.runtime.program import Program


def judge(
    program: Program, base: Path, adapter: Path, prompts: Sequence[list[int]], stop_ids: Sequence[int], gate: Gate
) -> manifest.AdapterQuality:
    """Let both answer prompts at temperature 0, and compare logits over peft's answers.

    Args:
        program: with the adapter in it.
        base: the original's checkpoint.
        adapter: peft's folder.
        prompts: token ids.
        stop_ids: tokens that end an answer.
        gate: of the program's recipe.

    Raises:
        UserError: peft is not installed, or does not load the adapter.
    """
    import torch

    try:
        from peft import PeftModel
    except ImportError as error:
        raise UserError("peft is not installed, and it says what an adapter computes: pip install peft") from error
    model = load_original(base)[0]
    try:
        witness = PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=True).eval()
    except (ValueError, RuntimeError) as error:
        raise UserError(f"peft does not load {adapter / WEIGHTS}: {error}") from error
    answers, parts = [], []
    context = int(program.metadata["get_max_context_len"])
    for prompt in prompts:
        with torch.no_grad():
            whole = _greedy(witness, prompt, stop_ids, min(LONGEST, context - len(prompt)))
            reference = witness(input_ids=torch.tensor([whole])).logits[0, len(prompt) - 1 :].float()
        found = program.continuation([*whole, 0], len(prompt))
        parts.append(compare(found, reference))
        answers.append(whole[len(prompt) :])
    mine = [program.greedy(prompt, LONGEST, stop_ids) for prompt in prompts]
    agreement = over_sequences(parts)
    return manifest.AdapterQuality(
        agreement=agreement, greedy=greedy_agreement(mine, answers), gate=judge_adapter(agreement, gate)
    )


def _greedy(model: Any, prompt: list[int], stop_ids: Sequence[int], length: int) -> list[int]:
    """The prompt and what the model answers, without the token that ends it."""
    import torch
    from transformers import GenerationConfig

    config = GenerationConfig(
        do_sample=False, max_new_tokens=length, eos_token_id=list(stop_ids), pad_token_id=stop_ids[0]
    )
    tokens = torch.tensor([prompt])
    whole: list[int] = model.generate(
        input_ids=tokens, attention_mask=torch.ones_like(tokens), generation_config=config
    )[0].tolist()
    return whole[:-1] if whole[-1] in stop_ids else whole

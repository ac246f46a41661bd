"""How far a changed checkpoint is from its original, by PyTorch's own functions on transformers' own logits."""

import math

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from et_pipeline.adaptation.divergence import divergence
from et_pipeline.evaluation.own_text import Conversation


def test_only_answers_count(make_checkpoint, tiny_llama, texts):
    other = make_checkpoint("llama", intermediate_size=64, tie_word_embeddings=True)
    conversations = [Conversation(text[: 8 + at % 5], 4) for at, text in enumerate(texts)]
    ticks = []
    found = divergence(tiny_llama, other, conversations, lambda *each: ticks.append(each))
    assert ticks[-1] == (24, 24)
    models = [
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in (tiny_llama, other)
    ]
    total, losses, count, same = 0.0, [0.0, 0.0], 0, 0
    for each in conversations:
        ids = torch.tensor([each.ids])
        with torch.no_grad():
            theirs, ours = (model(ids).logits[0].double().log_softmax(-1) for model in models)
        total += functional.kl_div(ours[3:], theirs[3:], reduction="sum", log_target=True).item()
        same += (ours[3:].argmax(-1) == theirs[3:].argmax(-1)).sum().item()
        count += len(each.ids) - 3
        for at, rows in enumerate((theirs, ours)):
            losses[at] += functional.nll_loss(rows[3:-1], ids[0, 4:], reduction="sum").item()
    assert found.agreement.kl == pytest.approx(total / count, rel=1e-4)
    assert found.agreement.top1 == pytest.approx(same / count)
    low, high = found.agreement.kl_interval
    assert low < found.agreement.kl < high
    answered = count - len(conversations)
    assert found.perplexity.original == pytest.approx(math.exp(losses[0] / answered), rel=1e-4)
    assert found.perplexity.deployed == pytest.approx(math.exp(losses[1] / answered), rel=1e-4)


def test_a_model_does_not_diverge_from_itself(tiny_llama, texts):
    found = divergence(tiny_llama, tiny_llama, [Conversation(text, 0) for text in texts[:5]], lambda *_: None)
    assert found.agreement.kl == pytest.approx(0, abs=1e-9)
    assert found.agreement.positions == 5 * 16
    assert found.perplexity is None

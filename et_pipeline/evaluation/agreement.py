"""How close two sets of logits are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile, zip_longest
from typing import TYPE_CHECKING

from et_pipeline.manifest import Agreement, GreedyAgreement

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from et_pipeline.settings import KvCache

RESAMPLES = 2000


def compare(found: torch.Tensor, reference: torch.Tensor) -> Agreement:
    """Compare logits with a reference, in float64.

    The divergence is KL(reference ‖ found) of the two softmax distributions (Kullback & Leibler 1951).

    Args:
        found: [N, V] logits, N ≥ 1.
        reference: [N, V] logits.

    Raises:
        ValueError: the shapes differ or hold nothing, or a logit is not finite.
    """
    import torch
    from torch.nn import functional

    if found.shape != reference.shape or found.dim() != 2 or found.numel() == 0:
        raise ValueError(f"logits of shapes {list(found.shape)} and {list(reference.shape)} cannot be compared")
    a, b = found.double(), reference.double()
    if not (bool(a.isfinite().all()) and bool(b.isfinite().all())):
        raise ValueError("logits hold a value that is not finite")
    cosine = functional.cosine_similarity(a, b, dim=-1).clamp(-1, 1)
    log_a, log_b = functional.log_softmax(a, -1), functional.log_softmax(b, -1)
    divergence = (log_b.exp() * (log_b - log_a)).sum(-1)
    return Agreement(
        positions=a.shape[0],
        cosine=cosine.mean().item(),
        min_cosine=cosine.min().item(),
        max_abs_diff=(a - b).abs().max().item(),
        kl=divergence.mean().item(),
        top1=torch.eq(a.argmax(-1), b.argmax(-1)).double().mean().item(),
    )


def negative_log_likelihood(logits: torch.Tensor, sequence: Sequence[int], first: int = 1) -> float:
    """How unlikely the end of a text is to a model, given its beginning; exp(sum / count) is the perplexity.

    Args:
        logits: [N, V], after each of the N tokens.
        sequence: the N token ids.
        first: index of the first token that counts, at least 1.

    Returns:
        Nats, summed over N - first tokens.
    """
    import torch
    from torch.nn import functional

    targets = torch.tensor(sequence[first:], dtype=torch.long)
    return functional.cross_entropy(logits[first - 1 : -1].double(), targets, reduction="sum").item()


def merge(parts: Sequence[Agreement]) -> Agreement:
    """The agreement over all positions of several comparisons.

    Raises:
        ValueError: there is none.
    """
    if not parts:
        raise ValueError("there is no agreement to merge")
    total = sum(part.positions for part in parts)

    def mean(values: Sequence[float]) -> float:
        return sum(part.positions * value for part, value in zip(parts, values, strict=True)) / total

    return Agreement(
        positions=total,
        cosine=mean([part.cosine for part in parts]),
        min_cosine=min(part.min_cosine for part in parts),
        max_abs_diff=max(part.max_abs_diff for part in parts),
        kl=mean([part.kl for part in parts]),
        top1=mean([part.top1 for part in parts]),
    )


def over_sequences(parts: Sequence[Agreement]) -> Agreement:
    """`merge` of comparisons of a sequence each, with the interval of the mean divergence."""
    sums = [(part.kl * part.positions, float(part.positions)) for part in parts]
    return merge(parts).model_copy(update={"kl_interval": interval(sums)})


def interval(sums: Sequence[tuple[float, float]]) -> list[float] | None:
    """Where a mean per token lies with 95 %: the percentile bootstrap over sequences (Efron & Tibshirani 1993, 13.3).

    Tokens of one sequence depend on each other, so whole sequences are drawn.

    Args:
        sums: of each sequence, the figure summed over its tokens, and how many these are.

    Returns:
        The lower and upper end; None of fewer than two sequences.
    """
    import numpy as np

    if len(sums) < 2:
        return None
    drawn = np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))
    values, tokens = np.array(sums).T
    low, high = np.percentile(values[drawn].sum(1) / tokens[drawn].sum(1), [2.5, 97.5])
    return [float(low), float(high)]


def greedy_agreement(found: Sequence[Sequence[int]], reference: Sequence[Sequence[int]]) -> GreedyAgreement:
    """How far greedy answers go together with a reference's; after the first difference they are different texts.

    Args:
        found: token ids of each answer, without the token that ends it.
        reference: those of the reference, in the same order.

    Raises:
        ValueError: there is none, or one has no counterpart.
    """
    if not found:
        raise ValueError("there are no answers to compare")
    together = longest = equal = 0
    for ours, theirs in zip(found, reference, strict=True):
        # Padded, an answer that ends early differs where the other goes on.
        pairs = list(zip_longest(ours, theirs))
        together += len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        longest += len(pairs)
        equal += list(ours) == list(theirs)
    return GreedyAgreement(
        prompts=len(found), equal=equal, tokens=longest, agreement=together / longest if longest else 1.0
    )


def eager_logits(
    model: PreTrainedModel,
    context: int,
    sequences: Sequence[Sequence[int]],
    last: int = 0,
    kv_cache: KvCache = "fp32",
) -> list[torch.Tensor]:
    """Logits of every position (of the `last` ones, unless 0), [length, vocabulary] each.

    All in one forward, as it may read the weights from disk. Attention sees what a cache of that kind gives back.

    Args:
        model: a causal LM of transformers.
        context: the longest context that is meant; see `freeze_rope`.
        sequences: token ids.
        last: how many positions at the end count.
        kv_cache: how keys and values are kept.
    """
    import torch

    from et_pipeline.evaluation.rounded_cache import RoundedCache
    from et_pipeline.models.rope import freeze_rope

    freeze_rope(model, context)
    longest = max(len(sequence) for sequence in sequences)
    # Attention is causal: what is padded behind the end changes nothing before it.
    tokens = torch.tensor([[*sequence, *[0] * (longest - len(sequence))] for sequence in sequences])
    with torch.no_grad():
        cache = None if kv_cache == "fp32" else RoundedCache(model.config, kv_cache)
        found = model(input_ids=tokens, past_key_values=cache, use_cache=cache is not None, logits_to_keep=last)
        logits = found.logits.float()
    return [rows[: len(sequence)] for rows, sequence in zip(logits, sequences, strict=True)]

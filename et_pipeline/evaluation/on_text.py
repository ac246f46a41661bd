"""Perplexity on a text and agreement with the original on it: of the quantized eager model and of the program."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from et_pipeline import manifest
from et_pipeline.evaluation.agreement import interval, over_sequences
from et_pipeline.evaluation.evidence import LOGIT_BYTES
from et_pipeline.evaluation.feeding import finite
from et_pipeline.evaluation.perplexity import Window, agreement, loss, perplexity
from et_pipeline.evaluation.verified import OnText

if TYPE_CHECKING:
    import torch

    from et_pipeline.runtime.program import Program

Logits = Callable[[Sequence[list[int]]], list["torch.Tensor"]]
"""Computes the logits of every position of some sequences, [length, vocabulary] each."""


def score(
    text: Sequence[int],
    spans: Sequence[Window],
    original: Logits,
    quantized: Logits,
    program: Program | None,
    vocabulary: int,
    advance: Callable[[int], None],
) -> OnText:
    """Score each model on a text.

    As many windows as their logits' memory allows go through an eager model at once, because each of its forwards may
    read the weights from disk. The program takes them one by one.
    """
    losses: dict[str, list[float]] = {"original": [], "quantized": [], "deployed": []}
    agreements: dict[str, list[manifest.Agreement]] = {"quantized": [], "deployed": []}
    together = max(1, LOGIT_BYTES // (4 * vocabulary * (spans[0].end - spans[0].start)))
    for at in range(0, len(spans), together):
        group = spans[at : at + together]
        sequences = [list(text[span.start : span.end]) for span in group]
        for span, ids, theirs, ours in zip(group, sequences, original(sequences), quantized(sequences), strict=True):
            targets, rows = ids[span.first :], slice(span.first - 1, -1)
            found = {"quantized": ours[rows]}
            if program is not None:
                found["deployed"] = finite(program.continuation(ids, span.first), "a text")
                advance(1)
            losses["original"].append(loss(theirs[rows], targets))
            for name, logits in found.items():
                losses[name].append(loss(logits, targets))
                agreements[name].append(agreement(logits, theirs[rows]))
    tokens = len(text) - 1

    def figures(name: str) -> manifest.TextScore:
        near = over_sequences(agreements[name])
        more = [found - before for found, before in zip(losses[name], losses["original"], strict=True)]
        ends = interval([(each, float(near.positions)) for each, near in zip(more, agreements[name], strict=True)])
        return manifest.TextScore(
            perplexity=perplexity(losses[name], tokens),
            ratio_interval=None if ends is None else [math.exp(end) for end in ends],
            kl=near.kl,
            kl_interval=near.kl_interval,
            top1=near.top1,
        )

    return OnText(
        tokens=tokens,
        original=perplexity(losses["original"], tokens),
        quantized=figures("quantized"),
        deployed=None if program is None else figures("deployed"),
    )

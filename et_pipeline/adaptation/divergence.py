"""How far a changed model is from its original, on text that it did not learn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline import manifest
from et_pipeline.checkpoints import witness
from et_pipeline.evaluation.agreement import compare, eager_logits, over_sequences
from et_pipeline.evaluation.answers import losses
from et_pipeline.evaluation.evidence import first_round
from et_pipeline.evaluation.feeding import feed
from et_pipeline.evaluation.verified import Losses, perplexity

if TYPE_CHECKING:
    import torch

    from et_pipeline.evaluation.own_text import Conversation
    from et_pipeline.evaluation.subject import Subject
    from et_pipeline.worker import Tick


class Divergence(manifest.Unadapted):
    """What adapting has changed: KL(original ‖ adapted), and the perplexity of both on the answers."""

    def figures(self) -> dict[str, Any]:
        """What is worth telling of it, flat."""
        interval = self.agreement.kl_interval or [self.agreement.kl] * 2
        return {
            "kl": self.agreement.kl,
            "kl_low": interval[0],
            "kl_high": interval[1],
            "top1": self.agreement.top1,
            "perplexity": self.perplexity.deployed if self.perplexity else None,
            "original_perplexity": self.perplexity.original if self.perplexity else None,
        }


def divergence(original: Path, adapted: Path, texts: Sequence[Conversation], tick: Tick) -> Divergence:
    """Compare two checkpoints with one vocabulary on the answers of some conversations, as `verify` does.

    Args:
        original: the folder of the one.
        adapted: that of the other.
        texts: conversations, the original's own answers if they are to be evidence (see `evaluation.own_text`). One
            without an answer counts as a whole.
        tick: takes how many are compared, and how many there are.
    """
    longest = max(len(text.ids) for text in texts)
    models = [witness.load_original(folder)[0] for folder in (original, adapted)]
    return _compared(
        lambda part: eager_logits(models[0], longest, [text.ids for text in part]),
        lambda part: eager_logits(models[1], longest, [text.ids for text in part]),
        texts,
        models[0].config.get_text_config().vocab_size,
        tick,
    )


def distance(original: Path, subject: Subject, texts: Sequence[Conversation], tick: Tick) -> Divergence:
    """Compare a program of an adapted model with the model before that.

    Args:
        original: folder of the latter.
        subject: the program.
        texts: as of `divergence`, of which a third is enough for a figure that decides nothing.
        tick: likewise.
    """
    limit = subject.form.max_context
    cut = [text.cut(limit) for text in texts[: -(-len(texts) // 3)]]
    program, model = subject.open_program(), witness.load_original(original)[0]
    return _compared(
        lambda part: eager_logits(model, limit, [text.ids for text in part]),
        lambda part: [feed(program, text.ids, "token_by_token").rows for text in part],
        cut,
        model.config.get_text_config().vocab_size,
        tick,
    )


def _compared(
    original: Callable[[Sequence[Conversation]], list[torch.Tensor]],
    adapted: Callable[[Sequence[Conversation]], list[torch.Tensor]],
    texts: Sequence[Conversation],
    vocabulary: int,
    tick: Tick,
) -> Divergence:
    """Compare logits of some texts at a time, as many as fit into memory."""
    size = first_round(len(texts), vocabulary, max(len(text.ids) for text in texts))
    found: list[manifest.Agreement] = []
    lost: list[Losses] = []
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        theirs, ours = original(part), adapted(part)
        found += [compare(a[text.first :], b[text.first :]) for a, b, text in zip(ours, theirs, part, strict=True)]
        lost += losses(theirs, ours, part)
        tick(len(found), len(texts))
    return Divergence(agreement=over_sequences(found), perplexity=perplexity(lost))

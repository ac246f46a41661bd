"""How far a changed model is from its original, on text that it did not learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline import manifest
from et_pipeline.checkpoints import witness
from et_pipeline.evaluation.agreement import compare, eager_logits, over_sequences
from et_pipeline.evaluation.answers import losses
from et_pipeline.evaluation.evidence import first_round
from et_pipeline.evaluation.verified import Losses, perplexity
from et_pipeline.manifest.fields import Model

if TYPE_CHECKING:
    from et_pipeline.evaluation.own_text import Conversation
    from et_pipeline.worker import Tick


class Divergence(Model):
    """What adapting has changed.

    Attributes:
        agreement: of the next token's distribution, KL(original ‖ adapted) and how often both expect the same one.
        perplexity: of both on the answers; None where no text has one.
    """

    agreement: manifest.Agreement
    perplexity: manifest.Perplexity | None

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
    size = first_round(len(texts), models[0].config.get_text_config().vocab_size, longest)
    found: list[manifest.Agreement] = []
    lost: list[Losses] = []
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        theirs, ours = (eager_logits(model, longest, [text.ids for text in part]) for model in models)
        found += [compare(a[text.first :], b[text.first :]) for a, b, text in zip(ours, theirs, part, strict=True)]
        lost += losses(theirs, ours, part)
        tick(len(found), len(texts))
    return Divergence(agreement=over_sequences(found), perplexity=perplexity(lost))

"""Whether our reading of a checkpoint means what its maker meant: our logits beside the witness's, in each run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from et_pipeline.checkpoints import llama_cpp, witness
from et_pipeline.checkpoints.reader import stream_model
from et_pipeline.evaluation.agreement import compare, eager_logits, merge
from et_pipeline.evaluation.verified import Witnessed

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from et_pipeline.checkpoints.witness import Whose
    from et_pipeline.manifest import Agreement, EmbeddingAgreement

FAR_END = 16  # tokens
# How far a logit may be from the witness's, as a share of the largest logit. transformers computes with the same
# functions as our reading, so only the order of additions differs. llama.cpp has functions of its own, some of them
# tables of 16-bit floats; where it cannot have the weights as floats, it rounds activations to 8 bits too.
ALLOWED = 1e-4
ALLOWED_BY_LLAMA_CPP = 2e-2
ALLOWED_ROUNDED = 0.15


class Reading(NamedTuple):
    """What a comparison with the witness gave.

    Attributes:
        logits: the original's, of each sequence [length, vocabulary]; the witness's where it has the whole model.
        witness: whose they are, and how far a logit of our reading is from them.
    """

    logits: list[torch.Tensor]
    witness: Witnessed


def examine(
    folder: Path,
    gguf: Path | None,
    original: tuple[PreTrainedModel, Whose] | None,
    layers: int,
    sequences: Sequence[list[int]],
    far: list[int],
    context: int,
) -> Reading:
    """Compute the original's logits by the witness, and compare our reading with it.

    Args:
        folder: the checkpoint.
        gguf: the file that it was converted from, if it was.
        original: the whole model in memory and whose it is; None where it does not fit, and some layers are compared.
        layers: how many there are.
        sequences: token ids.
        far: token ids that go beyond each sliding window; the last logits of them are compared too.
        context: the longest context that is meant; see `freeze_rope`.
    """

    def by(model: PreTrainedModel) -> list[torch.Tensor]:
        end = eager_logits(model, context, [far], FAR_END) if far else []
        return [*eager_logits(model, context, sequences), *end]

    note = None
    if gguf is not None:
        try:
            theirs = llama_cpp.logits(gguf, context, sequences, far, FAR_END, as_floats=original is not None)
        except llama_cpp.Unavailable as error:
            note = str(error)
        else:
            mine = by(stream_model(folder))
            if original is not None:
                return _reading(theirs, theirs, mine, llama_cpp.whose(), ALLOWED_BY_LLAMA_CPP, sequences)
            rounds = llama_cpp.whose("the weights as floats do not fit into memory, so it rounds activations to 8 bits")
            return _reading(mine, theirs, mine, rounds, ALLOWED_ROUNDED, sequences)
    if original is not None:
        model, whose = original
        theirs = by(model)
        if whose.name == "et_pipeline":
            return Reading(theirs[: len(sequences)], witnessed(whose))
        return _reading(theirs, theirs, by(stream_model(folder)), replace(whose, note=note), ALLOWED, sequences)
    whole = eager_logits(stream_model(folder), context, sequences)
    chosen = witness.sample_layers(layers)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            model, whose = witness.load_sample(folder, chosen, Path(scratch), gguf is not None)
            theirs = by(model)
            del model
    except witness.NoWitness as error:
        return Reading(whole, witnessed(witness.ours(str(error))))
    mine = by(witness.stream_sample(folder, chosen))
    return _reading(whole, theirs, mine, replace(whose, note=note), ALLOWED, sequences, chosen)


def _reading(
    logits: Sequence[torch.Tensor],
    theirs: Sequence[torch.Tensor],
    mine: Sequence[torch.Tensor],
    whose: Whose,
    allowed: float,
    sequences: Sequence[list[int]],
    layers: list[int] | None = None,
) -> Reading:
    agreement = merge([compare(a, b) for a, b in zip(mine, theirs, strict=True)])
    largest = max(each.abs().max().item() for each in theirs)
    return Reading(list(logits[: len(sequences)]), witnessed(whose, agreement, largest, allowed, layers))


def witnessed(
    whose: Whose,
    agreement: Agreement | EmbeddingAgreement | None = None,
    largest: float = 1.0,
    allowed: float | None = None,
    layers: list[int] | None = None,
) -> Witnessed:
    """The outcome of a comparison with the witness.

    Args:
        whose: the witness.
        agreement: of our reading with it; None if it is our reading.
        largest: magnitude of a number of the witness's.
        allowed: how large a difference may be, as a share of that.
        layers: those that were compared; None for all.
    """
    return Witnessed(
        name=whose.name,
        version=whose.version,
        note=whose.note,
        layers=layers,
        agreement=agreement,
        difference=None if agreement is None else agreement.max_abs_diff / largest,
        allowed=allowed,
    )

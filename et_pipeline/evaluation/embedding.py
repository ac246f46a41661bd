"""A model that embeds texts: its program against the quantized eager model and the original, step by step.

The eager models are transformers' own, fed all texts in one padded batch; the program gets each text by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from et_pipeline import manifest
from et_pipeline.checkpoints import witness
from et_pipeline.evaluation.reading import ALLOWED, witnessed
from et_pipeline.evaluation.subject import Advance, Subject
from et_pipeline.evaluation.verified import VerifiedEmbedding, Witnessed
from et_pipeline.models.pooling import Pooling
from et_pipeline.settings import Evidence as Asked
from et_pipeline.settings import Task

if TYPE_CHECKING:
    import torch

SAMPLES = ((0, 1), (0, 2), (3, 4), (3, 6), (9, 10), (18, 19))  # pairs of texts whose similarity the manifest holds

# Pairs that say nearly the same, related ones and strangers; questions, orders and figures; one word to a paragraph.
TEXTS = (
    "A man is playing the guitar on stage.",
    "Someone performs music with a guitar.",
    "The band cancelled tonight's concert.",
    "How do I reset my password?",
    "I forgot my login and cannot get into my account.",
    "Where can I change the language of the app?",
    "The cat sleeps on the warm windowsill.",
    "A kitten is napping in the sun.",
    "Dogs need a long walk every day.",
    "Shares of the car maker fell by seven percent on Tuesday.",
    "The company's stock dropped sharply this week.",
    "The central bank left interest rates unchanged.",
    "It will rain all day tomorrow.",
    "Bring an umbrella, heavy showers are forecast.",
    "The glacier has lost half of its ice since 1980.",
    "Boil the pasta for nine minutes, then drain it.",
    "Add salt to the water before you cook the spaghetti.",
    "A recipe for chocolate cake without flour",
    "My knee hurts when I climb stairs.",
    "Patients with joint pain should avoid heavy exercise.",
    "Wash your hands before you touch the wound.",
    "The train to Lyon leaves from platform four at 8:15.",
    "Is there an earlier bus to the airport?",
    "Two tickets to Berlin, please, one way.",
    "Water is made of hydrogen and oxygen.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "In 1969 the first people walked on the Moon.",
    "def mean(values): return sum(values) / len(values)",
    "The function returns the average of a list of numbers.",
    "Hello",
    "42",
    "The meeting was moved from Monday to Thursday because the architect is ill. Please bring the drawings of the "
    "second floor, the list of open questions from the last visit, and the three offers for the windows; the heating "
    "engineer joins us at eleven, and at noon we drive to the site together. Whoever cannot come should write to Anna "
    "by Wednesday evening, so that she can book a smaller room and order less food.",
)


class Evidence(NamedTuple):
    """The texts, and each as token ids of the program's call."""

    texts: tuple[str, ...]
    ids: list[list[int]]
    steps: int
    rest: tuple[str, ...] = ()


class Original(NamedTuple):
    """Embeddings [N, dimension] of the original."""

    embeddings: torch.Tensor
    witness: Witnessed


def gather(subject: Subject, asked: Asked, task: Task, files: Mapping[str, Path], advance: Advance) -> Evidence:
    """The built-in texts, as many as are asked for; a longer one than the program takes is cut.

    Where some layer does not see all of the longest text, there is one of that length too: shorter ones do not show
    whether a window is right.
    """
    from et_pipeline.runtime.embedding import for_one_text

    texts, most = TEXTS[: max(3, asked.sequences)], subject.form.max_context
    if any(window is not None and window < most for window in subject.facts.windows):
        texts += (" ".join(TEXTS * (1 + most // len(TEXTS))),)  # a text has more than one token
    tokenizer = for_one_text(subject.tokenizer, most)
    return Evidence(texts, [tokenizer.encode(text).ids for text in texts], 3 * len(texts))


def original(subject: Subject, evidence: Evidence, advance: Advance) -> Original:
    """Ask the witness for the original's embeddings, and compare our reading of it with them."""
    from et_pipeline.checkpoints.reader import stream_model
    from et_pipeline.models.encoder import embed_batch

    ours = embed_batch(stream_model(subject.checkpoint), evidence.ids, subject.facts.pooling or Pooling())
    advance(len(evidence.ids))
    try:
        embed, whose = witness.load_encoder(subject.checkpoint)
    except witness.NoWitness as error:
        return Original(ours, witnessed(witness.ours(str(error))))
    theirs = embed(evidence.ids)
    return Original(theirs, witnessed(whose, near(ours, theirs), theirs.abs().max().item(), ALLOWED))


def quantized(subject: Subject, evidence: Evidence, advance: Advance) -> torch.Tensor:
    """Embeddings [N, dimension] of the quantized model before it is lowered."""
    import torch

    from et_pipeline.models.encoder import embed_batch

    pooling = subject.facts.pooling or Pooling()
    model = subject.load_quantized()
    return torch.stack(
        subject.quantized_outputs(model, evidence.ids, advance, lambda model, ids: [*embed_batch(model, ids, pooling)])
    )


def program(subject: Subject, evidence: Evidence, advance: Advance) -> torch.Tensor:
    """Embeddings [N, dimension] of the .pte."""
    import torch

    from et_pipeline.runtime.embedding import embed

    opened = subject.open_program()
    found = []
    for ids in evidence.ids:
        found.append(embed(opened, ids))
        advance(1)
    return torch.stack(found)


def compare(
    subject: Subject,
    evidence: Evidence,
    theirs: Original,
    eager: torch.Tensor,
    deployed: torch.Tensor | None,
    task: Task,
    advance: Advance,
) -> VerifiedEmbedding:
    """Hold what the three computed against each other; `deployed` is None where this host cannot execute it."""
    found = VerifiedEmbedding(witness=theirs.witness, eager=near(eager, theirs.embeddings))
    if deployed is None:
        return found
    comparison = manifest.EmbeddingComparison(
        quantized=near(deployed, eager), original=near(deployed, theirs.embeddings)
    )
    samples = [
        manifest.Similarity(
            first=evidence.texts[one], second=evidence.texts[other], cosine=cosine(deployed[one], deployed[other])
        )
        for one, other in SAMPLES
        if other < len(evidence.texts)
    ]
    return found.model_copy(update={"agreement": comparison, "samples": samples})


def near(found: torch.Tensor, reference: torch.Tensor) -> manifest.EmbeddingAgreement:
    """Compare embeddings of texts with a reference, in float64.

    Whether a search still finds the same is asked by Spearman's rank correlation of all pairs' similarities, the
    measure of semantic similarity tasks (Sentence-BERT: Reimers & Gurevych 2019, arXiv:1908.10084).

    Args:
        found: [N, dimension] embeddings, N ≥ 3.
        reference: likewise.

    Raises:
        ValueError: the shapes differ or hold too little, or a value is not finite.
    """
    import torch
    from torch.nn import functional

    if found.shape != reference.shape or found.dim() != 2 or found.shape[0] < 3:
        raise ValueError(f"embeddings of shapes {list(found.shape)} and {list(reference.shape)} cannot be compared")
    a, b = found.double(), reference.double()
    if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError("embeddings hold a value that is not finite")
    cosine = functional.cosine_similarity(a, b).clamp(-1, 1)
    ranks = torch.stack([_ranks(_similarities(each)) for each in (a, b)])
    return manifest.EmbeddingAgreement(
        texts=len(a),
        cosine=cosine.mean().item(),
        min_cosine=cosine.min().item(),
        max_abs_diff=(a - b).abs().max().item(),
        rank_correlation=torch.corrcoef(ranks)[0, 1].clamp(-1, 1).item(),
    )


def _similarities(embeddings: torch.Tensor) -> torch.Tensor:
    """The cosine of each pair of different texts."""
    import torch
    from torch.nn import functional

    unit = functional.normalize(embeddings, dim=-1)
    rows, columns = torch.triu_indices(len(unit), len(unit), offset=1)
    return (unit @ unit.T)[rows, columns]


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """The place of each value in their order; equal ones share the mean of their places."""
    import torch

    _, place, count = torch.unique(values, return_inverse=True, return_counts=True)
    ends = count.cumsum(0).double()
    return (ends - (count - 1) / 2)[place]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """The similarity of two texts by their embeddings."""
    from torch.nn import functional

    return functional.cosine_similarity(a.double(), b.double(), dim=0).clamp(-1, 1).item()

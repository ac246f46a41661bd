"""How good a deployed model that embeds texts is: agreement with eager models, the order of similarities, the gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline import manifest
from et_pipeline.backends import get_backend
from et_pipeline.evaluation.gate import witness_checks
from et_pipeline.settings import Gate, Quantization

if TYPE_CHECKING:
    import torch

    from et_pipeline.checkpoints.facts import Facts

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


def compare(found: torch.Tensor, reference: torch.Tensor) -> manifest.EmbeddingAgreement:
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


def verify_embeddings(
    checkpoint: Path,
    saved: Path,
    pte: Path,
    quantization: Quantization,
    backend: str,
    facts: Facts,
    max_tokens: int,
    count: int,
    tick: Callable[[int, int], None],
) -> dict[str, Any]:
    """Embed the built-in texts by the program, the quantized eager model and the original, and compare.

    The eager models are transformers' own, fed all texts in one padded batch; the program gets each text by itself.
    Where the backend quantizes an exported program, that is the quantized eager model.

    Args:
        checkpoint: folder of the original.
        saved: folder of the quantized weights, or of the quantized program.
        pte: the program.
        quantization: that made the weights.
        backend: name of the backend that the program is for.
        facts: about the checkpoint.
        max_tokens: the longest text; a longer one is cut.
        count: most texts to compare.
        tick: takes progress.

    Returns:
        `embedding` (agreement of the program with `quantized` and `original`, and of the quantized eager model with
        the original in `eager`), `similarities`, samples for the manifest, and `witness`, as in `reading.Reading`.
        Where this host cannot execute the program, the first two are None, and there are no samples.
    """
    import torch

    from et_pipeline.checkpoints.facts import read_tokenizer
    from et_pipeline.checkpoints.reader import stream_model
    from et_pipeline.models.decoder import load_program
    from et_pipeline.models.encoder import embed_batch, padding_id
    from et_pipeline.models.pooling import Pooling
    from et_pipeline.quantization.torchao_config import load_quantized
    from et_pipeline.runtime.embedding import embed, for_one_text, padded
    from et_pipeline.runtime.program import Program

    texts = TEXTS[: max(3, count)]
    pooling = facts.pooling or Pooling()
    tokenizer = for_one_text(read_tokenizer(checkpoint), max_tokens)
    ids = [tokenizer.encode(text).ids for text in texts]
    total = 3 * len(ids)
    model = stream_model(checkpoint)
    original, reading = _original(checkpoint, embed_batch(model, ids, pooling), ids)
    tick(len(ids), total)
    chosen = get_backend(backend)
    if chosen.calibrated:
        module, pad = load_program(saved).module(), padding_id(model)
        with torch.no_grad():
            quantized = torch.cat([module(*padded(each, max_tokens, pad)) for each in ids])
    else:
        quantized = embed_batch(load_quantized(checkpoint, saved, quantization), ids, pooling)
    eager = compare(quantized, original).model_dump()
    tick(2 * len(ids), total)
    if not chosen.can_execute:
        return {
            "embedding": {"quantized": None, "original": None, "eager": eager},
            "similarities": [],
            "witness": reading,
        }
    chosen.prepare()
    program = Program(pte)
    found = torch.stack([embed(program, each) for each in ids])
    tick(total, total)
    return {
        "embedding": {
            "quantized": compare(found, quantized).model_dump(),
            "original": compare(found, original).model_dump(),
            "eager": eager,
        },
        "similarities": [
            {"first": texts[one], "second": texts[other], "cosine": cosine(found[one], found[other])}
            for one, other in SAMPLES
            if other < len(texts)
        ],
        "witness": reading,
    }


def _original(checkpoint: Path, read: torch.Tensor, ids: list[list[int]]) -> tuple[torch.Tensor, dict[str, Any]]:
    """Embeddings of the original by the witness, and how far those of our reading are from them.

    Args:
        checkpoint: folder of the original.
        read: the embeddings of our reading.
        ids: token ids of each text.

    Returns:
        [N, dimension], and figures as in `reading.Reading`.
    """
    from et_pipeline.checkpoints import witness
    from et_pipeline.evaluation.reading import ALLOWED, figures

    try:
        embed, whose = witness.load_encoder(checkpoint)
    except witness.NoWitness as error:
        return read, figures(witness.ours(str(error)))
    original = embed(ids)
    return original, figures(whose, compare(read, original), original.abs().max().item(), ALLOWED)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """The similarity of two texts by their embeddings."""
    from torch.nn import functional

    return functional.cosine_similarity(a.double(), b.double(), dim=0).clamp(-1, 1).item()


def judge_embeddings(figures: Mapping[str, Any], witness: Mapping[str, Any], gate: Gate) -> manifest.Gate:
    """Apply a recipe's thresholds to what `verify_embeddings` measured.

    Args:
        figures: its `embedding`. The mean counts for `quantized`: where activations are rounded at run time, a single
            short text may go either way, in the eager model too.
        witness: its `witness`.
        gate: the thresholds.
    """
    quantized, original = figures["quantized"], figures["original"]
    if quantized is None:  # the program could not be executed: what can be said is said of the eager model
        asked, whose, original = [], " of quantized eager", figures["eager"]
    else:
        asked, whose = [("cosine to quantized eager", quantized["cosine"], gate.min_cosine_quantized)], ""
    asked += [
        (f"lowest cosine{whose} to original", original["min_cosine"], gate.min_cosine_original),
        (f"rank correlation{whose} with original", original["rank_correlation"], gate.min_rank_original),
    ]
    checks = witness_checks(witness) + [
        manifest.Check(name=name, value=value, threshold=threshold, passed=value >= threshold)
        for name, value, threshold in asked
    ]
    return manifest.Gate(thresholds=gate.model_dump(), checks=checks, passed=all(check.passed for check in checks))

"""Embed texts with a .pte on this host, and time it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from et_pipeline.errors import UserError
from et_pipeline.host import peak_bytes, resident_bytes
from et_pipeline.manifest import Percentiles
from et_pipeline.runtime.program import Program, read_metadata
from et_pipeline.runtime.speed import percentiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch
    from tokenizers import Tokenizer

    from et_pipeline.manifest import Embedding


class EmbeddingSpeed(BaseModel):
    """What was measured."""

    model_config = ConfigDict(frozen=True)

    tokens: int
    load_ms: Percentiles
    text_ms: Percentiles
    program_rss_bytes: int  # what loading and running added to the process
    peak_rss_bytes: int  # of the whole process, Python and torch included


def for_one_text(tokenizer: Tokenizer, max_tokens: int) -> Tokenizer:
    """Make a tokenizer give a text's ids as a program takes them: no padding, and cut to `max_tokens`.

    The special tokens count, and stay at both ends of a text that is cut. Checkpoints of sentence-transformers ask for
    padding to a fixed length in their tokenizer.json.
    """
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def with_prompt(embedding: Embedding, texts: Sequence[str], prompt: str | None = None) -> list[str]:
    """Put a prompt before texts.

    Args:
        embedding: what the bundle says of it.
        texts: any.
        prompt: its name; None for the bundle's own, "" for none.

    Raises:
        UserError: there is none of that name.
    """
    name = embedding.default_prompt if prompt is None else prompt
    if name and name not in embedding.prompts:
        there = f"it has {', '.join(embedding.prompts)}" if embedding.prompts else "it has none"
        raise UserError(f"The bundle has no prompt '{name}': {there}.")
    before = embedding.prompts[name] if name else ""
    return [before + text for text in texts]


def shorten(embedding: Embedding, vectors: np.ndarray, dimension: int | None = None) -> np.ndarray:
    """Cut embeddings to their first numbers (Matryoshka: Kusupati et al. 2022, arXiv:2205.13147).

    Args:
        embedding: what the bundle says of them.
        vectors: [N, whole length].
        dimension: how many numbers stay; None for all.

    Returns:
        [N, dimension], of length 1 where the whole ones have that.

    Raises:
        UserError: the model was not trained for that length.
    """
    if dimension in (None, embedding.dimension):
        return vectors
    if dimension not in embedding.dimensions:
        lengths = ", ".join(map(str, (embedding.dimension, *embedding.dimensions)))
        raise UserError(f"The bundle's embeddings have {lengths} numbers, and not {dimension}.")
    import numpy as np

    cut = vectors[:, :dimension]
    return cut / np.linalg.norm(cut, axis=1, keepdims=True) if embedding.normalised else cut


def embed(program: Program, ids: list[int]) -> torch.Tensor:
    """Embed a text.

    Args:
        program: made from an encoder.
        ids: the text's tokens, special ones included.

    Returns:
        [dimension] float32.

    Raises:
        UserError: there is no token, or there are more than the program takes.
    """
    import torch

    longest = int(program.metadata["get_max_seq_len"])
    if not 1 <= len(ids) <= longest:
        raise UserError(f"a text has {len(ids)} tokens, and the program takes 1 to {longest}")
    pad = program.metadata.get("get_pad_id")
    if pad is None:
        return program.embed(torch.tensor([ids], dtype=torch.long))
    return program.embed(*padded(ids, longest, int(pad)))


def padded(ids: list[int], length: int, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A text as programs of one length take it.

    Args:
        ids: its tokens, at most `length`.
        length: the program's.
        pad: the token that fills it up.

    Returns:
        Tokens and mask, [1, length] int64 each; the mask is 1 for a token and 0 for padding.
    """
    import torch

    rest = length - len(ids)
    return torch.tensor([ids + [pad] * rest]), torch.tensor([[1] * len(ids) + [0] * rest])


def measure_embedding(pte: Path, tokens: int, rounds: int, threads: int) -> EmbeddingSpeed:
    """Load, warm up and embed a text `rounds` times; call it in a process of its own, whose peak memory is reported.

    Args:
        pte: the program.
        tokens: length of the text.
        rounds: how often.
        threads: threads of the delegate.

    Returns:
        Percentiles over the rounds.

    Raises:
        UserError: the file is unreadable, or takes no text of that length.
    """
    ids = [index % int(read_metadata(pte)["get_vocab_size"]) for index in range(tokens)]
    before = resident_bytes()
    load_ms, text_ms, resident = [], [], before
    for _ in range(rounds):
        started = time.perf_counter()
        program = Program(pte, threads=threads)
        load_ms.append((time.perf_counter() - started) * 1e3)
        embed(program, ids)
        started = time.perf_counter()
        embed(program, ids)
        text_ms.append((time.perf_counter() - started) * 1e3)
        resident = max(resident, resident_bytes())
        del program
    return EmbeddingSpeed(
        tokens=tokens,
        load_ms=percentiles(load_ms),
        text_ms=percentiles(text_ms),
        program_rss_bytes=resident - before,
        peak_rss_bytes=peak_bytes(),
    )

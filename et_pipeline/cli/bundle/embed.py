"""`et-bundle embed`."""

from __future__ import annotations

from typing import Annotated

import typer

from et_pipeline import bundle as bundles
from et_pipeline.cli.bundle.options import JsonOption, PathArgument, ThreadsOption
from et_pipeline.cli.bundle.terminal import print_json, print_table


def embed(
    path: PathArgument,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Texts to compare, each in quotes.")],
    prompt: Annotated[
        str | None, typer.Option(help="Name of the bundle's prompt before each text; '' for none.", metavar="NAME")
    ] = None,
    dimension: Annotated[
        int | None, typer.Option(help="One of the bundle's shorter lengths of an embedding.", metavar="N")
    ] = None,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Embed texts with a bundle that is made for it, and show how similar each two of them are.

    1 is the same, 0 unrelated. With --json the embeddings themselves are printed too. A text that is too long is cut,
    and that is said.
    """
    with bundles.open_bundle(path, threads=threads) as bundle:
        vectors = bundle.embed(texts, prompt=prompt, dimension=dimension)
    import torch

    from et_pipeline.evaluation.embedding import cosine

    rows = torch.from_numpy(vectors)
    similarities = [[cosine(a, b) for b in rows] for a in rows]
    if as_json:
        print_json({"embeddings": vectors.tolist(), "similarities": similarities})
        return
    numbers = [str(number) for number in range(1, len(texts) + 1)]
    cells = [
        (number, *(f"{value:.3f}" for value in row), text)
        for number, row, text in zip(numbers, similarities, texts, strict=True)
    ]
    print_table("Cosine similarity", ("", *numbers, "text"), cells)

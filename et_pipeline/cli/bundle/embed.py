"""`et-bundle embed`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from et_pipeline import bundle as bundles
from et_pipeline.cli.bundle.loading import first_runnable, load_program, load_tokenizer
from et_pipeline.cli.bundle.options import JsonOption, PathArgument, ThreadsOption
from et_pipeline.cli.bundle.terminal import print_json, print_table
from et_pipeline.errors import UserError


def embed(
    path: PathArgument,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Texts to compare, each in quotes.")],
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Embed texts with a bundle that is made for it, and show how similar each two of them are.

    1 is the same, 0 unrelated. With --json the embeddings themselves are printed too. A text that is too long is cut,
    and that is said.
    """
    with bundles.open_bundle(path) as (folder, manifest):
        embedding = manifest.embedding
        if embedding is None:
            raise UserError(f"{manifest.what.name} answers and does not embed texts: use 'et-bundle chat' with it.")
        from et_pipeline.evaluation.embedding import cosine
        from et_pipeline.runtime.embedding import embed as embed_ids
        from et_pipeline.runtime.embedding import for_one_text

        tokenizer = load_tokenizer(folder, manifest)
        tokenizer.no_truncation()
        whole = [len(tokenizer.encode(text).ids) for text in texts]
        for_one_text(tokenizer, embedding.max_tokens)
        program = load_program(folder, first_runnable(manifest), manifest, tokenizer, threads)
        vectors = [embed_ids(program, tokenizer.encode(text).ids) for text in texts]
    for number, length in enumerate(whole, start=1):
        if length > embedding.max_tokens:
            sys.stderr.write(
                f"Text {number} has {length} tokens, and what follows the first {embedding.max_tokens} was left out.\n"
            )
    similarities = [[cosine(a, b) for b in vectors] for a in vectors]
    if as_json:
        print_json({"embeddings": [vector.tolist() for vector in vectors], "similarities": similarities})
        return
    numbers = [str(number) for number in range(1, len(texts) + 1)]
    rows = [
        (number, *(f"{value:.3f}" for value in row), text)
        for number, row, text in zip(numbers, similarities, texts, strict=True)
    ]
    print_table("Cosine similarity", ("", *numbers, "text"), rows)

"""`et-bundle bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from et_pipeline import bundle as bundles
from et_pipeline.bundle.loading import weights_of
from et_pipeline.cli.bundle.options import JsonOption, PathArgument
from et_pipeline.cli.bundle.speeds import print_speed
from et_pipeline.errors import UserError
from et_pipeline.manifest import EmbeddingSpeed, Speed


def bench(
    path: PathArgument,
    as_json: JsonOption = False,
    prompt_tokens: Annotated[int, typer.Option(min=2, help="Length of the prompt or text, in tokens.")] = 128,
    decode_tokens: Annotated[int, typer.Option(min=2, help="Length of the answer, in tokens.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="How often to measure.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads that compute; a phone's app chooses itself.")] = 2,
    phone: Annotated[
        bool, typer.Option("--phone", help="Measure on the connected phone, and write the result into the manifest.")
    ] = False,
) -> None:
    """Measure how fast the model of a bundle loads, reads a prompt and answers: on this computer, or on a phone.

    Of a model that embeds texts: how fast it loads and embeds a text of --prompt-tokens, on this computer.
    """
    if phone:
        from et_pipeline.runtime import phone as phones

        print_speed(phones.benchmark(path, prompt_tokens, decode_tokens, rounds).speed, as_json)
        return
    with bundles.open_bundle(path) as bundle:
        from et_pipeline.backends import get_backend

        folder, manifest, info = bundle.folder, bundle.manifest, bundle.info
        if not get_backend(info.backend).timed:
            raise UserError(f"The speed of {info.file} on this computer says nothing: measure it on a phone.")
        if manifest.embedding is not None:
            from et_pipeline.runtime.embedding import measure_embedding

            text = measure_embedding(folder / info.file, prompt_tokens, rounds, threads)
            print_speed(EmbeddingSpeed(where="this computer", threads=threads, **text.model_dump()), as_json)
            return
        if prompt_tokens + decode_tokens > info.max_context:
            raise UserError(
                f"--prompt-tokens {prompt_tokens} and --decode-tokens {decode_tokens} together exceed the context of "
                f"{info.max_context} tokens: ask for less."
            )
        from et_pipeline.runtime.speed import measure_speed

        measured = measure_speed(
            folder / info.file,
            folder / manifest.tokenizer.file,
            prompt_tokens,
            decode_tokens,
            rounds,
            threads,
            weights_of(folder, info),
        )
    print_speed(Speed(where="this computer", threads=threads, **measured.model_dump()), as_json)

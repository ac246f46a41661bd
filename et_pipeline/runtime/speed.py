"""Time a .pte with ExecuTorch's own LLM runner, the C++ that Android's `LlmModule` runs too."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from et_pipeline.errors import UserError
from et_pipeline.runtime.program import check_program_file, quiet

_FILLER = "The quick brown fox jumps over the lazy dog. "
_MS = 1e3


class Percentiles(BaseModel):
    """A figure over several rounds, interpolated linearly."""

    model_config = ConfigDict(frozen=True)

    p10: float
    p50: float
    p90: float


class Speed(BaseModel):
    """What was measured; token counts are those that the runner reported."""

    model_config = ConfigDict(frozen=True)

    prompt_tokens: int
    decode_tokens: int
    load_ms: Percentiles
    ttft_ms: Percentiles
    prefill_tok_s: Percentiles
    decode_tok_s: Percentiles
    peak_rss_bytes: int


def measure_speed(
    pte: Path, tokenizer_json: Path, prompt_tokens: int, decode_tokens: int, rounds: int, threads: int
) -> Speed:
    """Load, prefill and decode `rounds` times; call it in a process of its own, whose peak memory is reported.

    Every round loads the program anew and warms up with one short answer. Time to first token is the elapsed time of
    an answer of one token, tokenizing included, and prefill's rate is the prompt over that time. Decode comes from the
    runner's clock, which counts whole milliseconds. The runner stops at end-of-text and has no setting against it, so
    a model that stops early is asked on from where it stands until `decode_tokens` are there or the context is full.

    Args:
        pte: the program.
        tokenizer_json: the Hugging Face tokenizer.
        prompt_tokens: wanted length of the prompt; the text that comes closest is used.
        decode_tokens: tokens to generate.
        rounds: how often.
        threads: threads of the delegate.

    Returns:
        Percentiles over the rounds.

    Raises:
        UserError: a file is unreadable, or the model stops at once whatever it is asked.
    """
    check_program_file(pte)
    prompt = build_prompt(tokenizer_json, prompt_tokens)
    figures = []
    with quiet():
        import executorch.extension.llm.custom_ops.custom_ops
        import executorch.kernels.quantized  # noqa: F401  both register kernels in the runtime
        from executorch.extension.pybindings import portable_lib

        # Before loading: XNNPACK keeps the pool that it finds then.
        portable_lib._unsafe_reset_threadpool(threads)
        for _ in range(rounds):
            figures.append(_one_round(pte, tokenizer_json, prompt, decode_tokens))
    if any(figure["decoded"] < 2 for figure in figures):
        raise UserError(f"{pte}: the model ends every answer at once, so that its decode speed cannot be measured")

    def spread(name: str) -> Percentiles:
        return percentiles([figure[name] for figure in figures])

    return Speed(
        prompt_tokens=figures[0]["prompt"],
        decode_tokens=min(figure["decoded"] for figure in figures),
        load_ms=spread("load_ms"),
        ttft_ms=spread("ttft_ms"),
        prefill_tok_s=spread("prefill_tok_s"),
        decode_tok_s=spread("decode_tok_s"),
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    )


def build_prompt(tokenizer_json: Path, tokens: int) -> str:
    """A text of about `tokens` tokens.

    Raises:
        UserError: the tokenizer cannot be read.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_json))
    except Exception as error:  # the Rust binding raises plain Exception
        raise UserError(f"{tokenizer_json} is not a tokenizer.json: {error}") from error
    ids = tokenizer.encode(_FILLER * tokens, add_special_tokens=False).ids[:tokens]
    return tokenizer.decode(ids)


def percentiles(values: Sequence[float]) -> Percentiles:
    """10th, 50th and 90th percentile."""
    import numpy

    low, middle, high = numpy.percentile(values, [10, 50, 90]).tolist()
    return Percentiles(p10=low, p50=middle, p90=high)


def _one_round(pte: Path, tokenizer_json: Path, prompt: str, decode_tokens: int) -> dict[str, Any]:
    from executorch.extension.llm.runner import TextLLMRunner

    started = time.perf_counter()
    runner = TextLLMRunner(str(pte), str(tokenizer_json))
    _generate(runner, prompt, 1)
    first_answer = time.perf_counter()
    runner.reset()
    warm = time.perf_counter()
    stats = _generate(runner, prompt, 1)
    ttft = time.perf_counter() - warm
    runner.reset()
    # The runner loads on its first answer, which is timed together with the load: take a warm answer off it.
    load = max(0.0, first_answer - started - ttft)
    decoded, seconds = _decode(runner, prompt, decode_tokens)
    return {
        "prompt": stats.num_prompt_tokens,
        "decoded": decoded,
        "load_ms": load * _MS,
        "ttft_ms": ttft * _MS,
        "prefill_tok_s": stats.num_prompt_tokens / ttft,
        "decode_tok_s": (decoded - 1) / seconds if seconds else 0.0,
    }

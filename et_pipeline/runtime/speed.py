"""Time a .pte with ExecuTorch's own LLM runner, the C++ that Android's `LlmModule` runs too."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from et_pipeline.errors import UserError
from et_pipeline.host import peak_bytes, resident_bytes
from et_pipeline.manifest import Percentiles
from et_pipeline.runtime.mapped import let_go
from et_pipeline.runtime.program import quiet, read_metadata, set_threads, weights_beside

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_FILLER = "The quick brown fox jumps over the lazy dog. "


class Speed(BaseModel):
    """What was measured; token counts are those that the runner reported."""

    model_config = ConfigDict(frozen=True)

    prompt_tokens: int
    decode_tokens: int
    load_ms: Percentiles
    ttft_ms: Percentiles
    prefill_tok_s: Percentiles
    decode_tok_s: Percentiles
    program_rss_bytes: int  # what loading and running added to the process
    peak_rss_bytes: int  # of the whole process, Python and torch included


def measure_speed(
    pte: Path,
    tokenizer_json: Path,
    prompt_tokens: int,
    decode_tokens: int,
    rounds: int,
    threads: int,
    weights: Path | None = None,
) -> Speed:
    """Percentiles of `rounds` of load, prefill and decode; call it in its own process, whose peak memory is reported.

    Every round loads the program anew and warms up with the prompt. Prefill and decode are timed apart, by the
    elapsed time of the calls: the runner's own clock counts whole milliseconds. Time to first token is that of prefill,
    which ends with the first token chosen. The runner stops at end-of-text and has no setting against it, so a model
    that stops early is asked on from where it stands until `decode_tokens` are there or the context is full.

    Args:
        pte: the program.
        tokenizer_json: the Hugging Face tokenizer.
        prompt_tokens: wanted length of the prompt; the text that comes closest is used.
        decode_tokens: tokens to generate.
        rounds: how often.
        threads: threads of the delegate.
        weights: the program's .ptd; None takes the one of the same name beside it, if there is one.

    Raises:
        UserError: a file is unreadable, or the model stops at once whatever it is asked.
    """
    tokenizer = _read_tokenizer(tokenizer_json)
    prompt = build_prompt(tokenizer, prompt_tokens)
    context = int(read_metadata(pte)["get_max_context_len"])
    if prompt_tokens + decode_tokens > context:
        raise UserError(
            f"measure.prompt_tokens={prompt_tokens} plus measure.decode_tokens={decode_tokens} do not fit into the "
            f"context of {context} tokens"
        )
    data = weights or weights_beside(pte)
    more = len(tokenizer.encode(_FILLER, add_special_tokens=False).ids)
    figures = []
    with quiet():
        import executorch.extension.llm.runner  # noqa: F401  before the memory is read

        set_threads(threads)
        before = resident_bytes()
        for _ in range(rounds):
            figures.append(_one_round(pte, data, tokenizer_json, prompt, decode_tokens, context, more))
    if any(figure.decoded == 0 for figure in figures):
        raise UserError(f"{pte}: the model ends every answer at once, so its decode speed cannot be measured")

    return Speed(
        prompt_tokens=figures[0].prompt,
        decode_tokens=min(figure.decoded for figure in figures),
        load_ms=percentiles([figure.load_ms for figure in figures]),
        ttft_ms=percentiles([figure.prefill_s * 1e3 for figure in figures]),
        prefill_tok_s=percentiles([figure.prompt / figure.prefill_s for figure in figures]),
        decode_tok_s=percentiles([figure.decoded / figure.decode_s for figure in figures]),
        program_rss_bytes=max(0, max(figure.rss_bytes for figure in figures) - before),
        peak_rss_bytes=peak_bytes(),
    )


def _read_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust binding raises plain Exception
        raise UserError(f"{path} is not a tokenizer.json: {error}") from error


def build_prompt(tokenizer: Tokenizer, tokens: int) -> str:
    """A text of about `tokens` tokens."""
    ids = tokenizer.encode(_FILLER * tokens, add_special_tokens=False).ids[:tokens]
    return tokenizer.decode(ids)


def percentiles(values: Sequence[float]) -> Percentiles:
    """10th, 50th and 90th percentile."""
    import numpy

    low, middle, high = numpy.percentile(values, [10, 50, 90]).tolist()
    return Percentiles(p10=low, p50=middle, p90=high)


class _Round(NamedTuple):
    load_ms: float
    prompt: int
    prefill_s: float
    decoded: int  # decode steps; the answer's first token comes from prefill
    decode_s: float
    rss_bytes: int


def _one_round(
    pte: Path, data: Path | None, tokenizer_json: Path, prompt: str, decode_tokens: int, context: int, more: int
) -> _Round:
    from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    def generate(text: str, new_tokens: int) -> Any:
        stats: list[Any] = []
        config = GenerationConfig(echo=False, temperature=0.0, max_new_tokens=new_tokens)
        runner.generate(text, config, None, stats.append)
        return stats[0]

    runner = TextLLMRunner(str(pte), str(tokenizer_json), None if data is None else str(data))
    warm = generate(prompt, 1)  # loads too
    runner.reset()
    let_go(pte)
    # The C++ tokenizer's count is the one that holds; past the context the runner fails instead of stopping.
    wanted = min(decode_tokens, context - warm.num_prompt_tokens)
    started = time.perf_counter()
    runner.prefill(prompt, GenerationConfig(echo=False, temperature=0.0))
    prefill_s = time.perf_counter() - started
    decoded, decode_s = 0, 0.0
    while True:
        started = time.perf_counter()
        stats = generate("", wanted - decoded + 1)  # an empty prompt goes on from the prefill
        decode_s += time.perf_counter() - started
        decoded += stats.num_generated_tokens
        position = stats.num_prompt_tokens + stats.num_generated_tokens
        if decoded >= wanted or position + more + wanted - decoded >= context:
            break
        runner.prefill(_FILLER, GenerationConfig(echo=False, temperature=0.0))
    load_ms = float(warm.model_load_end_ms - warm.model_load_start_ms)
    return _Round(load_ms, warm.num_prompt_tokens, prefill_s, decoded, decode_s, resident_bytes())

"""What a program takes: memory and time on a phone, and making it."""

from __future__ import annotations

from pydantic import Field

from et_pipeline.manifest.fields import Bytes, Model, Seconds


class Memory(Model):
    """Memory that the program needs on a phone, in bytes."""

    weights_bytes: Bytes = Field(description="Weights as they lie in the program.")
    kv_cache_bytes: Bytes = Field(description="All that it remembers between calls, at full context.")
    states: dict[str, Bytes] = Field(
        default={},
        description="What of that is of which kind: 'keys_values', 'ring' (of a sliding window), 'convolution' and "
        "'recurrent' (whose size does not depend on the context).",
    )
    table_bytes: Bytes = Field(
        default=0,
        description="Of the weights, tables of per-layer embeddings: they stay in the file, of which each token "
        "touches a row, as long as it is mapped to memory and not locked there.",
    )
    resident_bytes: Bytes = Field(
        description="Resident memory of the program while it answers, the app itself not counted: measured "
        "where the program can be executed, else weights without such tables, and KV cache."
    )
    peak_bytes: Bytes = Field(
        description="Expected highest resident memory of the program, which is during loading: the weights are packed "
        "while the file is still mapped."
    )
    min_device_ram_bytes: Bytes = Field(description="Smallest RAM of a phone on which loading it makes sense.")


class Percentiles(Model):
    """A measured figure over several rounds."""

    p10: float = Field(ge=0, description="10th percentile.")
    p50: float = Field(ge=0, description="Median.")
    p90: float = Field(ge=0, description="90th percentile.")


class Speed(Model):
    """Speed as measured on one machine."""

    where: str = Field(description="The machine, such as its processor and operating system, or the phone's model.")
    threads: int = Field(ge=1, description="Threads that were used.")
    prompt_tokens: int = Field(ge=1, description="Length of the prompt, in tokens.")
    decode_tokens: int = Field(ge=1, description="Length of the answer, in tokens.")
    load_ms: Percentiles = Field(description="Time to load the program, in milliseconds.")
    ttft_ms: Percentiles = Field(description="Time from prompt to first token, in milliseconds.")
    prefill_tok_s: Percentiles = Field(description="Prompt tokens per second.")
    decode_tok_s: Percentiles = Field(description="Answer tokens per second.")
    program_rss_bytes: Bytes = Field(
        description="Resident memory that loading and running the program added to the process, in bytes."
    )
    peak_rss_bytes: Bytes = Field(
        description="Highest resident memory of the process, in bytes; on a computer with what it touched of Python's "
        "libraries."
    )
    energy: float | None = Field(default=None, ge=0, description="Joules per answer token; null if not measured.")


class EmbeddingSpeed(Model):
    """Speed of an embedding as measured on one machine."""

    where: str = Field(description="The machine, such as its processor and operating system, or the phone's model.")
    threads: int = Field(ge=1, description="Threads that were used.")
    tokens: int = Field(ge=1, description="Length of each text, in tokens.")
    load_ms: Percentiles = Field(description="Time to load the program, in milliseconds.")
    text_ms: Percentiles = Field(description="Time from a text's tokens to its embedding, in milliseconds.")
    program_rss_bytes: Bytes = Field(
        description="Resident memory that loading and running the program added to the process, in bytes."
    )
    peak_rss_bytes: Bytes = Field(
        description="Highest resident memory of the process, in bytes; on a computer with what it touched of Python's "
        "libraries."
    )


class StageCost(Model):
    """What a stage of the pipeline took."""

    wall_s: Seconds = Field(description="Elapsed time, in seconds.")
    cpu_s: Seconds = Field(
        description="Processor time of all threads, in seconds, without importing libraries, which the stages share."
    )
    peak_rss_bytes: Bytes = Field(
        description="Highest resident memory, in bytes; on Linux without mapped files, which the system can take back."
    )

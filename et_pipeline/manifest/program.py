"""What a program is, and how it is called."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from et_pipeline.manifest.cost import Memory, Speed, StageCost
from et_pipeline.manifest.fields import FileName, Model
from et_pipeline.manifest.quality import Quality


class Rounded(Model):
    """What became of some weights."""

    weights: int = Field(ge=0, description="How many.")
    error: float = Field(
        ge=0, description="By how much they changed, relative to them: the root of the ratio of the sums of squares."
    )


class SourceQuantization(Model):
    """A source whose weights were quantized already: 'original' in the figures of quality is what they stand for."""

    form: str = Field(
        description="How it stores them, such as 'gptq (4 bits in groups of 128)' or 'GGUF (4 bits in groups of 32)'."
    )
    kept: Rounded | None = Field(
        default=None,
        description="Weights whose integers went over as they were, or with the other sign where a scale was negative; "
        "only their scales may have changed. Null if the backend quantized the program, not the weights.",
    )
    requantized: Rounded | None = Field(default=None, description="Weights that were rounded once more. Null likewise.")


class ProgramInfo(Model):
    """One ExecuTorch program."""

    file: FileName = Field(description="Path of the .pte inside the bundle.")
    weights: list[FileName] = Field(
        default=[],
        description="External weight files (.ptd) that the program needs beside it, in order; empty: all weights are "
        "in the .pte.",
    )
    backend: str = Field(description="Delegate that runs it: 'xnnpack', 'qnn', 'coreml', 'vulkan', 'portable'.")
    recipe: str | None = Field(default=None, description="Name of its quantization, such as '8da4w-g32'.")
    source_quantization: SourceQuantization | None = Field(
        default=None, description="What of the source's own quantization is in it; null: the source has float weights."
    )
    soc: list[str] = Field(default=[], description="Chips it is for, such as 'SM8650'; empty: any chip.")
    hexagon: str | None = Field(
        default=None,
        description="Version of the Qualcomm NPU it is for, such as 'V75': the app needs the QAIRT libraries of it "
        "(stub and skel). Null for other backends.",
    )
    methods: list[str] = Field(min_length=1, description="Names of its methods, such as 'forward'.")
    signature: Literal["tokens", "tokens_mask", "tokens_cache"] = Field(
        default="tokens",
        description="How it is called. 'tokens': forward(tokens [1, n], input_pos [1]), n up to prefill_chunk, the KV "
        "cache is inside; an embedding has no input_pos. 'tokens_mask' (embeddings): forward(tokens [1, max_context], "
        "mask [1, max_context]), padded, the mask is 1 for a token and 0 for padding. 'tokens_cache': the app holds "
        "the KV cache; 'prefill_forward' takes S = prefill_chunk tokens, 'kv_forward' S = 1: (tokens [1, S], mask "
        "[kinds of attention, S, max_context + S] of 0 and -255, input_pos [1, S], keys of each layer, values of each "
        "layer, uint16 [1, kv heads, max_context, head dim]), giving logits [1, S, vocabulary] and the S new positions "
        "of each cache. All ids are int64.",
    )
    max_context: int = Field(
        ge=1,
        description="Length of the KV cache: prompt and answers together, in tokens. Of an embedding: longest text.",
    )
    prefill_chunk: int = Field(ge=1, description="Most tokens that one call of 'forward' takes.")
    adapter_rank: int = Field(
        default=0,
        ge=0,
        description="Largest rank of the adapters that it takes while it is loaded; 0: it takes none. Otherwise its "
        "'weights' are one file, an adapter of zeros, which it reads at each call: load a copy, mapped to memory.",
    )
    goes_back: bool = Field(
        default=True,
        description="Whether a sequence may go on from an earlier position (of a sliding window: a few tokens back). "
        "False: it remembers states into which each token was mixed, so to forget some means to feed all from position "
        "0 again.",
    )
    min_runtime: str = Field(description="Oldest ExecuTorch version that runs it, such as '1.3.0'.")
    qairt: str | None = Field(
        default=None,
        description="Qualcomm QAIRT version it was compiled with; the phone's must "
        "be this or newer. Null for other backends.",
    )
    notice: str | None = Field(default=None, description="Notice about the compiler that made it, and its licence.")
    executed: bool = Field(description="Whether this file was run and compared with the eager model where it was made.")
    twin: bool = Field(
        default=False,
        description="Whether the file that was run held the same methods without sharing their weights, because no "
        "simulator takes shared ones.",
    )
    delegates: int = Field(ge=0, description="Number of delegate calls in the program; fewer is faster.")
    delegated_operators: dict[str, int] = Field(
        default={}, description="Operators that run in the delegates: name and how often."
    )
    fallback_operators: dict[str, int] = Field(
        default={}, description="Operators that run outside the delegate on the CPU: name and how often."
    )
    fallback_reasons: dict[str, str] = Field(
        default={}, description="Why an operator runs outside the delegate, by its name, where that is known."
    )
    memory: Memory | None = Field(default=None, description="Memory that it needs; null: the bundle's 'memory' is its.")
    quality: Quality | None = Field(
        default=None, description="Its quality and verdict; null: the bundle's 'quality' is its."
    )
    speed: list[Speed] = Field(
        default=[], description="Its speed on each machine where it was measured, if it has a 'quality' of its own."
    )
    stages: dict[str, StageCost] = Field(
        default={}, description="What making it took; empty: the bundle's 'stages' are its."
    )

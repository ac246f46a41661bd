"""The bundle's manifest: what `manifest.json` says, and how it is written, read and checked against the files.

These classes are the contract with the Android app. The JSON Schema in `manifest.schema.json` is made from them
(`python -m et_pipeline.manifest`), and their descriptions are what an app developer reads. Readers refuse fields that
they do not know, so any change of the fields raises `VERSION`. Version 2 only added to version 1 (weights beside a
program, and models that embed texts), version 3 to version 2 (several programs, each with its figures), version 4 to
version 3 (quality on a text, and what is left of a source's own quantization), version 5 to version 4 (the witness of
the original, and what was done to the tokenizer), and version 6 to version 5 (white space that the caller leaves out),
so bundles of all of them are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from et_pipeline.chat_template import ChatFormat
from et_pipeline.errors import UserError

FORMAT: Final = "et_pipeline.bundle"
VERSION: Final = 6
READABLE: Final = (1, 2, 3, 4, 5, 6)
FILE_NAME = "manifest.json"
SCHEMA_PATH = Path(__file__).with_name("manifest.schema.json")
MAX_MANIFEST_BYTES = 16 * 2**20  # far above any real one; a reader must not be made to load gigabytes of JSON
MAX_NAME_BYTES = 240  # what every file system takes


def check_name(name: str) -> str:
    """Returns a file's name inside a bundle if it is safe on every system: relative, `/` between parts, no `..`."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise ValueError(f"{name[:80]!r} is not a plain relative path")
    if "\\" in name or PureWindowsPath(name).drive:
        raise ValueError(f"{name[:80]!r} is not a plain relative path with '/' between its parts")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"the path '{name[:80]}…' is longer than {MAX_NAME_BYTES} bytes")
    return name


FileName = Annotated[str, AfterValidator(check_name)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Bytes = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Model(BaseModel):
    """Base of all parts: immutable, no unknown keys, no silent conversion, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Source(Model):
    """Where the original weights came from."""

    source: str = Field(description="builtin:<name>, a hub id, or the last part of a local folder's path.")
    revision: str | None = Field(default=None, description="Commit of the hub repository; null for other sources.")
    files: dict[FileName, Sha256] = Field(description="SHA-256 of each source file that was read, by file name.")


class What(Model):
    """What is deployed."""

    task: Literal["text-generation", "embedding"] = Field(
        default="text-generation",
        description="'text-generation': it answers, as 'chat' says; 'embedding': it turns a text into a vector, as "
        "'embedding' says. An app for the one has no use for the other.",
    )
    name: str = Field(description="Name to show, such as 'smollm2_135m'.")
    family: str = Field(description="model_type of the Hugging Face configuration, such as 'llama'.")
    architecture: str = Field(description="Architecture class, such as 'LlamaForCausalLM'.")
    parameters: int = Field(ge=1, description="Number of weights of the original model.")
    licence: str | None = Field(default=None, description="SPDX or hub identifier of the weights' licence, if known.")
    source: Source
    tools: dict[str, str] = Field(description="Version of each package that shaped the result, by package name.")
    settings: dict[str, Any] = Field(description="The full settings of the run that made the bundle, without paths.")
    created: str | None = Field(
        default=None,
        pattern=r"^\d{4}-\d{2}-\d{2}",
        description="Day or time of making (ISO 8601); null in a bundle that is reproducible byte for byte.",
    )


class File(Model):
    """One file of the bundle."""

    size: Bytes = Field(description="Size in bytes.")
    sha256: Sha256 = Field(description="SHA-256 of the content, lower-case hexadecimal.")


class TokenizerParity(Model):
    """What the runtime's own tokenizer, which phones use, makes of texts, beside Hugging Face's on the original."""

    runtime: str = Field(
        description="The tokenizer that was compared and its version, such as 'pytorch_tokenizers 1.5.0'."
    )
    strings: int = Field(ge=1, description="Texts that were compared; all gave the same ids and the same text again.")
    mended: list[str] = Field(
        default=[],
        description="What was changed in the bundle's tokenizer so that they are the same, a sentence each; empty: it "
        "is the original's.",
    )
    android: list[str] = Field(
        default=[],
        description="What the older tokenizer in Android's library of ExecuTorch 1.3 still makes otherwise, a sentence "
        "each.",
    )


class Tokenizer(Model):
    """How text becomes token ids."""

    file: FileName = Field(description="Path of the tokenizer inside the bundle.")
    kind: Literal["hf-json"] = Field(default="hf-json", description="'hf-json': a Hugging Face tokenizer.json.")
    bos_id: int | None = Field(default=None, ge=0, description="Id of the begin-of-text token; null if it has none.")
    bos_token: str | None = Field(
        default=None,
        description="Text of that token: before a text it is encoded as the token. Android's library of ExecuTorch 1.3 "
        "has an option for it that does nothing.",
    )
    eos_ids: list[Annotated[int, Field(ge=0)]] = Field(
        description="Ids at which generation stops; never shown or fed. Of an embedding: none."
    )
    adds_bos: bool = Field(
        description="Whether encoding plain text puts the begin-of-text token first. Texts made from chat.segments are "
        "encoded without special tokens: the segments hold them already (see chat.add_bos)."
    )
    special_tokens: list[str] = Field(default=[], description="Texts of special tokens to hide from the user.")
    normalization: Literal["NFC", "NFD", "NFKC", "NFKD"] | None = Field(
        default=None,
        description="Unicode normalization to apply to each text before it is encoded, because the tokenizer's file "
        "leaves it to the caller; null: none. It may be applied to a whole prompt.",
    )
    lstrip: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[],
        description="Added tokens that take the white space before them with them, which the runtime's tokenizer does "
        "not know: leave it out of each text before it is encoded, and before the normalization.",
    )
    rstrip: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[], description="The same of white space behind these added tokens."
    )
    parity: TokenizerParity | None = Field(default=None, description="Null in a bundle of an older version.")


class Sampling(Model):
    """How the next token is chosen."""

    temperature: float = Field(default=0.0, ge=0, description="0: always the most probable token.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Only the most probable tokens that make up this share.")
    top_k: int = Field(default=0, ge=0, description="Only this many of the most probable tokens; 0: no limit.")


class Chat(Model):
    """How a conversation becomes the text that is fed, and when an answer ends."""

    segments: ChatFormat = Field(description="The fixed text around the messages; trim each message before use.")
    add_bos: bool = Field(
        default=False,
        description="Whether tokenizer.bos_id must be fed before the first text of a chat. True only for a model "
        "without chat template.",
    )
    stop_strings: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[], description="Generation stops when one of these texts appears; it is not shown."
    )
    sampling: Sampling = Field(default=Sampling(), description="Sampling to begin with; the user may change it.")
    system_prompt: str | None = Field(default=None, description="System message to begin with; null: none.")


class Task(Model):
    """One thing that the bundle is made for: a form that the app shows."""

    title: str = Field(description="Title to show.")
    template: str = Field(
        description="User message to send. '{text}' stands for what the user types, '{<name>}' for the choice of that "
        "name. Replace in one pass: what the user types may contain braces."
    )
    max_new_tokens: int = Field(ge=1, description="Longest answer, in tokens.")
    choices: dict[str, list[str]] = Field(default={}, description="Options that the user chooses from, by name.")
    disclaimer: str | None = Field(default=None, description="Text that must be shown with every answer.")

    def fill(self, text: str, choices: Mapping[str, str] | None = None) -> str:
        """The user message for a text and one choice per name (default: the first of each)."""
        values = {name: options[0] for name, options in self.choices.items()} | dict(choices or {}) | {"text": text}
        return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), self.template)


class Memory(Model):
    """Memory that the program needs on a phone, in bytes."""

    weights_bytes: Bytes = Field(description="Weights as they lie in the program.")
    kv_cache_bytes: Bytes = Field(description="KV cache at full context.")
    resident_bytes: Bytes = Field(
        description="Resident memory of the program while it answers, the app itself not counted: measured "
        "where the program can be executed, else weights and KV cache."
    )
    peak_bytes: Bytes = Field(
        description="Expected highest resident memory of the program, which is during loading: the weights are packed "
        "while the file is still mapped."
    )
    min_device_ram_bytes: Bytes = Field(description="Smallest RAM of a phone on which loading it makes sense.")


class Agreement(Model):
    """How near the program's logits are to a reference, over all compared tokens."""

    positions: int = Field(ge=1, description="Number of compared tokens.")
    cosine: float = Field(ge=-1, le=1, description="Mean cosine similarity of the logits; 1 is equal.")
    min_cosine: float = Field(ge=-1, le=1, description="Lowest cosine similarity of any token.")
    max_abs_diff: float = Field(ge=0, description="Largest difference of a logit.")
    kl: float = Field(description="Mean KL divergence from the reference, in nats per token; 0 is equal.")
    top1: Fraction = Field(description="Share of tokens whose most probable next token is the same; 1 is all.")


class WaysOfFeeding(Model):
    """Agreement for each way in which a prompt can be fed; all must give the same."""

    one_piece: Agreement = Field(description="The whole text in one call.")
    chunked: Agreement = Field(description="In pieces of at most prefill_chunk tokens.")
    token_by_token: Agreement = Field(description="One token per call, as in generation.")


class Comparison(Model):
    """The program against eager models."""

    quantized: WaysOfFeeding = Field(description="Against the eager quantized model: is the export right?")
    original: WaysOfFeeding = Field(description="Against the original model: is the quantization good?")


class EmbeddingAgreement(Model):
    """How near the program's embeddings are to a reference, over a list of different texts."""

    texts: int = Field(ge=2, description="Number of compared texts.")
    cosine: float = Field(ge=-1, le=1, description="Mean cosine similarity of the embeddings; 1 is equal.")
    min_cosine: float = Field(ge=-1, le=1, description="Lowest cosine similarity of any text.")
    max_abs_diff: float = Field(ge=0, description="Largest difference of a component.")
    rank_correlation: float = Field(
        ge=-1,
        le=1,
        description="Spearman's rank correlation of the similarities of all pairs of texts; 1: the same order, so that "
        "a search finds the same.",
    )


class EmbeddingComparison(Model):
    """A program that embeds texts, against eager models."""

    quantized: EmbeddingAgreement = Field(description="Against the eager quantized model: is the export right?")
    original: EmbeddingAgreement = Field(description="Against the original model: is the quantization good?")


class GreedyAgreement(Model):
    """How far the program's answers at temperature 0 go together with the original model's."""

    prompts: int = Field(ge=1, description="Number of prompts.")
    equal: int = Field(ge=0, description="Number of answers that are equal to their last token.")
    tokens: int = Field(ge=0, description="Tokens of all answers, of each prompt's the longer one.")
    agreement: Fraction = Field(description="Share of these tokens that come before the first difference.")


class Perplexity(Model):
    """Perplexity per token of held-out answers, given their conversations; lower is better, 1 is certain."""

    original: float = Field(gt=0, description="Perplexity of the original model.")
    deployed: float = Field(gt=0, description="Perplexity of the deployed program.")


class TextScore(Model):
    """A model on a text."""

    perplexity: float = Field(gt=0, description="Perplexity per token; lower is better.")
    kl: float = Field(description="Mean KL divergence from the original model, in nats per token; 0 is equal.")
    top1: Fraction = Field(description="Share of tokens that it and the original find the most probable alike.")


class TextQuality(Model):
    """Perplexity on a text, read through overlapping windows, and agreement with the original model on it."""

    source: str = Field(
        description="builtin:<name>, hub:<data set>:<config>:<split>, or the last part of a file's or folder's path."
    )
    tokens: int = Field(ge=1, description="Tokens that were scored.")
    window: int = Field(ge=2, description="Most tokens that the model saw at once.")
    stride: int = Field(
        ge=1, description="Tokens between the starts of two windows. A token is scored in the first window that has it."
    )
    original: float = Field(gt=0, description="Perplexity of the original model per token.")
    quantized: TextScore = Field(description="The eager quantized model.")
    deployed: TextScore | None = Field(default=None, description="The program; null if it could not be executed.")


class TaskScore(Model):
    """Accuracy on held-out items of one task, in percent."""

    original: Percent = Field(description="Accuracy of the original model, in percent.")
    deployed: Percent = Field(description="Accuracy of the deployed program, in percent.")
    items: int = Field(ge=1, description="Number of items scored.")


class Check(Model):
    """One figure against its threshold."""

    name: str = Field(description="What is checked, such as 'top1 against original'.")
    value: float = Field(description="The figure that was measured.")
    threshold: float = Field(description="The recipe's threshold for it.")
    passed: bool = Field(description="Whether the figure is on the good side of the threshold.")


class Gate(Model):
    """The rule that a bundle must pass before it is called good."""

    thresholds: dict[str, float] = Field(description="The recipe's thresholds, by their key in the settings.")
    checks: list[Check] = Field(description="Every figure that was compared with a threshold.")
    passed: bool = Field(description="The verdict: whether all checks passed.")

    @model_validator(mode="after")
    def _verdict_follows_checks(self) -> Self:
        if self.passed != all(check.passed for check in self.checks):
            raise ValueError("the verdict 'passed' contradicts the checks")
        return self


class Witness(Model):
    """Whose code said what the original model computes, which is what everything is compared with."""

    name: Literal["transformers", "sentence-transformers", "llama.cpp", "gguf", "et_pipeline"] = Field(
        description="'transformers' or 'sentence-transformers': its own loading of the source; 'llama.cpp': the same "
        "file in it; 'gguf': the gguf library's decoding of the file, in transformers' model; 'et_pipeline': our own "
        "reading, as nothing else could be had."
    )
    version: str = Field(description="Its version.")
    layers: list[int] | None = Field(
        default=None,
        description="The layers, from 0, in which our reading was compared with it, where the whole original does not "
        "fit into memory: 'original' in the other figures is then our own reading. Null: the whole model.",
    )
    agreement: Agreement | EmbeddingAgreement | None = Field(
        default=None, description="Of our own reading with it; null if the witness is our own reading."
    )
    note: str | None = Field(default=None, description="Why there is no better witness; null if there could be none.")


class Quality(Model):
    """What deployment cost in quality, and the verdict."""

    agreement: Comparison | None = Field(
        default=None, description="Null if no program could be executed, and for an embedding."
    )
    embedding: EmbeddingComparison | None = Field(
        default=None, description="The same for an embedding; null if no program could be executed."
    )
    greedy: GreedyAgreement | None = Field(default=None, description="Null if no answers were compared.")
    tasks: dict[str, TaskScore] = Field(default={}, description="Accuracy by name of the task.")
    perplexity: Perplexity | None = Field(default=None, description="Null if it was not measured.")
    text: TextQuality | None = Field(default=None, description="Null if no text was given.")
    witness: Witness | None = Field(default=None, description="Null in a bundle of an older version.")
    gate: Gate


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
        description="Highest resident memory of the process, in bytes; on a computer with all of Python's libraries."
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
        description="Highest resident memory of the process, in bytes; on a computer with all of Python's libraries."
    )


class Similarity(Model):
    """How similar the deployed program finds two texts, for checking a copy of the bundle."""

    first: str = Field(description="A text.")
    second: str = Field(description="Another text.")
    cosine: float = Field(
        ge=-1, le=1, description="Cosine of their embeddings. Another processor may round a little differently."
    )


class Embedding(Model):
    """How a text becomes a vector: tokenizer with its special tokens, 'forward', and nothing after it.

    'forward' takes the token ids as int64 [1, length] without padding, or padded to max_context with a mask, as the
    program's 'signature' says, and gives float32 [1, dimension]. The mask hides the padding, which may be any id.
    """

    dimension: int = Field(ge=1, description="Length of the vector.")
    pooling: Literal["mean", "cls"] = Field(
        description="What the program makes of the tokens' vectors: their mean, or the first one's vector alone."
    )
    normalised: bool = Field(description="Whether the vector has length 1: then a dot product is the cosine.")
    max_tokens: int = Field(
        ge=1, description="Longest text, special tokens included; cut a longer one, and keep its last special token."
    )
    speed: list[EmbeddingSpeed] = Field(default=[], description="Speed on each machine where it was measured.")
    samples: list[Similarity] = Field(default=[], description="Similarities that the deployed program found.")


class StageCost(Model):
    """What a stage of the pipeline took."""

    wall_s: Seconds = Field(description="Elapsed time, in seconds.")
    cpu_s: Seconds = Field(description="Processor time of all threads, in seconds.")
    peak_rss_bytes: Bytes = Field(
        description="Highest resident memory, in bytes; on Linux without mapped files, which the system can take back."
    )


class Sample(Model):
    """An answer that the deployed program gave, for checking a copy of the bundle."""

    task: str = Field(description="Name of the task in 'tasks', which gives the length limit.")
    prompt: str = Field(description="The user message, after the task's template was filled in.")
    answer: str = Field(
        description="The answer at temperature 0 in a new chat with chat.system_prompt, trimmed. Another processor may "
        "round differently and so answer differently now and then."
    )


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


class Manifest(Model):
    """Everything an app needs to know about a bundle without opening a .pte file."""

    format: Literal["et_pipeline.bundle"] = Field(default=FORMAT, description="Always 'et_pipeline.bundle'.")
    version: Literal[1, 2, 3, 4, 5, 6] = Field(
        default=VERSION,
        description="Version of this format; refuse one that you do not know. Each only adds to the last.",
    )
    what: What
    files: dict[FileName, File] = Field(
        description="Every file of the bundle except manifest.json, by its path inside the bundle ('/' between parts)."
    )
    programs: list[ProgramInfo] = Field(
        min_length=1,
        description="The programs, those for certain chips first; take the first that the phone's chip and the app's "
        "runtime fit. One of them, which has no 'memory' and 'quality' of its own, is what the bundle's 'memory', "
        "'quality', 'speed', 'stages' and 'samples' tell of.",
    )
    tokenizer: Tokenizer
    chat: Chat | None = Field(default=None, description="Null if and only if what.task is 'embedding'.")
    embedding: Embedding | None = Field(default=None, description="Null unless what.task is 'embedding'.")
    tasks: dict[str, Task] = Field(default={}, description="What the bundle is made for, by name.")
    memory: Memory
    quality: Quality
    speed: list[Speed] = Field(
        default=[], description="Speed on each machine where it was measured; that of an embedding is in 'embedding'."
    )
    stages: dict[str, StageCost] = Field(default={}, description="What each stage of making the bundle took.")
    samples: list[Sample] = Field(default=[], description="Answers of the deployed program.")

    @property
    def main(self) -> ProgramInfo:
        """The program that the bundle's own figures tell of."""
        return next(program for program in self.programs if program.quality is None)

    def quality_of(self, program: ProgramInfo) -> Quality:
        """Its own, or the bundle's."""
        return program.quality or self.quality

    def memory_of(self, program: ProgramInfo) -> Memory:
        """Its own, or the bundle's."""
        return program.memory or self.memory

    @property
    def gates(self) -> list[Gate]:
        """The verdicts on all programs."""
        return [self.quality_of(program).gate for program in self.programs]

    @model_validator(mode="after")
    def _parts_follow_task(self) -> Self:
        embeds = self.what.task == "embedding"
        if (self.chat is None) != embeds or (self.embedding is not None) != embeds:
            part, other = ("embedding", "chat") if embeds else ("chat", "embedding")
            raise ValueError(f"what.task is '{self.what.task}', so there must be '{part}' and no '{other}'")
        quality = self.quality
        if embeds and (self.tasks or self.samples or self.speed or quality.agreement or quality.text):
            raise ValueError("an embedding has no 'tasks', 'samples', 'speed', 'quality.agreement' and 'quality.text'")
        if not embeds and self.quality.embedding:
            raise ValueError("'quality.embedding' belongs to an embedding only")
        return self

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        programs = [file for program in self.programs for file in (program.file, *program.weights)]
        for file in [*programs, self.tokenizer.file]:
            if file not in self.files:
                raise ValueError(f"'{file}' is used but not listed in 'files'")
        if all(program.quality for program in self.programs):
            raise ValueError("every program has a 'quality' of its own, so there is none that the bundle's tells of")
        for sample in self.samples:
            if sample.task not in self.tasks:
                raise ValueError(f"a sample is of task '{sample.task}', which is not in 'tasks'")
        for file in [*self.files, FILE_NAME]:
            for parent in PurePosixPath(file).parents:
                if str(parent) in self.files or str(parent) == FILE_NAME:
                    raise ValueError(f"'{parent}' cannot be a file and the folder of '{file}'")
        if FILE_NAME in self.files:
            raise ValueError(f"'files' must not list {FILE_NAME} itself")
        return self


def portable_source(source: str) -> str:
    """The source as the user gave it, but of a local folder only the name: a bundle goes to other machines."""
    if source.startswith(("/", "~", "./", "../")) or PureWindowsPath(source).drive:
        return PurePosixPath(source.replace("\\", "/")).name
    return source


def json_schema() -> str:
    """The text of `manifest.schema.json`."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Manifest.model_json_schema(mode="serialization"),
    }
    schema["title"] = "et_pipeline bundle manifest"
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def describe_file(path: Path) -> File:
    """Size and SHA-256 of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
        return File(size=stream.tell(), sha256=digest.hexdigest())


def describe_files(folder: Path) -> dict[str, File]:
    """Size and SHA-256 of every file of a bundle folder except the manifest, sorted by name."""
    return {name: describe_file(folder / name) for name in file_sizes(folder) if name != FILE_NAME}


def write(manifest: Manifest, folder: Path) -> Path:
    """Writes `manifest.json` into a bundle folder, whole or not at all, in today's version, and returns its path."""
    path = folder / FILE_NAME
    temporary = folder / f"{FILE_NAME}.tmp"
    text = json.dumps({**manifest.model_dump(mode="json"), "version": VERSION}, indent=2, ensure_ascii=False) + "\n"
    with temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    return path


def read(path: Path) -> Manifest:
    """Reads a manifest: a bundle folder or the JSON file itself.

    Raises:
        UserError: It is missing, no JSON, of an unknown version, or a field is wrong (named).
    """
    if path.is_dir():
        path = path / FILE_NAME
        if not path.is_file():
            raise UserError(f"{path.parent} is no bundle: it has no {FILE_NAME}.")
    try:
        size = path.stat().st_size
        if size > MAX_MANIFEST_BYTES:
            raise UserError(f"{path} has {size} bytes, and no manifest is larger than {MAX_MANIFEST_BYTES}.")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    return parse(data, str(path))


def parse(data: bytes, name: str) -> Manifest:
    """The manifest in some bytes; `name` says in messages where they came from."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is no valid JSON ({error}).") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = repr(content.get("format")) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise UserError(f"{name} is no bundle manifest: 'format' must be '{FORMAT}', found {found}.")
    version = content.get("version")
    if type(version) is not int or version not in READABLE:  # True is 1 as well
        raise UserError(
            f"{name} has version {version!r}, and this et_pipeline reads versions 1 to {VERSION}: "
            "install the et_pipeline that made the bundle, or make the bundle again."
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "manifest"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{name}: field '{field}' is wrong: {message}{more}.") from error


def check_files(folder: Path, manifest: Manifest) -> None:
    """Checks that a folder holds exactly the files of its manifest, each with its size and SHA-256.

    Raises:
        UserError: A file is missing, too many, truncated or altered (named).
    """
    check_sizes(file_sizes(folder), manifest, str(folder))
    for name, expected in manifest.files.items():
        found = describe_file(folder / name).sha256
        if found != expected.sha256:
            raise UserError(
                f"{folder}: '{name}' was altered: its SHA-256 is {found[:12]}…, and the manifest says "
                f"{expected.sha256[:12]}…."
            )


def check_sizes(sizes: Mapping[str, int], manifest: Manifest, where: str) -> None:
    """Checks names and sizes of a bundle's files (folder or archive) against its manifest."""
    for name, expected in manifest.files.items():
        if name not in sizes:
            raise UserError(f"{where}: '{name}' is missing, and the manifest lists it.")
        if sizes[name] != expected.size:
            what = "truncated" if sizes[name] < expected.size else "too long"
            raise UserError(
                f"{where}: '{name}' is {what}: it has {sizes[name]} bytes, and the manifest says {expected.size}."
            )
    for name in sorted(sizes):
        if name not in manifest.files and name != FILE_NAME:
            raise UserError(f"{where}: '{name}' is not listed in the manifest.")


def file_sizes(folder: Path) -> dict[str, int]:
    """Size of every file below a folder, by name; sorted.

    A link or device is refused: what it leads to can change or never end.
    """
    sizes = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            continue
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{folder}: '{name}' is a link or a device, and a bundle holds plain files only.")
        sizes[name] = status.st_size
    return sizes


if __name__ == "__main__":
    SCHEMA_PATH.write_text(json_schema(), encoding="utf-8")

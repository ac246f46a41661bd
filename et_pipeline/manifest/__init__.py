"""The bundle's manifest: what `manifest.json` says, and how it is written, read and checked against the files.

The classes are the contract with the Android app; `document.Manifest` is the whole, and the others are its parts.
"""

from et_pipeline.manifest.adapter import Adapter, AdapterQuality
from et_pipeline.manifest.chat import Chat, Sample, Sampling, Task
from et_pipeline.manifest.cost import EmbeddingSpeed, Memory, Percentiles, Speed, StageCost
from et_pipeline.manifest.document import FILE_NAME, FORMAT, READABLE, SCHEMA_PATH, VERSION, Manifest, json_schema
from et_pipeline.manifest.embedding import Embedding, Similarity
from et_pipeline.manifest.fields import check_name
from et_pipeline.manifest.files import check_files, check_sizes, describe_file, describe_files, file_sizes
from et_pipeline.manifest.on_disk import MAX_MANIFEST_BYTES, parse, read, write
from et_pipeline.manifest.program import ProgramInfo, Rounded, SourceQuantization
from et_pipeline.manifest.quality import (
    Agreement,
    Check,
    Comparison,
    EmbeddingAgreement,
    EmbeddingComparison,
    Gate,
    GreedyAgreement,
    Interval,
    Perplexity,
    Quality,
    TaskScore,
    TextQuality,
    TextScore,
    Unadapted,
    WaysOfFeeding,
    Witness,
)
from et_pipeline.manifest.tokenizer import Tokenizer, TokenizerParity
from et_pipeline.manifest.what import Adaptation, File, Source, What, portable_source

__all__ = [
    "FILE_NAME",
    "FORMAT",
    "MAX_MANIFEST_BYTES",
    "READABLE",
    "SCHEMA_PATH",
    "VERSION",
    "Adaptation",
    "Adapter",
    "AdapterQuality",
    "Agreement",
    "Chat",
    "Check",
    "Comparison",
    "Embedding",
    "EmbeddingAgreement",
    "EmbeddingComparison",
    "EmbeddingSpeed",
    "File",
    "Gate",
    "GreedyAgreement",
    "Interval",
    "Manifest",
    "Memory",
    "Percentiles",
    "Perplexity",
    "ProgramInfo",
    "Quality",
    "Rounded",
    "Sample",
    "Sampling",
    "Similarity",
    "Source",
    "SourceQuantization",
    "Speed",
    "StageCost",
    "Task",
    "TaskScore",
    "TextQuality",
    "TextScore",
    "Tokenizer",
    "TokenizerParity",
    "Unadapted",
    "WaysOfFeeding",
    "What",
    "Witness",
    "check_files",
    "check_name",
    "check_sizes",
    "describe_file",
    "describe_files",
    "file_sizes",
    "json_schema",
    "parse",
    "portable_source",
    "read",
    "write",
]

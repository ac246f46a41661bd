"""Writes the config.json of a GGUF file's metadata, as transformers reads them, and what it passes over."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from et_pipeline.checkpoints.gguf import keys
from et_pipeline.checkpoints.gguf.header import value_of
from et_pipeline.errors import UserError
from et_pipeline.upstream.gguf_reader import opened_once

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderField

MOST_VALUES = 1000  # of a field that is a number per layer
ROPE_FACTORS = "rope_freqs.weight"
# transformers reads these, and takes what the file says of single layers for all of them, or passes it over.
_LAYERS_DIFFER = ("gemma4", "lfm2")
_LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def write_config(path: Path, reader: GGUFReader, architecture: str, out: Path) -> None:
    """Write config.json; refuse what it cannot say."""
    from transformers import AutoConfig
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    whose = f"{path} holds a model of architecture {architecture}, whose"
    instead = "point model.source at its original checkpoint"
    if architecture in _LAYERS_DIFFER:
        raise UserError(f"{whose} layers differ from each other, so its GGUF form cannot be converted; {instead}")
    try:
        with opened_once(reader):
            found = load_gguf_checkpoint(str(path), return_tensors=False)["config"]
        config = AutoConfig.for_model(**found)
    except ValueError as error:
        if "not supported yet" not in str(error) and "nrecognized model" not in str(error):
            raise
        raise UserError(f"{whose} GGUF form transformers cannot convert; {instead}") from error
    metadata = {key: field.contents() for key, field in reader.fields.items() if not _is_long(field)}
    keys.check_keys(path, architecture, metadata)
    values = config.to_dict()
    keys.carry(path, architecture, metadata, values)
    scaling = _llama3_rope(path, reader, architecture)
    if scaling:
        values["rope_parameters"] = {**(values.get("rope_parameters") or {}), **scaling}
    values = _short(values)
    (out / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _short(value: Any) -> Any:
    """The decimals that were meant: a GGUF file keeps 1e-06 as the float32 nearest to it."""
    if isinstance(value, dict):
        return {key: _short(each) for key, each in value.items()}
    if isinstance(value, float) and float(np.float32(value)) == value:
        return float(str(np.float32(value)))
    return value


def _is_long(field: ReaderField) -> bool:
    """Whether a field is a vocabulary or the like, which takes seconds to read."""
    return len(field.data) > MOST_VALUES


def _llama3_rope(path: Path, reader: GGUFReader, architecture: str) -> dict[str, Any]:
    """Llama 3's change of rotary frequencies for long contexts, which transformers' tables pass over."""
    stored = next((tensor for tensor in reader.tensors if tensor.name == ROPE_FACTORS), None)
    if stored is None:
        return {}
    # Llama 3.1 and later: the file holds the finished divisors, from which the one free parameter is read back.
    divisors = np.asarray(stored.data, np.float32).ravel()
    theta = value_of(reader, f"{architecture}.rope.freq_base") or 10000.0
    factor = float(divisors.max())
    if not np.allclose(divisors, _llama3_divisors(len(divisors), theta, factor), rtol=1e-3):
        raise UserError(
            f"{path} scales its rotary positions by {ROPE_FACTORS} in a way other than Llama 3's, which cannot be "
            "converted; point model.source at its original checkpoint"
        )
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3_ROPE}


def _llama3_divisors(count: int, theta: float, factor: float) -> np.ndarray[Any, Any]:
    low, high = _LLAMA3_ROPE["low_freq_factor"], _LLAMA3_ROPE["high_freq_factor"]
    turns = _LLAMA3_ROPE["original_max_position_embeddings"] * theta ** (-np.arange(count) / count) / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)

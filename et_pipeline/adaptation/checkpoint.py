"""A float checkpoint in memory, and back in Hugging Face layout with all that lies beside its weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.checkpoints import witness
from et_pipeline.checkpoints.config import FILE as CONFIG
from et_pipeline.checkpoints.files import PATTERNS
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.layout import INDEX
from et_pipeline.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_OTHER_TOKENIZERS = ("tokenizer.model", "vocab.*", "merges.txt", "added_tokens.json", "spiece.model")
_WEIGHTS = ("*.safetensors", INDEX, CONFIG)


def load(folder: Path, what: str) -> PreTrainedModel:
    """The model as float32 by transformers' own loading, without gradients; a tied head stays tied.

    Args:
        folder: the checkpoint.
        what: is to be done with it, for messages.

    Raises:
        UserError: its weights are quantized, or it is more than a language model.
    """
    source = Folder(folder)
    if source.contents.packed:
        raise UserError(
            f"{folder} is quantized ({source.contents.form}), and {what} needs the float weights; take those"
        )
    model: Any = witness.load_original(folder)[0]
    if model.config.get_text_config() is not model.config:
        raise UserError(f"{folder} is a {model.config.model_type}, of more than text, which does not go with {what}")
    witness.use_sdpa(model)
    return model


def save(model: Any, source: Path, out: Path) -> None:
    """Write a model, and copy what its source has beside weights and configuration.

    Args:
        model: of transformers.
        source: the checkpoint that it was made of.
        out: a folder, made if it is not there.
    """
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    copy_beside(source, out)


def copy_beside(source: Path, out: Path) -> None:
    """Copy what a checkpoint has beside weights and configuration."""
    for pattern in (*PATTERNS, *_OTHER_TOKENIZERS):
        for path in source.glob(pattern):
            if not any(path.match(each) for each in _WEIGHTS):
                shutil.copy(path, out / path.name)


def parameters(config: PreTrainedConfig) -> int:
    """How many a model of a configuration has; those of a tied head once."""
    return sum(each.numel() for each in empty(config).parameters())


def empty(config: PreTrainedConfig) -> PreTrainedModel:
    """A model without weights, as transformers makes it of a configuration."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        made: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return made

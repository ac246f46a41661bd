"""A checkpoint's model without its weights, as config.json describes it, by transformers' own classes."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Container
from importlib import metadata
from typing import TYPE_CHECKING, Any

from et_pipeline.checkpoints.config import FILE, culprit, reason, unknown_keys
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.lacks import what_lacks
from et_pipeline.checkpoints.pooling import read_pooling
from et_pipeline.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

_DECODERS = ("sliding_window", "layer_types", "attn_logit_softcapping", "use_bidirectional_attention")


def build_skeleton(folder: Folder, as_stored: bool = False) -> tuple[PreTrainedModel, dict[str, str]]:
    """Build the model of a config.json on the meta device: one that embeds with its linear layers, others with a head.

    Args:
        folder: only its config.json counts, and sentence-transformers' files.
        as_stored: name and shape the tensors as a checkpoint does; otherwise fused linears are split, as everything
            that computes with the model wants them.

    Returns:
        The model, and for a tied head {head's tensor name: the embedding's tensor name to fill it from}.

    Raises:
        UserError: config.json is missing, unreadable, or of an unknown family.
    """
    from et_pipeline.models.families import adapt

    config = transformers_config(folder)
    text = config.get_text_config()
    was_tied = bool(getattr(config, "tie_word_embeddings", False) or getattr(text, "tie_word_embeddings", False))
    # Embedding and head are quantized differently, so they cannot stay one tensor.
    config.tie_word_embeddings = text.tie_word_embeddings = False
    model = _empty_model(folder, config)
    if folder.embeds:
        if hasattr(model, "pooler"):
            model.pooler = None
        config.use_cache = False  # a text goes through in one call
        _add_dense(folder, model)
        if not as_stored:
            adapt(model)
        return model, {}
    tied = {}
    if was_tied:
        names = {id(module): name for name, module in model.named_modules()}
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        tied[f"{names[id(head)]}.weight"] = f"{names[id(embedding)]}.weight"
    if not as_stored:
        adapt(model)
    return model, tied


def _add_dense(folder: Folder, model: PreTrainedModel) -> None:
    """Give a model the linear layers that come behind its pooling, so that they are read and quantized like its own."""
    from torch import nn

    from et_pipeline.models.encoder import DENSE

    width, layers = model.config.get_text_config().hidden_size, []
    for each in read_pooling(folder).dense:
        if each.inputs != width:
            raise UserError(
                f"{folder.path / each.folder} takes vectors of {each.inputs} numbers, and those before it have {width}"
            )
        layers.append(nn.Linear(each.inputs, each.outputs, each.bias, device="meta"))
        width = each.outputs
    if layers:
        model.add_module(DENSE, nn.ModuleList(layers))


def places(folder: Folder, model: PreTrainedModel, stored: Container[str]) -> Callable[[str], str]:
    """What gives the name in a checkpoint of a tensor of `build_skeleton`'s model.

    A model that embeds has its tensors' names with or without those of the one with a head around it.

    Args:
        folder: the checkpoint.
        model: its skeleton.
        stored: the names of its tensors.
    """
    if not folder.embeds:
        return lambda name: name
    from et_pipeline.models.encoder import DENSE

    prefix, dense = f"{model.base_model_prefix}.", read_pooling(folder).dense

    def find(name: str) -> str:
        part, _, rest = name.partition(".")
        if part == DENSE and dense:
            number, _, own = rest.partition(".")
            return f"{dense[int(number)].folder}/linear.{own}"
        return prefix + name if name not in stored and prefix + name in stored else name

    return find


def transformers_config(folder: Folder) -> PreTrainedConfig:
    """The configuration of a checkpoint as the class of its family in transformers.

    Raises:
        UserError: config.json is missing, unreadable, or of an unknown family.
    """
    from transformers import PreTrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    content = copy.deepcopy(folder.config)  # transformers changes what it is given
    where, kind = folder.path / FILE, content.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise UserError(
            f"{where} is not a model config that transformers {metadata.version('transformers')} knows: it has "
            f"model_type={kind!r}; code of the checkpoint's own is never run"
        )
    content.pop("quantization_config", None)  # its weights become floats before they get into the model
    for values in (content, content.get("text_config", {})):
        _drop_unread(values)

    def build(values: dict[str, Any]) -> Any:
        made: Any = CONFIG_MAPPING[kind].from_dict(values)
        if not isinstance(made.get_text_config(), PreTrainedConfig):
            raise ValueError(f"{kind} has no such part")
        return made

    try:
        config = build(dict(content))
    except Exception as error:
        found = culprit(content, build)
        raise UserError(f"{where} is not a model config: {f'{found}: ' if found else ''}{reason(error)}") from error
    lacking = what_lacks(config.to_dict())  # which its class may say where the file does not
    if lacking is not None:
        raise UserError(f"{where} describes a model that {lacking}")
    text = config.get_text_config()
    if getattr(text, "pad_token_id", None) is not None and not 0 <= text.pad_token_id < text.vocab_size:
        text.pad_token_id = None  # the family's usual one, which this vocabulary does not have
    return config


def _drop_unread(values: dict[str, Any]) -> None:
    """Take out what our decoder reads of every config, where the family's own model does not read it.

    transformers' config keeps any key, and its caches believe these too.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = values.get("model_type")
    if kind in CONFIG_MAPPING:
        for key in {*_DECODERS} - {field.name for field in dataclasses.fields(CONFIG_MAPPING[kind])}:
            values.pop(key, None)


def config_warnings(folder: Folder) -> list[str]:
    """Keys of config.json that mean nothing to its family's class, a sentence for all of them."""
    config, content = transformers_config(folder), folder.config
    parts = [(config, content)]
    if "text_config" in content:
        parts.append((config.get_text_config(), content["text_config"]))
    names = []
    for own, given in parts:
        known = {field.name for field in dataclasses.fields(own)} | set(own.attribute_map)
        names += unknown_keys(given, frozenset(known))
    if folder.senses:
        found = [
            f"{folder.path / FILE} describes a model that also sees or hears ({', '.join(folder.senses)}); its "
            "language model alone is used"
        ]
    else:
        found = []
    if not names:
        return found
    return [
        *found,
        f"{folder.path / FILE} has {', '.join(names)}, which transformers' {config.model_type} does not know; "
        "that is passed over, as transformers does",
    ]


def _empty_model(folder: Folder, config: PreTrainedConfig) -> PreTrainedModel:
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    kind, what = (AutoModel, "encoder") if folder.embeds else (AutoModelForCausalLM, "text-generation model")

    def build(configured: PreTrainedConfig) -> PreTrainedModel:
        with torch.device("meta"):
            model: PreTrainedModel = kind.from_config(configured, dtype=torch.float32)
        return model

    def small(values: dict[str, Any]) -> PreTrainedModel:
        return build(type(config).from_dict({**values, "num_hidden_layers": 1, "layer_types": None}))

    try:
        return build(config)
    except MemoryError:
        raise
    except Exception as error:
        found = culprit(folder.config, small)
        told = f"{found}: " if found else ""
        raise UserError(f"{folder.path / FILE}: no {what} can be built from it: {told}{reason(error)}") from error


def init_weights(model: PreTrainedModel, module: nn.Module) -> None:
    """Initialize one module as its family does; a model within a model does its own, as in transformers."""
    own: Any = module if hasattr(module, "_init_weights") else model
    own._init_weights(module)


def fill_computed_buffers(model: PreTrainedModel) -> None:
    """Compute the unsaved buffers of a skeleton (rotary frequencies, embedding scales), as transformers does.

    Raises:
        UserError: the family has a buffer that its initializer does not set.
    """
    import torch

    for module in model.modules():
        names = [name for name in module._non_persistent_buffers_set if module._buffers.get(name) is not None]
        for name in names:
            empty = module._buffers[name]
            # NaN, or of integers such as positions -1, marks what the family's own initializer does not set.
            if empty.is_floating_point():
                module._buffers[name] = torch.full(empty.shape, math.nan, dtype=torch.float32)
            else:
                module._buffers[name] = torch.full(empty.shape, -1, dtype=empty.dtype)
        if names:
            init_weights(model, module)
        for name in names:
            value = module._buffers[name]
            if value.is_floating_point() and bool(value.isinf().any()):
                raise UserError(
                    f"config.json makes {type(module).__name__}.{name} infinite; its rotary settings or sizes are wrong"
                )
            if bool(value.isnan().any() if value.is_floating_point() else (value < 0).any()):
                raise UserError(
                    f"{type(module).__name__}.{name} is an unsaved buffer that its family does not initialize, "
                    "so this family cannot be loaded"
                )

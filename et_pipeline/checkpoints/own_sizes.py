"""What configs of single families say beside the sizes of all, checked at the door: `states` and `gemma` compute of it.

transformers' classes refuse some of it too, when a run begins; a plan asks none of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from et_pipeline import gemma
from et_pipeline.errors import UserError
from et_pipeline.states import kinds_of_layers

Config = Mapping[str, Any]
# Integers and the least of each. Those that may be null as well are listed below.
_LEAST = {
    "lfm2": {"conv_L_cache": 1, "block_multiple_of": 1, "block_ff_dim": 1},
    "qwen3_5_text": {
        "linear_num_key_heads": 1,
        "linear_num_value_heads": 1,
        "linear_key_head_dim": 1,
        "linear_value_head_dim": 1,
        "linear_conv_kernel_dim": 1,
        "full_attention_interval": 1,
    },
    "granitemoehybrid": {
        "mamba_n_heads": 1,
        "mamba_d_state": 1,
        "mamba_n_groups": 1,
        "mamba_d_conv": 1,
        "mamba_expand": 1,
        "shared_intermediate_size": 1,
    },
    gemma.GEMMA3N: {
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 1,
        "altup_num_inputs": 1,
        "altup_active_idx": 0,
        "laurel_rank": 1,
    },
    gemma.GEMMA4: {
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 0,
        "global_head_dim": 1,
        "num_global_key_value_heads": 1,
    },
}
_NULL = ("block_ff_dim", "num_global_key_value_heads")


def check_own_sizes(config: Config, where: str) -> None:
    """Refuse what no model of a family can have.

    Args:
        config: the content of a config.json, or its text_config.
        where: what to call it in a message.

    Raises:
        UserError: names the key, the value and what would work.
    """
    name = str(config.get("model_type"))
    for key, least in _LEAST.get(name, {}).items():
        value = config.get(key, least)
        if (value is None and key in _NULL) or (type(value) is int and value >= least):
            continue
        shown, null = json.dumps(value, ensure_ascii=False), " or null" if key in _NULL else ""
        raise UserError(f"{where} has {key}={shown}, expected an integer from {least} on{null}")
    _check_kinds(config, name, where)
    for key, of in _WHOLE_TIMES.get(name, {}).items():
        many, few = config.get(key, 1), config.get(of, 1)
        if key in config and of in config and many % few:
            raise UserError(f"{where} has {key}={many}, which is no multiple of {of}={few}; transformers computes none")
    if name in gemma.KINDS:
        _check_gemma(config, name, where)


# Of which there have to be whole times as many.
_WHOLE_TIMES = {
    "qwen3_5_text": {"linear_num_value_heads": "linear_num_key_heads"},
    "granitemoehybrid": {"mamba_n_heads": "mamba_n_groups"},
}


def _check_kinds(config: Config, name: str, where: str) -> None:
    known = kinds_of_layers(name)
    for key in ("layer_types", "layers_block_type"):
        for kind in config.get(key) or () if known and isinstance(config.get(key), list) else ():
            if kind not in known:
                raise UserError(
                    f"{where} has a layer of kind {json.dumps(kind)} in {key}, and those of family {name} are "
                    f"{', '.join(known)}"
                )


def _check_gemma(config: Config, name: str, where: str) -> None:
    layers, late = config.get("num_hidden_layers"), gemma.late_layers(config)
    kinds = gemma.kinds(config, layers) if isinstance(layers, int) else None
    if kinds and late:
        first = len(kinds) - late
        alone = next((kind for kind in kinds[max(0, first) :] if kind not in kinds[: max(0, first)]), None)
        if alone is not None:
            raise UserError(
                f"{where} has num_kv_shared_layers={late}, and before these no layer of {layers} is one of "
                f"{alone}, whose keys and values they would read; lower it"
            )
    active, versions = config.get("altup_active_idx", 0), config.get("altup_num_inputs", 4)
    if name == gemma.GEMMA3N and active >= versions:
        raise UserError(f"{where} has altup_active_idx={active}, expected less than altup_num_inputs={versions}")
    vocabulary, rows = config.get("vocab_size"), config.get("vocab_size_per_layer_input")
    width = config.get("hidden_size_per_layer_input", 256)
    if name == gemma.GEMMA4 and width and isinstance(vocabulary, int) and rows is not None and rows < vocabulary:
        raise UserError(
            f"{where} has vocab_size_per_layer_input={rows}, fewer than vocab_size={vocabulary}: there would be tokens "
            "without a row of per-layer embeddings"
        )
    if name == gemma.GEMMA4 and not width and late:
        raise UserError(
            f"{where} has num_kv_shared_layers={late} with hidden_size_per_layer_input=0, which transformers cannot "
            "compute; the sizes without per-layer embeddings have num_kv_shared_layers=0"
        )

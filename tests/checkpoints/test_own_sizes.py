"""What single families' configs say beside the sizes of all: refused at the door, so that a plan refuses it too."""

import pytest

from et_pipeline.architecture import read_architecture
from et_pipeline.checkpoints.config import put_right
from et_pipeline.errors import UserError

SLIDES, SEES = "sliding_attention", "full_attention"
SIZES = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
}
FAMILIES = {
    "lfm2": {"layer_types": ["conv", SEES] * 2},
    "qwen3_5_text": {"linear_num_key_heads": 2, "linear_num_value_heads": 4},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"] * 2,
        "num_local_experts": 0,
        "shared_intermediate_size": 128,
        "mamba_n_heads": 8,
    },
    "gemma3n_text": {"layer_types": [SLIDES, SEES] * 2, "num_kv_shared_layers": 2, "vocab_size_per_layer_input": 512},
    "gemma4_text": {"layer_types": [SLIDES, SEES] * 2, "num_kv_shared_layers": 2, "vocab_size_per_layer_input": 512},
}


def read(family, **changes):
    config = {"model_type": family, **SIZES, **FAMILIES[family], **changes}
    return read_architecture(put_right(config, "config.json"), "config.json")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_has_is_taken(family):
    assert read(family).parameters > 100_000


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("lfm2", {"conv_L_cache": "3"}, 'conv_L_cache="3", expected an integer from 1 on'),
        ("lfm2", {"conv_L_cache": None}, "conv_L_cache=null"),
        ("lfm2", {"conv_L_cache": 0}, "conv_L_cache=0"),
        ("lfm2", {"conv_L_cache": True}, "conv_L_cache=true"),
        ("lfm2", {"block_ff_dim": 0}, "block_ff_dim=0, expected an integer from 1 on or null"),
        ("qwen3_5_text", {"linear_num_value_heads": None}, "linear_num_value_heads=null"),
        ("qwen3_5_text", {"linear_key_head_dim": "16"}, 'linear_key_head_dim="16"'),
        ("qwen3_5_text", {"full_attention_interval": 0}, "full_attention_interval=0"),
        ("granitemoehybrid", {"mamba_n_heads": 0}, "mamba_n_heads=0"),
        ("granitemoehybrid", {"mamba_d_conv": None}, "mamba_d_conv=null"),
        ("granitemoehybrid", {"mamba_d_state": 1.5}, "mamba_d_state=1.5"),
        ("gemma3n_text", {"num_kv_shared_layers": -1}, "num_kv_shared_layers=-1, expected an integer from 0 on"),
        ("gemma3n_text", {"num_kv_shared_layers": "2"}, 'num_kv_shared_layers="2"'),
        ("gemma4_text", {"global_head_dim": 0}, "global_head_dim=0"),
        # Heads that do not go into each other.
        ("qwen3_5_text", {"linear_num_key_heads": 3}, "linear_num_value_heads=4, which is no multiple of linear_num_k"),
        ("qwen3_5_text", {"linear_num_key_heads": 8}, "linear_num_value_heads=4, which is no multiple of linear_num_k"),
        ("granitemoehybrid", {"mamba_n_groups": 3}, "mamba_n_heads=8, which is no multiple of mamba_n_groups=3"),
        # Kinds of layers that the family lacks, though another has them.
        (
            "lfm2",
            {"layer_types": ["mamba", SEES] * 2},
            'kind "mamba" in layer_types, and those of family lfm2 are conv',
        ),
        ("lfm2", {"layer_types": [SLIDES, SEES] * 2}, 'kind "sliding_attention"'),
        ("qwen3_5_text", {"layer_types": ["conv", SEES] * 2}, 'kind "conv"'),
        ("granitemoehybrid", {"layer_types": None, "layers_block_type": ["wave"] * 4}, '"wave" in layers_block_type'),
        # Caches that nobody writes, and tokens without a row.
        ("gemma3n_text", {"num_kv_shared_layers": 3}, "no layer of 4 is one of full_attention, whose keys and values"),
        ("gemma4_text", {"num_kv_shared_layers": 4}, "no layer of 4 is one of sliding_attention"),
        ("gemma4_text", {"num_kv_shared_layers": 9}, "num_kv_shared_layers=9"),
        ("gemma3n_text", {"altup_active_idx": 4}, "altup_active_idx=4, expected less than altup_num_inputs=4"),
        ("gemma4_text", {"vocab_size_per_layer_input": 500}, "fewer than vocab_size=512"),
        ("gemma4_text", {"hidden_size_per_layer_input": 0}, "num_kv_shared_layers=2 with hidden_size_per_layer_inp"),
        # Mixtures of experts, also where the family has dense models.
        ("gemma4_text", {"enable_moe_block": True, "num_experts": 4}, "is a mixture of experts .num_experts=4"),
        ("granitemoehybrid", {"num_local_experts": 1}, "is a mixture of experts .num_local_experts=1"),
    ],
)
def test_what_no_model_of_a_family_has_is_refused(family, changes, message):
    with pytest.raises(UserError, match=message):
        read(family, **changes)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("lfm2", {"block_ff_dim": None}),
        ("qwen3_5_text", {"full_attention_interval": 2}),
        ("gemma3n_text", {"num_kv_shared_layers": 0, "vocab_size_per_layer_input": 300}),  # others have no row
        ("gemma4_text", {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}),
        ("gemma4_text", {"num_global_key_value_heads": None, "num_experts": None, "enable_moe_block": False}),
    ],
)
def test_what_is_unusual_and_right_is_taken(family, changes):
    assert read(family, **changes).layers == 4

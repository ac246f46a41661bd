"""Shapes and windows from config.json alone, against transformers' own models and against real checkpoints."""

import json
import math

import pytest
import yaml

from et_pipeline import CONF, tiny_assistant
from et_pipeline.architecture import (
    FAMILIES,
    check_context,
    layer_windows,
    longest_context,
    read_architecture,
    read_sizes,
)
from et_pipeline.checkpoints.facts import read_facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.layout import read_layout
from et_pipeline.checkpoints.random_weights import _write_sentence_files
from et_pipeline.checkpoints.skeleton import build_skeleton
from et_pipeline.errors import UserError
from et_pipeline.settings import Sentence

# As published, or counted over the tensors of the published checkpoints; a tied head once.
PARAMETERS = {
    "embeddinggemma_300m": 302_863_104 + 2 * 768 * 3072,  # with the layers behind the pooling
    "gemma3_1b": 999_885_952,
    "gemma3_270m": 268_098_176,
    # Counted by transformers' own classes: the text part, and in Gemma 4 a factor of each layer.
    "gemma3n_e2b": 4_435_182_688,
    "gemma3n_e4b": 6_835_235_568,
    "gemma4_e2b": 4_628_569_379,
    "gemma4_e4b": 7_463_013_418,
    "granite4_h_350m": 340_332_224,
    "lfm2_1_2b": 1_170_340_608,
    "lfm2_350m": 354_483_968,
    "lfm2_700m": 742_489_344,
    "llama2_7b": 6_738_415_616,
    "llama3_2_1b": 1_235_814_400,
    "llama3_2_3b": 3_212_749_824,
    "minilm": 22_713_216 - 384 * 385,  # without the pooler, which sentence embeddings do not use
    "mistral_7b_v01": 7_241_732_096,
    "mistral_7b_v03": 7_248_023_552,
    "modernbert_embed_base": 149_014_272,
    "phi3_mini_128k": 3_821_079_552,
    "phi3_mini_4k": 3_821_079_552,
    "phi4_mini": 3_836_021_760,
    "qwen2_5_0_5b": 494_032_768,
    "qwen3_5_0_8b": 752_393_024,  # of the language model; the published files also hold what sees
    "qwen3_5_2b": 1_881_825_088,
    "qwen3_5_4b": 4_205_751_296,
    "qwen3_0_6b": 596_049_920,
    "qwen3_embedding_0_6b": 595_776_512,
    "qwen3_1_7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "smollm2_135m": 134_515_008,
    "smollm2_360m": 361_821_120,
    "smollm3_3b": 3_075_098_624,
}

SHARED = {
    "num_hidden_layers": 8,
    "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": 300,
    "hidden_size_per_layer_input": 32,
}
# The smallest models of each kind of layer, with the switches that add tensors.
CHECKPOINTS = {
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 0,
        "mamba_n_heads": 8,
        "mamba_d_head": 32,
        "mamba_d_state": 16,
        "mamba_proj_bias": True,
        "attention_bias": True,
        "tie_word_embeddings": True,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "conv_bias": True, "block_multiple_of": 32},
    "llama": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "ministral": {"sliding_window": 32, "layer_types": ["full_attention", "sliding_attention"]},
    "mistral": {"tie_word_embeddings": False, "sliding_window": 32},
    "phi3": {"tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1},
    "qwen3": {"attention_bias": True},
    "qwen3_5_text": {"num_hidden_layers": 4, "linear_num_value_heads": 4, "linear_num_key_heads": 2},
    "gemma": {},
    "gemma2": {"sliding_window": 32},
    "gemma3_text": {"attention_bias": True, "num_hidden_layers": 7},
    "gemma3n_text": {"attention_bias": True, **SHARED, "laurel_rank": 32},
    "gemma4_text": {
        **SHARED,
        "use_double_wide_mlp": True,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
    },
    "smollm3": {"use_sliding_window": True, "sliding_window": 32, "num_hidden_layers": 5, "mlp_bias": True},
}


def named(name):
    return yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())


def architecture_of(name):
    return named(name)["architecture"]


def read_named(name):
    model = named(name)
    dense = model.get("sentence", {}).get("dense", ())
    return read_architecture(model["architecture"], name, embeds=model["task"] == "embedding", dense=dense)


def test_every_named_model_is_checked():
    known = {path.stem for path in (CONF / "model").glob("*.yaml") if "architecture:" in path.read_text()}
    assert known == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_count(name):
    assert read_named(name).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_config_builds_the_same_model_in_transformers(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(architecture_of(name)))
    known = read_named(name)
    if known.encodes:
        _write_sentence_files(
            tmp_path, architecture_of(name), Sentence.model_validate_json(json.dumps(named(name).get("sentence", {})))
        )
    model, tied = build_skeleton(Folder(tmp_path))
    if known.encodes:
        assert getattr(model, "pooler", None) is None
        assert model.config.max_position_embeddings == known.max_position
        if name != "minilm":
            prefix = "" if name == "modernbert_embed_base" else "model."
            stored = {
                each if each.startswith("dense.") else prefix + each: tuple(tensor.shape)
                for each, tensor in model.state_dict().items()
            }
            assert known.shapes == stored
        assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
        return
    copies = sum(math.prod(known.embedding) for _ in tied)
    assert sum(tensor.numel() for tensor in model.state_dict().values()) - copies == PARAMETERS[name]
    assert known.tied_head == bool(tied)
    assert known.windows == windows_of(model.config)
    assert known.max_position == model.config.max_position_embeddings


def windows_of(config):
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def test_every_family_is_checked():
    assert set(CHECKPOINTS) == set(FAMILIES)


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_shapes_are_those_of_a_real_checkpoint(family, make_checkpoint):
    from transformers import AutoConfig

    folder = make_checkpoint(family, **CHECKPOINTS[family])
    config = json.loads((folder / "config.json").read_text())
    stored = {name: info.shape for name, info in read_layout(folder).items()}
    assert read_architecture(config, "config.json").shapes == stored
    assert read_architecture(config, "config.json", stored).shapes == stored
    assert layer_windows(config, config["num_hidden_layers"]) == windows_of(AutoConfig.from_pretrained(folder))
    for key in ("layer_types", "sliding_window"):  # as in older files
        config.pop(key, None)
        (folder / "config.json").write_text(json.dumps(config))
        if config["model_type"] != "ministral":  # its class asks for the kinds of layers
            expected = windows_of(AutoConfig.from_pretrained(folder))
            assert layer_windows(config, config["num_hidden_layers"]) == expected


@pytest.mark.parametrize("family", ["bert", "camembert", "roberta", "xlm-roberta"])
def test_shapes_are_those_of_a_real_encoder(family, make_checkpoint):
    folder = make_checkpoint(family, pad_token_id=1, type_vocab_size=3)
    config = json.loads((folder / "config.json").read_text())
    stored = {name: info.shape for name, info in read_layout(folder).items()}
    pooler = {name: shape for name, shape in stored.items() if name.startswith("pooler.")}
    assert len(pooler) == 2
    known = read_architecture(config, "config.json")
    assert known.shapes | pooler == stored
    assert read_architecture(config, "config.json", stored).shapes == known.shapes
    assert known.max_position == (256 if family == "bert" else 254)  # the others begin behind the padding's id


def test_shapes_of_the_built_in_model():
    config = json.loads((tiny_assistant.CHECKPOINT / "config.json").read_text())
    stored = {name: info.shape for name, info in read_layout(tiny_assistant.CHECKPOINT).items()}
    assert read_architecture(config, "config.json").shapes == stored


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_hidden_layers": None}, r"here has num_hidden_layers=None, expected a positive integer"),
        ({"hidden_size": "big"}, r"here has hidden_size='big'"),
        ({"vocab_size": True}, r"here has vocab_size=True"),
        ({"model_type": "bart"}, r"here has model_type='bart', whose tensors mode=plan does not know; it knows gemma"),
        (
            {"model_type": "mpnet"},
            r"here has model_type='mpnet', whose .* of the models that embed texts it knows bert",
        ),
    ],
)
def test_a_broken_config_is_named(change, sentence):
    with pytest.raises(UserError, match=sentence):
        read_architecture(architecture_of("smollm2_135m") | change, "here")


def test_an_unknown_family_is_read_from_its_files():
    config = architecture_of("smollm2_135m") | {"model_type": "new", "tie_word_embeddings": False}
    stored = {"model.embed_tokens.weight": (64, 32), "x.inv_freq": (4,), "model.layers.0.rotary_emb.inv_freq": (4,)}
    known = read_architecture(config, "here", stored)
    assert known.parameters == 64 * 32 + 4
    assert known.tied_head
    assert not read_architecture(config, "here", {"wte.weight": (64, 32), "lm_head.weight": (64, 32)}).tied_head
    with pytest.raises(UserError, match=r"none of the embeddings embed_tokens\.weight"):
        read_architecture(config, "here", {"word_embeddings.weight": (64, 32)})


def test_sizes_by_the_names_that_some_families_have():
    names = {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 128, "vocab_size": 100, "model_type": "gpt2"}
    found = read_sizes(names, "here")
    assert (found.layers, found.head_dim, found.hidden_size, found.max_position) == (2, 16, 64, 128)


DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("rope", "longest"),
    [
        ({}, 512),
        ({"rope_scaling": None}, 512),
        ({"rope_parameters": DYNAMIC}, 2048),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.5}}, 1280),
        ({"rope_parameters": {"full_attention": DYNAMIC, "sliding_attention": {"rope_type": "default"}}}, 2048),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 512),
        ({"rope_parameters": {"rope_type": "dynamic"}}, 512),
    ],
)
def test_dynamic_scaling_lengthens_the_context(rope, longest):
    config = architecture_of("smollm2_135m") | {"max_position_embeddings": 512} | rope
    assert longest_context(config) == longest_context({"text_config": config}) == longest
    assert read_architecture(config, "here").max_position == longest
    check_context(longest, longest)
    with pytest.raises(UserError, match=f"max_context={longest + 1} exceeds the {longest} positions"):
        check_context(longest + 1, longest)


def test_dynamic_scaling_is_read_by_every_stage_alike(make_checkpoint):
    from transformers import AutoConfig

    folder = make_checkpoint("llama", rope_parameters=DYNAMIC, max_position_embeddings=32)
    assert read_facts(Folder(folder)).max_position == 128
    assert longest_context(json.loads((folder / "config.json").read_text())) == 128
    assert longest_context(AutoConfig.from_pretrained(folder).to_dict()) == 128

"""Write a checkpoint as a GGUF file."""

import json

import gguf as library
import numpy as np
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file

from et_pipeline import tiny_assistant

TEMPLATE = json.loads((tiny_assistant.CHECKPOINT / "tokenizer_config.json").read_text())["chat_template"]


def in_their_order(values, stem, config):
    """Rows of a Llama's queries and keys as llama.cpp has them, halves of a head interleaved; others stay."""
    if not stem.endswith(("q_proj", "k_proj")):
        return values
    heads = config["num_attention_heads" if stem.endswith("q_proj") else "num_key_value_heads"]
    return values.reshape(heads, 2, len(values) // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)


def write_gguf(
    path, checkpoint, kind=Kind.F32, split="smollm", architecture=None, edit=None, extra=None, kinds=None, part=0
):
    """What llama.cpp's converter writes: its names, its order of rotary halves, its metadata.

    Types of weights are `kinds` by name, else `kind`. Files have `part` tensors each, unless 0.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    architecture = architecture or config["model_type"]
    writer = library.GGUFWriter(path, architecture, split_max_tensors=part)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_license("apache-2.0")
    tokenizer = json.loads((tiny_assistant.CHECKPOINT / "tokenizer.json").read_text())
    specials = {token["content"] for token in tokenizer["added_tokens"]}
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token in specials else 1 for token in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)
    if extra is not None:
        extra(writer)
    names = library.get_tensor_name_map(library.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    tensors = {}
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        stem, suffix = name.rsplit(".", 1)
        values = tensor.float().numpy()
        if architecture == "llama":
            values = in_their_order(values, stem, config)
        tensors[f"{names.get_name(stem)}.{suffix}"] = values
    if edit is not None:
        edit(tensors)
    for name, values in tensors.items():
        used = (kinds or {}).get(name, kind) if values.ndim > 1 else Kind.F32
        writer.add_tensor(name, library.quantize(values, used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_family(path, checkpoint, architecture, extra=None, endianess=None):
    """A checkpoint of any family as llama.cpp's converter writes it, without a useful tokenizer.

    Args:
        path: the file to write.
        checkpoint: in Hugging Face layout.
        architecture: llama.cpp's name of the family.
        extra: more `{architecture}.*` keys, or others for those that follow from the config.
        endianess: of the file.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope)
    keys = {
        "context_length": config["max_position_embeddings"],
        "block_count": config["num_hidden_layers"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": int(head * (rope.get("partial_rotary_factor") or 1)),
        "rope.freq_base": float(rope["rope_theta"]),
        "vocab_size": config["vocab_size"],
    }
    for key, name in (("rms_norm_eps", "layer_norm_rms_epsilon"), ("norm_epsilon", "layer_norm_epsilon")):
        if key in config:
            keys[f"attention.{name}"] = config[key]
    if config.get("sliding_window"):
        keys["attention.sliding_window"] = config["sliding_window"]
    keys |= {key: config[key] for key in ("attn_logit_softcapping", "final_logit_softcapping") if config.get(key)}
    writer = library.GGUFWriter(path, architecture, **({} if endianess is None else {"endianess": endianess}))
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in (keys | (extra or {})).items():
        adders[type(value)](f"{architecture}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["<s>", "</s>", "h", "e", "he", *(f"[{n}]" for n in range(config["vocab_size"] - 5))])
    writer.add_token_types([3, 3, *([1] * (config["vocab_size"] - 2))])
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    kinds = {name: kind for kind, name in library.MODEL_ARCH_NAMES.items()}
    names = library.get_tensor_name_map(kinds[architecture], config["num_hidden_layers"])
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        stem, suffix = name.rsplit(".", 1)
        values = tensor.float().numpy()
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            count = heads if "q_proj" in name else config["num_key_value_heads"]
            values = values.reshape(count, 2, len(values) // count // 2, -1).swapaxes(1, 2).reshape(values.shape)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        writer.add_tensor(f"{names.get_name(stem)}.{suffix}", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

"""Write a checkpoint as a GGUF file."""

import json

import gguf as library
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file

from et_pipeline import tiny_assistant

TEMPLATE = json.loads((tiny_assistant.CHECKPOINT / "tokenizer_config.json").read_text())["chat_template"]


def write_gguf(path, checkpoint, kind=Kind.F32, split="smollm", architecture=None, edit=None, extra=None):
    """What llama.cpp's converter writes: its names, its order of rotary halves, its metadata."""
    config = json.loads((checkpoint / "config.json").read_text())
    architecture = architecture or config["model_type"]
    writer = library.GGUFWriter(path, architecture)
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
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            halves = values.reshape(heads, 2, values.shape[0] // heads // 2, -1)
            values = halves.swapaxes(1, 2).reshape(values.shape)
        tensors[f"{names.get_name(stem)}.{suffix}"] = values
    if edit is not None:
        edit(tensors)
    for name, values in tensors.items():
        used = kind if values.ndim > 1 else Kind.F32
        writer.add_tensor(name, library.quantize(values, used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

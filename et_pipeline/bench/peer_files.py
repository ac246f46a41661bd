"""Models with random weights in the layouts that peers read: GGUF, and Meta's own.

`python -m et_pipeline.bench.peer_files CHECKPOINT FILE` makes llama.cpp's file, in a process whose cost is measured.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from et_pipeline.checkpoints import llama_cpp

if TYPE_CHECKING:
    import numpy as np
    import torch


class Shape(NamedTuple):
    """A model with random weights: its folder in Hugging Face layout, and the content of its config.json."""

    checkpoint: Path
    config: dict[str, Any]

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return int(self.config.get("head_dim") or self.config["hidden_size"] // self.config["num_attention_heads"])

    @property
    def rope(self) -> dict[str, Any]:
        """The rotary settings, in the one form that transformers gives them."""
        from transformers import AutoConfig

        return dict(AutoConfig.from_pretrained(self.checkpoint).rope_parameters)


def write_gguf(checkpoint: Path, path: Path, exact: bool = False) -> None:
    """Write a Llama or Qwen3 checkpoint as llama.cpp's converter does, without a tokenizer.

    Args:
        checkpoint: its folder in Hugging Face layout.
        path: the file to write.
        exact: in 32 bits, not 16.
    """
    import gguf
    from safetensors import safe_open

    shape = Shape(checkpoint, json.loads((checkpoint / "config.json").read_text(encoding="utf-8")))
    config = shape.config
    arch = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3}[config["model_type"]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(shape.rope["rope_theta"])
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if exact else gguf.LlamaFileType.MOSTLY_F16)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    sources = [(name, source) for source in sorted(checkpoint.glob("*.safetensors")) for name in _names(source)]

    def values(name: str, source: Path) -> np.ndarray[Any, Any]:
        with safe_open(source, framework="pt") as stored:
            tensor = stored.get_tensor(name)
        if arch == gguf.MODEL_ARCH.LLAMA:  # of other families llama.cpp turns halves, as transformers does
            tensor = _interleaved(name, tensor, config)
        return (tensor.float() if exact or tensor.dim() == 1 else tensor.half()).numpy()

    divisors = _rope_divisors(checkpoint)
    if divisors is not None:
        writer.add_tensor_info("rope_freqs.weight", divisors.shape, divisors.dtype, divisors.nbytes)
    for name, source in sources:
        stem, suffix = name.rsplit(".", 1)
        tensor = values(name, source)
        writer.add_tensor_info(f"{names.get_name(stem)}.{suffix}", tensor.shape, tensor.dtype, tensor.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if divisors is not None:
        writer.write_tensor_data(divisors)
    for name, source in sources:
        writer.write_tensor_data(values(name, source))
    writer.close()


def _names(source: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(source, framework="pt") as stored:
        return list(stored.keys())


def _interleaved(name: str, tensor: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """Meta's and llama.cpp's order of rotary halves: pairs side by side."""
    for part, key in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
        if part in name:
            rows = tensor.shape[0]
            halves = tensor.reshape(config[key], 2, rows // config[key] // 2, -1)
            return halves.transpose(1, 2).reshape(tensor.shape).contiguous()
    return tensor


def _rope_divisors(checkpoint: Path) -> np.ndarray[Any, Any] | None:
    """What Llama 3.1 and later divide their rotary frequencies by."""
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = AutoConfig.from_pretrained(checkpoint)
    if config.rope_parameters["rope_type"] == "default":
        return None
    import numpy as np

    scaled = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config, "cpu")[0].double().numpy()
    count = len(scaled)
    return (config.rope_parameters["rope_theta"] ** (-np.arange(count) / count) / scaled).astype(np.float32)


def _make_gguf(checkpoint: Path, path: Path) -> None:
    """The child's side of making llama.cpp's file."""
    from gguf import LlamaFileType

    whole = path.with_name("f16.gguf")
    write_gguf(checkpoint, whole)
    llama_cpp.quantize(whole, path, LlamaFileType.MOSTLY_Q4_0)
    whole.unlink()


_META = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    "model.layers": "layers",
}


def write_meta_checkpoint(shape: Shape, folder: Path) -> None:
    """Write a Llama checkpoint in Meta's layout: `consolidated.pth` and `params.json`."""
    import torch
    from safetensors.torch import load_file

    config, weights = shape.config, {}
    for source in sorted(shape.checkpoint.glob("*.safetensors")):
        for name, tensor in load_file(source).items():
            own = name
            for theirs, metas in _META.items():
                own = own.replace(theirs, metas)
            weights[own] = _interleaved(name, tensor, config)
    weights.setdefault("output.weight", weights["tok_embeddings.weight"])
    torch.save(weights, folder / "consolidated.pth")
    rope = shape.rope
    params = {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "head_dim": shape.head_dim,
        "hidden_dim": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
        "norm_eps": config["rms_norm_eps"],
        "rope_theta": rope["rope_theta"],
        "use_scaled_rope": rope["rope_type"] == "llama3",
        "rope_scale_factor": int(rope.get("factor", 1)),
    }
    (folder / "params.json").write_text(json.dumps(params), encoding="utf-8")


if __name__ == "__main__":
    _make_gguf(Path(sys.argv[1]), Path(sys.argv[2]))

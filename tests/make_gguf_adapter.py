"""Write an adapter of peft as llama.cpp's convert_lora_to_gguf.py does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf as library
import numpy as np
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file

from tests.make_gguf import in_their_order


def write_gguf_adapter(
    path: Path,
    adapter: Path,
    base: Path,
    architecture: str = "llama",
    kind: Kind = Kind.F32,
    edit: Callable[[dict[str, np.ndarray]], None] | None = None,
    alpha: float | None = None,
    extra: Callable[[Any], None] | None = None,
) -> Path:
    """A folder of peft as one file, with alpha as its config says unless given."""
    model, config = (json.loads((each).read_text()) for each in (base / "config.json", adapter / "adapter_config.json"))
    arch = next(each for each, name in library.MODEL_ARCH_NAMES.items() if name == architecture)
    names = library.get_tensor_name_map(arch, model["num_hidden_layers"])
    tensors = {}
    for name, tensor in load_file(adapter / "adapter_model.safetensors").items():
        if ".base_layer." in name:
            continue
        stem, part = name.removeprefix("base_model.model.").split(".lora_")
        values, place = tensor.float().numpy(), names.get_name(stem)
        if part == "embedding_A":
            values = values.T
        elif part == "B.weight" and architecture == "llama":
            values = in_their_order(values, stem, model)
        tensors[f"{place}.weight.lora_{'a' if 'A' in part else 'b'}"] = np.ascontiguousarray(values)
    if edit is not None:
        edit(tensors)
    writer = library.GGUFWriter(path, architecture)
    writer.add_type(library.GGUFType.ADAPTER)
    writer.add_string(library.Keys.Adapter.TYPE, "lora")
    writer.add_float32(library.Keys.Adapter.LORA_ALPHA, float(config["lora_alpha"] if alpha is None else alpha))
    if extra is not None:
        extra(writer)
    for name, values in tensors.items():
        if values.dtype != np.float32:
            writer.add_tensor(name, values)
            continue
        used = kind if values.ndim > 1 and values.shape[-1] % 32 == 0 else Kind.F32
        writer.add_tensor(name, library.quantize(values, used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

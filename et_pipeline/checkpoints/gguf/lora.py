"""Turn a LoRA adapter that llama.cpp's converter has written as a GGUF file into a folder as peft saves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.gguf.header import check_magic, open_file, trusting, value_of
from et_pipeline.checkpoints.gguf.tensors import check_types, in_order, names_in_file
from et_pipeline.checkpoints.skeleton import build_skeleton
from et_pipeline.errors import UserError

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

_HUB = "https://huggingface.co/"
_PARTS = ("lora_a", "lora_b")
_KNOWN = ("adapter.type", "adapter.lora.alpha", "adapter.lora.task_name", "adapter.lora.prompt_prefix")
_EMBEDDING = "token_embd.weight"
#: Families by llama.cpp's name of their architecture. Of another one it is not known here whether its converter changes
#: the order of rows (it does SmolLM3's and Granite's, of which transformers has no table).
_FAMILIES = {
    "llama": ("llama", "mistral"),
    "qwen2": ("qwen2",),
    "qwen3": ("qwen3",),
    "phi3": ("phi3",),
    "gemma3": ("gemma3_text",),
}


def base_of(path: Path) -> str | None:
    """The model that an adapter was trained on, as its file names it: a hub id, or a name.

    Raises:
        UserError: the file is no GGUF file, damaged, or no LoRA adapter.
    """
    reader = _open(path)
    with trusting(path, "metadata"):
        url, name = (value_of(reader, f"general.base_model.0.{key}") for key in ("repo_url", "name"))
        return url.removeprefix(_HUB).strip("/") if url and url.startswith(_HUB) else name or None


def write_peft(path: Path, base: Folder, out: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors of a GGUF adapter.

    As in llama.cpp, each product counts alpha / rank, or once if the file has no alpha.

    Args:
        path: the file.
        base: the model that it is for; only its config.json counts.
        out: an existing folder.

    Raises:
        UserError: the file is damaged, or does not fit the base.
    """
    import torch
    from safetensors.torch import save_file

    reader = _open(path)
    architecture = str(value_of(reader, "general.architecture"))
    family = base.config.get("model_type")
    if architecture not in _FAMILIES:
        raise UserError(
            f"{path} is for a model of architecture {architecture}, whose adapters are read from peft's folders alone; "
            f"as GGUF files those for {', '.join(_FAMILIES)} are"
        )
    if family not in _FAMILIES[architecture]:
        raise UserError(
            f"{path} is for a model of architecture {architecture}, and {base.path} has model_type={family}"
        )
    check_types(path, reader.tensors)
    model, _ = build_skeleton(base, as_stored=True)
    names, processor = names_in_file(path, architecture, model)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    pairs: dict[str, dict[str, ReaderTensor]] = {}
    tensors = {}

    def put(name: str, values: np.ndarray[Any, Any]) -> None:
        if not bool(np.isfinite(values).all()):
            raise UserError(f"{path} is damaged: {name} of it holds a number that is not finite")
        own = np.array(values, order="C")  # not the file's mapped bytes
        tensors[f"base_model.model.{name}"] = torch.from_numpy(own)

    with trusting(path, "tensors"):
        for tensor in reader.tensors:
            stem, _, part = tensor.name.rpartition(".")
            whole = part not in _PARTS
            place = tensor.name if whole else stem
            if place not in names:
                raise UserError(f"{path} changes {place}, for which {base.path} has no place: it is for another model")
            if whole and "norm" not in place:
                raise UserError(
                    f"{path} holds {place} whole, and only norms can be; merge the adapter with its own tool, and "
                    "point model.source at the result"
                )
            if whole:  # a norm that was trained too, as mergekit-extract-lora writes it
                put(names[place], in_order(path, processor, _floats(tensor), place))
            else:
                pairs.setdefault(stem, {})[part] = tensor
        ranks = {}
        for stem, both in pairs.items():
            module = names[stem].removesuffix(".weight")
            if len(both) != 2:
                raise UserError(f"{path} lacks {stem}.{_PARTS[_PARTS[0] in both]}")
            down, up = (_floats(both[part]) for part in _PARTS)
            down = down.T if stem == _EMBEDDING else down
            if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
                raise UserError(f"{path}: {stem} has parts {list(down.shape)} and {list(up.shape)}, whose ranks differ")
            wanted = shapes[names[stem]][::-1] if stem == _EMBEDDING else shapes[names[stem]]
            if (len(up), down.shape[1]) != wanted:
                raise UserError(
                    f"{path} does not fit the model: it changes {stem} of {len(up)} x {down.shape[1]}, and "
                    f"{base.path}'s is {wanted[0]} x {wanted[1]}; it is for another model"
                )
            parts = (
                ("lora_embedding_A", "lora_embedding_B") if stem == _EMBEDDING else ("lora_A.weight", "lora_B.weight")
            )
            put(f"{module}.{parts[0]}", down)
            put(f"{module}.{parts[1]}", in_order(path, processor, up, stem))
            ranks[module] = len(down)
        alpha = float(value_of(reader, "adapter.lora.alpha") or 0)
    if not ranks:
        raise UserError(f"{path} holds no adapter: it has no tensor that ends with .lora_a")
    largest = max(ranks.values())
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_of(path),
        "r": largest,
        "rank_pattern": {module: rank for module, rank in ranks.items() if rank != largest},
        "lora_alpha": alpha or largest,
        "alpha_pattern": {} if alpha else {module: rank for module, rank in ranks.items() if rank != largest},
        "target_modules": list(ranks),
        "bias": "none",
    }
    save_file(tensors, out / "adapter_model.safetensors", {"format": "pt"})
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _open(path: Path) -> GGUFReader:
    if not path.is_file():
        raise UserError(f"the adapter {path} does not exist")
    check_magic(path)
    reader = open_file(path)
    with trusting(path, "metadata"):
        kind, adapter = value_of(reader, "general.type"), value_of(reader, "adapter.type")
        if kind != "adapter":
            raise UserError(f"{path} holds a {kind or 'model'} and no adapter: point model.source at it")
        if adapter != "lora":
            raise UserError(f"{path} holds an adapter of adapter.type={adapter!r}; only lora is known")
        for key, field in reader.fields.items():
            if key.startswith("adapter.") and key not in _KNOWN and len(field.data):
                raise UserError(
                    f"{path} has {key}={field.contents()!r}, which this version does not know, and which may change "
                    "what the adapter does; merge it with its own tool, and point model.source at the result"
                )
    return reader


def _floats(tensor: ReaderTensor) -> np.ndarray[Any, Any]:
    from gguf import dequantize

    return np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)

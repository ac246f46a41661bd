"""Turn a LoRA adapter that llama.cpp's converter has written as a GGUF file into a folder as peft saves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
    model = _match(path, reader, base)
    with trusting(path, "tensors"):
        arrays, pairs = _sorted(reader, model)
        ranks = {}
        for stem, both in pairs.items():
            down, up = _factors(stem, both, model)
            module, embeds = model.names[stem].removesuffix(".weight"), stem == _EMBEDDING
            arrays[f"{module}.{'lora_embedding_A' if embeds else 'lora_A.weight'}"] = down
            arrays[f"{module}.{'lora_embedding_B' if embeds else 'lora_B.weight'}"] = up
            ranks[module] = len(down)
        alpha = float(value_of(reader, "adapter.lora.alpha") or 0)
    if not ranks:
        raise UserError(f"{path} holds no adapter: it has no tensor that ends with .lora_a")
    for name, values in arrays.items():
        if not bool(np.isfinite(values).all()):
            raise UserError(f"{path} is damaged: {name} of it holds a number that is not finite")
    largest = max(ranks.values())
    others = {module: rank for module, rank in ranks.items() if rank != largest}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_of(path),
        "r": largest,
        "rank_pattern": others,
        "lora_alpha": alpha or largest,
        "alpha_pattern": {} if alpha else others,
        "target_modules": list(ranks),
        "bias": "none",
    }
    # Copies, for some are the file's mapped bytes.
    tensors = {f"base_model.model.{name}": torch.from_numpy(np.array(each, order="C")) for name, each in arrays.items()}
    save_file(tensors, out / "adapter_model.safetensors", {"format": "pt"})
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


class _Model(NamedTuple):
    """What an adapter's tensors are to fit.

    Attributes:
        path: the adapter's file.
        base: the model's folder.
        names: of its tensors, by their names in a GGUF file.
        shapes: of them, by name.
        processor: what `in_order` wants.
    """

    path: Path
    base: Path
    names: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    processor: Any


def _match(path: Path, reader: GGUFReader, base: Folder) -> _Model:
    """Refuse an adapter of another family, or of one whose order of rows is not known here."""
    architecture, family = str(value_of(reader, "general.architecture")), base.config.get("model_type")
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
    return _Model(path, base.path, names, shapes, processor)


def _sorted(
    reader: GGUFReader, model: _Model
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, dict[str, ReaderTensor]]]:
    """Tensors that are held whole, by their names in the model, and the parts of the others, by theirs in the file."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    pairs: dict[str, dict[str, ReaderTensor]] = {}
    for tensor in reader.tensors:
        stem, _, part = tensor.name.rpartition(".")
        whole = part not in _PARTS
        place = tensor.name if whole else stem
        if place not in model.names:
            raise UserError(
                f"{model.path} changes {place}, for which {model.base} has no place: it is for another model"
            )
        if not whole:
            pairs.setdefault(stem, {})[part] = tensor
        elif "norm" in place:  # one that was trained too, as mergekit-extract-lora writes it
            arrays[model.names[place]] = in_order(model.path, model.processor, _floats(tensor), place)
        else:
            raise UserError(
                f"{model.path} holds {place} whole, and only norms can be; merge the adapter with its own tool, and "
                "point model.source at the result"
            )
    return arrays, pairs


def _factors(
    stem: str, both: dict[str, ReaderTensor], model: _Model
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A [rank, inputs] and B [outputs, rank] of one weight."""
    path = model.path
    if len(both) != 2:
        raise UserError(f"{path} lacks {stem}.{_PARTS[_PARTS[0] in both]}")
    down, up = (_floats(both[part]) for part in _PARTS)
    down = down.T if stem == _EMBEDDING else down
    if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
        raise UserError(f"{path}: {stem} has parts {list(down.shape)} and {list(up.shape)}, whose ranks differ")
    shape = model.shapes[model.names[stem]]
    wanted = shape[::-1] if stem == _EMBEDDING else shape
    if (len(up), down.shape[1]) != wanted:
        raise UserError(
            f"{path} does not fit the model: it changes {stem} of {len(up)} x {down.shape[1]}, and {model.base}'s is "
            f"{wanted[0]} x {wanted[1]}; it is for another model"
        )
    return down, in_order(path, model.processor, up, stem)


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

"""Merge a LoRA adapter into a checkpoint, a tensor at a time; peft itself says what the sums are."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.adaptation.checkpoint import copy_beside
from et_pipeline.checkpoints import prequantized
from et_pipeline.checkpoints.adapter import CONFIG, SMALL_FILES, WEIGHTS, Adapter
from et_pipeline.checkpoints.config import FILE, language_config
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.layout import read_bytes
from et_pipeline.checkpoints.prequantized.weight import floats
from et_pipeline.checkpoints.reader import open_tensors
from et_pipeline.checkpoints.shards import NewTensor, encode, write_checkpoint
from et_pipeline.checkpoints.skeleton import build_skeleton
from et_pipeline.errors import UserError
from et_pipeline.settings import first_line
from et_pipeline.worker import Tick

if TYPE_CHECKING:
    import torch

_PREFIX = "base_model.model."
_Give = Callable[[], "torch.Tensor"]


def merge(folder: Path, adapter: Adapter, out: Path, tick: Tick) -> dict[str, Any]:
    """Write the checkpoint that a model is with its adapter, in Hugging Face layout.

    What LoRA (Hu et al. 2021, arXiv:2106.09685), rsLoRA or DoRA have changed becomes float32, for bfloat16 would round
    much of the change away; what the adapter holds whole takes the place of the base's, its tokenizer too, and all else
    is copied. A base that is quantized becomes float32 throughout.

    Args:
        folder: the base, in Hugging Face layout.
        adapter: in peft's form, see `Adapter.in_folder`.
        out: an existing folder for the checkpoint.
        tick: progress in bytes.

    Returns:
        `tensors`: how many the adapter has changed; `rank`; `trained_on`: the base that it names; `files`: SHA-256 of
        its own, by name.

    Raises:
        UserError: peft is missing, or the adapter does not fit the base.
    """
    base = Folder(folder)
    whole = _whole(adapter)
    config = _small_files(base, adapter, whole, out)
    skeleton, tied = build_skeleton(Folder(out), as_stored=True)
    shapes = {name: tuple(each.shape) for name, each in skeleton.state_dict().items()}
    held = base.contents.layout
    unknown = sorted(whole.keys() - held.keys() - tied.keys())
    if unknown:
        raise UserError(f"{adapter.at(WEIGHTS)} holds {unknown[0]}, which {folder} has not; {_other(adapter)}")
    stored, decoded = _reader(base, tied), bool(base.contents.packed)
    give: dict[str, _Give] = {name: partial(_tensor, adapter, kept) for name, kept in whole.items()}
    parts = dict(give)

    def before(name: str) -> torch.Tensor:
        return parts[name]().float() if name in parts else stored(name)

    summed = _summed(skeleton, adapter, before)
    give |= summed
    tensors = [NewTensor(name, info.shape, "F32" if decoded else info.dtype) for name, info in held.items()]
    for head, embedding in tied.items():
        if head in give or (embedding in give and not _follows(adapter, embedding, summed)):
            config["tie_word_embeddings"] = False
            give.setdefault(head, lambda head=head: stored(head))  # type: ignore[misc]
            tensors.append(NewTensor(head, held[embedding].shape, "F32"))
    tensors = [NewTensor(each.name, shapes[each.name], "F32") if each.name in give else each for each in tensors]
    (out / FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def content(tensor: NewTensor) -> Iterable[bytes]:
        if tensor.name in give:
            yield encode(_fitting(give[tensor.name](), tensor, adapter).numpy(), "F32")
        elif decoded:
            yield encode(stored(tensor.name).numpy(), "F32")
        else:
            yield from read_bytes(folder, held[tensor.name])

    write_checkpoint(out, f"merging {Path(str(adapter)).name}", tensors, content, tick)
    rank = adapter.config.get("r")
    return {"tensors": len(give), "rank": rank, "trained_on": adapter.base, "files": adapter.hashes()}


def _reader(base: Folder, tied: Mapping[str, str]) -> Callable[[str], torch.Tensor]:
    """What gives a tensor of the base as float32; a tied head is the embedding."""
    read, held = open_tensors(base), base.contents.layout

    def stored(name: str) -> torch.Tensor:
        name = tied.get(name, name) if name not in held else name
        packed = base.contents.packed.get(name)
        return floats(read(name) if packed is None else prequantized.decode(packed, read))

    return stored


def _whole(adapter: Adapter) -> dict[str, str]:
    """Tensors that an adapter holds whole, by their names in the base: fine-tuned norms, resized embeddings."""
    found = {}
    for name in adapter.layout:
        if not name.startswith(_PREFIX):
            raise UserError(f"{adapter.at(WEIGHTS)} holds {name}, and names of peft begin with {_PREFIX}")
        if "lora_" not in name:
            found[name.removeprefix(_PREFIX).replace(".base_layer.", ".")] = name
    return found


def _small_files(base: Folder, adapter: Adapter, whole: dict[str, str], out: Path) -> dict[str, Any]:
    """Copy what is not weights, the adapter's own before the base's; returns the new config.json."""
    copy_beside(base.path, out)
    for name in SMALL_FILES:
        if (adapter.path / name).is_file():
            shutil.copyfile(adapter.path / name, out / name)
    config = dict(language_config(base.settings(FILE)))  # what sees or hears beside it stays behind
    text = config.get("text_config", config)
    for values in (config, text):
        values.pop("quantization_config", None)
    for name, stored in whole.items():
        rows, *rest = adapter.layout[stored].shape
        if name.endswith("embed_tokens.weight") and rest == [text.get("hidden_size")]:
            text["vocab_size"] = rows  # tokens were added
    (out / FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return config


def _summed(skeleton: Any, adapter: Adapter, stored: Callable[[str], torch.Tensor]) -> dict[str, _Give]:
    """What makes each tensor that LoRA changes, by its name in the base."""
    try:
        from peft import PeftConfig, PeftModel, set_peft_model_state_dict
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError as error:
        raise UserError(
            f"model.adapter={adapter} is merged by peft, which is not installed: pip install 'et-pipeline[adapt]'"
        ) from error
    import torch
    from safetensors.torch import load_file

    state = {name: each for name, each in load_file(adapter.path / WEIGHTS).items() if "lora_" in name}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says of tied weights is what `merge` does
        try:
            config: Any = PeftConfig.from_pretrained(str(adapter.path))
            config.modules_to_save = None  # what is held whole is not peft's business
            wrapped: Any = PeftModel(skeleton, config)
            found: Any = set_peft_model_state_dict(wrapped, state, low_cpu_mem_usage=True)
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{adapter} does not fit the model: {first_line(error)}; {_other(adapter)}") from error
    for keys, what in ((found.unexpected_keys, "holds"), (found.missing_keys, "lacks")):
        names = sorted(name for name in keys if "lora_" in name)
        if names:
            raise UserError(f"{adapter.at(WEIGHTS)} {what} {names[0].replace('.default', '')}; {_other(adapter)}")

    layers = [
        (name, layer) for name, layer in wrapped.base_model.model.named_modules() if isinstance(layer, BaseTunerLayer)
    ]
    biased = bool(adapter.config.get("lora_bias"))
    bare = [name for name, layer in layers if biased and getattr(layer.get_base_layer(), "bias", None) is None]
    if bare:
        raise UserError(
            f"{adapter.at(CONFIG)} has lora_bias=true, and {bare[0]} has no bias to add that to; train with "
            "lora_bias=false"
        )

    def made(name: str, layer: Any, own: str) -> torch.Tensor:
        """A layer's tensor with what the adapter adds to it; nothing stays in memory."""
        base = layer.get_base_layer()
        empty = dict(base.named_parameters())
        for each in empty:
            # A copy, for the sum is made in place, and what was read may be the mapped file.
            setattr(base, each, torch.nn.Parameter(stored(f"{name}.{each}").clone(), requires_grad=False))
        adds = {key: value for key, value in state.items() if key.startswith(f"{_PREFIX}{name}.lora_")}
        set_peft_model_state_dict(wrapped, adds, low_cpu_mem_usage=True)  # puts it where the base is
        with torch.no_grad():
            layer.merge()
        total: torch.Tensor = getattr(base, own).detach()
        layer.merged_adapters.clear()
        for each, nothing in empty.items():
            setattr(base, each, nothing)
        return total

    return {
        f"{name}.{own}": partial(made, name, layer, own)
        for name, layer in layers
        for own in (("weight", "bias") if biased else ("weight",))
    }


def _follows(adapter: Adapter, embedding: str, summed: Collection[str]) -> bool:
    """Whether a tied head takes a changed embedding's numbers: one that is trained is a copy, unless asked."""
    saved = [f".{name}.weight" for name in adapter.config.get("modules_to_save") or []]
    trained = embedding in summed or f".{embedding}".endswith(tuple(saved))
    return bool(adapter.config.get("ensure_weight_tying")) or not trained


def _tensor(adapter: Adapter, name: str) -> torch.Tensor:
    from safetensors import safe_open

    with safe_open(adapter.path / WEIGHTS, framework="pt") as file:
        found: torch.Tensor = file.get_tensor(name)
    return found


def _fitting(value: torch.Tensor, tensor: NewTensor, adapter: Adapter) -> torch.Tensor:
    if tuple(value.shape) != tensor.shape:
        raise UserError(
            f"{adapter} makes {tensor.name} {list(value.shape)}, and the model's is {list(tensor.shape)}; "
            f"{_other(adapter)}"
        )
    if not bool(value.isfinite().all()):
        raise UserError(f"{adapter} makes numbers of {tensor.name} that are not finite; it is damaged")
    return value.float().contiguous()


def _other(adapter: Adapter) -> str:
    """The end of a sentence about what does not fit."""
    if adapter.base is None:
        return f"it is for another model, which {adapter.at(CONFIG).name} does not name"
    return f"{adapter.at(CONFIG).name} says that it was trained on {adapter.base}"

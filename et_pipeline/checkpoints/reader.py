"""Read a Hugging Face checkpoint one module at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from et_pipeline.architecture import UNUSED_BY_ENCODERS
from et_pipeline.checkpoints import prequantized
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.layout import TensorInfo
from et_pipeline.checkpoints.prequantized.weight import LARGEST, floats
from et_pipeline.checkpoints.skeleton import build_skeleton, fill_computed_buffers, places
from et_pipeline.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

_FLOATS = ("F64", "F32", "F16", "BF16")


class _Source(NamedTuple):
    """What of a checkpoint goes into one tensor of the model."""

    tensor: str
    shape: tuple[int, ...]  # that the checkpoint's tensor must have
    rows: tuple[int, int] | None = None  # of it; None for all


class Prepared(NamedTuple):
    """A checkpoint that fits its config, of which no weight has been read.

    Attributes:
        model: without weights.
        modules: name and module of those that have some.
        fill: gives a module (name, module) its weights, as float32; with `as_stored=True` in the checkpoint's own
            type, mapped to its file, and integers that it has in our form as those.
        packed: the model's tensors that the checkpoint holds quantized.
        tied: the head's weight is the embedding's.
    """

    model: PreTrainedModel
    modules: list[tuple[str, nn.Module]]
    fill: Callable[..., None]
    packed: frozenset[str]
    tied: bool


def load_model(
    folder: Path,
    convert: Callable[[str, nn.Module], object] | None = None,
    on_module: Callable[[int, int], None] | None = None,
) -> PreTrainedModel:
    """Build the model of a checkpoint, reading its weights module by module as float32.

    The skeleton is on the meta device, so at no time does more than one float32 module exist that `convert` has not
    made small: a 7B model needs about one byte per weight, not four.

    Args:
        folder: a folder in Hugging Face layout: config.json and safetensors.
        convert: called with (qualified name, module) once that module holds its weights; it may replace them.
        on_module: called with (modules done, modules in all).

    Returns:
        The causal LM in eval mode, without gradients. A tied lm_head has become a module of its own.

    Raises:
        UserError: an unreadable config or file, or weights that do not fit the config.
    """
    model, modules, fill, *_ = prepare(Folder(folder))
    for done, (name, module) in enumerate(modules, start=1):
        fill(name, module)
        if convert is not None:
            convert(name, module)
        if on_module is not None:
            on_module(done, len(modules))
    return model.eval().requires_grad_(False)


def stream_model(folder: Path) -> PreTrainedModel:
    """Build the model of a checkpoint without its weights: each module reads its own, as float32, when it is called.

    What a module has read is dropped when its call ends, so a model of any size computes in the memory of its largest
    module. Each forward reads the checkpoint once: give it everything in one batch.

    Raises:
        UserError: as `load_model`, at once or, for a file that cannot be read, in a forward.
    """
    import torch
    from torch import nn

    model, modules, fill, *_ = prepare(Folder(folder))

    def drop(module: nn.Module, *_: Any) -> None:
        for own, tensor in _own_tensors(module).items():
            _set_tensor(module, own, torch.empty_like(tensor, device="meta"))

    for name, module in modules:
        if any(module.children()) and all(tensor.dim() < 2 for tensor in _own_tensors(module).values()):
            fill(name, module)  # AltUp's vector, which is asked for without a call of its module
            continue
        # Families compute convolutions over tokens by themselves, and take only the weights from the module.
        called = model.get_submodule(name.rpartition(".")[0]) if isinstance(module, nn.Conv1d) else module
        called.register_forward_pre_hook(lambda *_, name=name, module=module: fill(name, module))
        called.register_forward_hook(lambda *_, module=module: drop(module))
    return model.eval().requires_grad_(False)


def prepare(folder: Folder) -> Prepared:
    """Check a checkpoint and build its model, for weights to be read module by module.

    Raises:
        UserError: an unreadable config or file, or weights that do not fit the config.
    """
    model, tied = build_skeleton(folder)
    contents = folder.contents
    # A file's own head counts, also where the config says that it has none: transformers takes it too.
    renamed = _renamed(model, contents.layout)
    tied = {head: each for head, each in tied.items() if renamed.get(head, head) not in contents.layout}
    modules = [(name, module) for name, module in model.named_modules() if _own_tensors(module)]
    # Tensors are named by module before anything is read: a checkpoint that does not fit costs no waiting.
    place = places(folder, model, contents.layout)
    sources = _sources(model, modules, tied, lambda name: place(renamed.get(name, name)))
    wanted = {source.tensor for source in sources.values()}
    layout = contents.layout | {name: info for name, info in contents.idle.items() if name in wanted}
    _check_fit(folder, model, layout, list(sources.values()), tied)
    fill_computed_buffers(model)
    stored, read = folder.layout, open_tensors(folder)

    def fill(name: str, module: nn.Module, as_stored: bool = False) -> None:
        for own in _own_tensors(module):
            source = sources[f"{name}.{own}"]
            if source.tensor in contents.packed:
                tensor: Any = prequantized.decode(contents.packed[source.tensor], read)
                scales = tensor.scale * LARGEST if hasattr(tensor, "qdata") else tensor
                _check_finite(scales, f"{folder.path}: weight {source.tensor}", 0)
                if source.rows is not None:
                    tensor = tensor[slice(*source.rows)].clone()
                _set_tensor(module, own, tensor if as_stored else floats(tensor))
            else:
                tensor = read(source.tensor, source.rows)
                where = f"{folder.path / stored[source.tensor].file}: tensor {source.tensor}"
                _check_finite(tensor, where, source.rows[0] if source.rows else 0)
                _set_tensor(module, own, tensor if as_stored else tensor.float())

    packed = frozenset(target for target, source in sources.items() if source.tensor in contents.packed)
    return Prepared(model, modules, fill, packed, bool(tied))


def open_tensors(folder: Folder) -> Callable[..., torch.Tensor]:
    """What gives a tensor of a checkpoint's files by its name, or some of its rows (from, to), in its own type."""
    from safetensors import SafetensorError, safe_open

    stored, files = folder.layout, dict[Path, Any]()

    def read(name: str, rows: tuple[int, int] | None = None) -> torch.Tensor:
        path, own = folder.path / stored[name].file, stored[name].stored
        try:
            if path not in files:
                files[path] = safe_open(path, framework="pt")
            # A copy: a view into the file's storage would be lowered as that storage's first bytes.
            tensor: torch.Tensor = (
                files[path].get_tensor(own) if rows is None else files[path].get_slice(own)[rows[0] : rows[1]].clone()
            )
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: tensor {name} cannot be read ({error})") from error
        return tensor

    return read


def _renamed(model: PreTrainedModel, layout: Mapping[str, TensorInfo]) -> dict[str, str]:
    """What files call a tensor of the model where transformers calls it otherwise, as GPT-NeoX's `embed_out`."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    renamings = get_checkpoint_conversion_mapping(type(model).__name__) or []
    if not all(type(each) is WeightRenaming for each in renamings):
        return {}
    found = {}
    for name in layout:
        new = name
        for renaming in renamings:
            new, _ = renaming.rename_source_key(new)
        if new != name:
            found[new] = name
    return found


def _sources(
    model: PreTrainedModel, modules: list[tuple[str, nn.Module]], tied: dict[str, str], place: Callable[[str], str]
) -> dict[str, _Source]:
    """What each tensor of the model is made of, by its name."""
    from et_pipeline.models.fused import fused_rows

    parts = {target: (fused, start, end) for target, fused, start, end in fused_rows(model)}
    sources = {}
    for name, module in modules:
        for own, tensor in _own_tensors(module).items():
            target, shape = f"{name}.{own}", tuple(tensor.shape)
            if target in parts:
                fused, start, end = parts[target]
                rows = sum(stop - begin for other, begin, stop in parts.values() if other == fused)
                sources[target] = _Source(place(fused), (rows, *shape[1:]), (start, end))
            else:
                sources[target] = _Source(place(tied.get(target, target)), shape)
    return sources


def _check_finite(tensor: torch.Tensor, what: str, first_row: int) -> None:
    """Refuse a tensor that holds a NaN, an infinity or more than float32 can, and say where."""
    import torch

    if not tensor.is_floating_point() or not tensor.numel():
        return
    limit = torch.finfo(torch.float32).max
    low, high = (each.item() for each in torch.aminmax(tensor))
    if low >= -limit and high <= limit:  # false for NaN too
        return
    bad = (~(tensor.double().abs() <= limit)).nonzero()
    place = bad[0].tolist()
    value = tensor[tuple(place)].item()
    if place:
        place[0] += first_row
    raise UserError(
        f"{what} holds {value} at {place} ({len(bad)} of its {tensor.numel()} numbers are no finite float32): the "
        "checkpoint is damaged; download it again, or ask its maker"
    )


def _own_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and saved buffers that belong to this module itself."""
    return {name: value for name, value in module._parameters.items() if value is not None} | {
        name: value
        for name, value in module._buffers.items()
        if value is not None and name not in module._non_persistent_buffers_set
    }


def _set_tensor(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    from torch import nn

    if name in module._parameters:
        module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[name] = tensor


def _check_fit(
    checkpoint: Folder,
    model: PreTrainedModel,
    layout: dict[str, TensorInfo],
    sources: list[_Source],
    tied: dict[str, str],
) -> None:
    """Every tensor that the config asks for is there with its shape, and nothing else is."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    folder = checkpoint.path
    changes = get_checkpoint_conversion_mapping(model.config.model_type) or []
    anew = any(isinstance(change, WeightConverter) for change in changes)  # others only rename
    for source in sources:
        if source.tensor not in layout and anew:
            raise UserError(
                f"{folder}: transformers puts the tensors of a {model.config.model_type} model together anew as it "
                f"loads them, here {source.tensor}, and models for which it does that (mixtures of experts among "
                "them) are not supported"
            )
        if source.tensor not in layout:
            raise UserError(f"{folder}: tensor {source.tensor}, which config.json asks for, is in no safetensors file")
        found = layout[source.tensor]
        if found.shape != source.shape:
            raise UserError(
                f"{folder / found.file}: tensor {source.tensor} has shape {list(found.shape)}, "
                f"but config.json asks for {list(source.shape)}"
            )
        if found.dtype not in _FLOATS:
            raise UserError(
                f"{folder / found.file}: tensor {source.tensor} is {found.dtype}, but only {', '.join(_FLOATS)} "
                "are read: point model.source at the original float weights"
            )
    # Old checkpoints carry rotary tables, and tied ones a copy of the embedding; transformers drops both too.
    # A model within the model has its own: Gemma's layers that read other layers' keys have weights for them there.
    unexpected = {
        key for part in model.modules() for key in getattr(part, "_keys_to_ignore_on_load_unexpected", None) or ()
    }
    ignored = [re.compile(p) for p in (r"rotary_emb\.inv_freq$", *unexpected)]
    known = {source.tensor for source in sources} | set(tied)
    if checkpoint.embeds:
        ignored.append(UNUSED_BY_ENCODERS)
    for name, info in layout.items():
        if name not in known and not any(pattern.search(name) for pattern in ignored):
            raise UserError(f"{folder / info.file}: tensor {name} has no place in the model that config.json describes")

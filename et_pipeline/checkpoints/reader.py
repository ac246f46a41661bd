"""Read a Hugging Face checkpoint one module at a time.

The safetensors header is an 8-byte little-endian length, that many bytes of JSON, then the tensors' bytes
(https://huggingface.co/docs/safetensors). `read_layout` looks at headers only and needs neither torch nor transformers,
so `plan` and `acquire` can check a folder in milliseconds.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from et_pipeline.architecture import ENCODERS, UNUSED_BY_ENCODERS
from et_pipeline.checkpoints.config import culprit, read_config, reason, unknown_keys
from et_pipeline.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEAD = "lm_head.weight"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")

_MAX_HEADER = 100_000_000  # safetensors' own limit
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_FLOATS = ("F64", "F32", "F16", "BF16")
_DECODERS = ("sliding_window", "layer_types", "attn_logit_softcapping", "use_bidirectional_attention")


class TensorInfo(NamedTuple):
    """Where a tensor lies and what it is; `dtype` is safetensors' name for it, such as BF16."""

    file: str
    shape: tuple[int, ...]
    dtype: str


def read_layout(folder: Path) -> dict[str, TensorInfo]:
    """List every tensor of a checkpoint from the safetensors headers, without reading weights.

    Args:
        folder: a folder in Hugging Face layout, with one safetensors file or an index over several.

    Returns:
        Tensor name to its file (relative to `folder`), shape and dtype.

    Raises:
        UserError: no safetensors, a pickle checkpoint, a broken or truncated file, or an index that does not match.
    """
    index = folder / INDEX
    if (folder / SINGLE).is_file():  # before an index beside it, as transformers does
        named, files = {}, [SINGLE]
    elif index.is_file():
        named = _read_index(index)
        files = sorted(set(named.values()))
    elif any((folder / name).is_file() for name in PICKLES):
        raise UserError(
            f"{folder} holds a pickle checkpoint (pytorch_model.bin), which can run code when it is read: "
            "convert it to safetensors first (model.save_pretrained(folder) of transformers writes them)"
        )
    else:
        raise UserError(f"{folder} holds neither {SINGLE} nor {INDEX}: point model.source at a checkpoint folder")
    layout: dict[str, TensorInfo] = {}
    for file in files:
        for name, info in _read_header(folder, file).items():
            if name in layout:
                raise UserError(f"{folder}: tensor {name} is in both {layout[name].file} and {file}")
            layout[name] = info
    for name, file in named.items():
        if name not in layout or layout[name].file != file:
            raise UserError(f"{index} says that {file} holds {name}, but it does not: download the checkpoint again")
    return layout


def _read_index(path: Path) -> dict[str, str]:
    try:
        named = json.loads(path.read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise UserError(f"{path} is not a safetensors index ({error!r}): download the checkpoint again") from error
    if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
        raise UserError(f"{path} is not a safetensors index: its weight_map does not name files")
    for file in set(named.values()):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise UserError(f"{path} names {file!r}, which is not a safetensors file of the same folder")
    return named


def _read_header(folder: Path, file: str) -> dict[str, TensorInfo]:
    """Read and check one header; nothing is read or allocated on the word of a length that was not checked."""
    path = folder / file
    if not path.is_file():
        raise UserError(f"{path} is missing: download the checkpoint again")
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise UserError(f"{path} is truncated: {size} bytes are too few for a safetensors file")
        (length,) = struct.unpack("<Q", prefix)
        if length > _MAX_HEADER:
            raise UserError(f"{path} is not a safetensors file: its header claims {length} bytes")
        if length > size - 8:
            raise UserError(f"{path} is truncated: its header needs {length} bytes, and the file has {size - 8} left")
        raw = stream.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a safetensors file: its header is no JSON") from error
    if not isinstance(header, dict):
        raise UserError(f"{path} is not a safetensors file: its header is no JSON object")
    header.pop("__metadata__", None)
    data = size - 8 - length
    needed = 0
    layout = {}
    for name, entry in header.items():
        info, end = _read_entry(path, file, name, entry)
        layout[name] = info
        needed = max(needed, end)
    if needed > data:
        raise UserError(f"{path} is truncated: its tensors need {needed} bytes, and the file has {data}")
    if needed < data:
        raise UserError(f"{path} is damaged: {data - needed} bytes follow its last tensor")
    return layout


def _read_entry(path: Path, file: str, name: str, entry: Any) -> tuple[TensorInfo, int]:
    """Check one tensor's entry; returns it with the offset of its end."""
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        sound = all(type(n) is int and n >= 0 for n in (*shape, start, end)) and isinstance(dtype, str)
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound or end < start:
        raise UserError(f"{path} is damaged: the header entry of tensor {name} makes no sense")
    expected = math.prod(shape) * _DTYPE_BYTES[dtype] if dtype in _DTYPE_BYTES else None
    if expected is not None and end - start != expected:
        raise UserError(
            f"{path} is damaged: tensor {name} ({dtype} {list(shape)}) has {end - start} bytes instead of {expected}"
        )
    return TensorInfo(file, shape, dtype), end


def has_copied_head(folder: Path, layout: Mapping[str, TensorInfo]) -> bool:
    """Whether a checkpoint's head is, byte by byte, its embedding."""
    names = [name for name in layout if name.endswith("embed_tokens.weight")]
    if HEAD not in layout or len(names) != 1:
        return False
    head, embedding = layout[HEAD], layout[names[0]]
    if (head.shape, head.dtype) != (embedding.shape, embedding.dtype):
        return False
    return all(a == b for a, b in zip(_pieces(folder, HEAD, head), _pieces(folder, names[0], embedding), strict=True))


def _pieces(folder: Path, name: str, info: TensorInfo) -> Iterator[bytes]:
    """A tensor's bytes, 16 MiB at a time."""
    with (folder / info.file).open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        start, end = json.loads(stream.read(length))[name]["data_offsets"]
        stream.seek(8 + length + start)
        for at in range(start, end, 1 << 24):
            yield stream.read(min(1 << 24, end - at))


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
    """

    model: PreTrainedModel
    modules: list[tuple[str, nn.Module]]
    fill: Callable[..., None]
    packed: frozenset[str]


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
    model, modules, fill, _ = prepare(folder)
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

    model, modules, fill, _ = prepare(folder)

    def drop(module: nn.Module, *_: Any) -> None:
        for own, tensor in _own_tensors(module).items():
            _set_tensor(module, own, torch.empty_like(tensor, device="meta"))

    for name, module in modules:
        module.register_forward_pre_hook(lambda module, _, name=name: fill(name, module))
        module.register_forward_hook(drop)
    return model.eval().requires_grad_(False)


def prepare(folder: Path) -> Prepared:
    """Check a checkpoint and build its model, for weights to be read module by module.

    Raises:
        UserError: an unreadable config or file, or weights that do not fit the config.
    """
    from safetensors import SafetensorError, safe_open

    from et_pipeline.checkpoints import prequantized
    from et_pipeline.models.fused import fused_rows

    stored = read_layout(folder)
    model, tied = build_skeleton(folder)
    contents = prequantized.find(folder, read_config(folder))
    # A file's own head counts, also where the config says that it has none: transformers takes it too.
    tied = {head: embedding for head, embedding in tied.items() if head not in contents.layout}
    modules = [(name, module) for name, module in model.named_modules() if _own_tensors(module)]
    # Tensors are named by module before anything is read: a checkpoint that does not fit costs no waiting.
    parts = {target: (fused, start, end) for target, fused, start, end in fused_rows(model)}
    sources: dict[str, _Source] = {}
    for name, module in modules:
        for own, tensor in _own_tensors(module).items():
            target, shape = f"{name}.{own}", tuple(tensor.shape)
            if target in parts:
                fused, start, end = parts[target]
                rows = sum(stop - begin for other, begin, stop in parts.values() if other == fused)
                sources[target] = _Source(fused, (rows, *shape[1:]), (start, end))
            else:
                sources[target] = _Source(tied.get(target, target), shape)
    wanted = {source.tensor for source in sources.values()}
    layout = contents.layout | {name: info for name, info in contents.idle.items() if name in wanted}
    _check_fit(folder, model, layout, list(sources.values()), tied)
    fill_computed_buffers(model)
    files: dict[Path, Any] = {}

    def read(name: str, rows: tuple[int, int] | None = None) -> torch.Tensor:
        path = folder / stored[name].file
        try:
            if path not in files:
                files[path] = safe_open(path, framework="pt")
            # A copy: a view into the file's storage would be lowered as that storage's first bytes.
            tensor = (
                files[path].get_tensor(name) if rows is None else files[path].get_slice(name)[rows[0] : rows[1]].clone()
            )
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: tensor {name} cannot be read ({error})") from error
        return tensor

    def fill(name: str, module: nn.Module, as_stored: bool = False) -> None:
        for own in _own_tensors(module):
            source = sources[f"{name}.{own}"]
            if source.tensor in contents.packed:
                tensor: Any = prequantized.decode(contents.packed[source.tensor], read)
                scales = tensor.scale * prequantized.LARGEST if hasattr(tensor, "qdata") else tensor
                _check_finite(scales, f"{folder}: weight {source.tensor}", 0)
                if source.rows is not None:
                    tensor = tensor[slice(*source.rows)].clone()
                _set_tensor(module, own, tensor if as_stored else prequantized.floats(tensor))
            else:
                tensor = read(source.tensor, source.rows)
                where = f"{folder / stored[source.tensor].file}: tensor {source.tensor}"
                _check_finite(tensor, where, source.rows[0] if source.rows else 0)
                _set_tensor(module, own, tensor if as_stored else tensor.float())

    packed = frozenset(target for target, source in sources.items() if source.tensor in contents.packed)
    return Prepared(model, modules, fill, packed)


def build_skeleton(folder: Path, as_stored: bool = False) -> tuple[PreTrainedModel, dict[str, str]]:
    """Build the model of a config.json on the meta device: an encoder alone, any other with a head of its own.

    Args:
        folder: only config.json is read.
        as_stored: name and shape the tensors as a checkpoint does; otherwise fused linears are split, as everything
            that computes with the model wants them.

    Returns:
        The model, and for a tied head {head's tensor name: the embedding's tensor name to fill it from}.

    Raises:
        UserError: config.json is missing, unreadable, or of an unknown family.
    """
    from et_pipeline.models.families import adapt

    config = transformers_config(folder)
    text = config.get_text_config()
    was_tied = bool(getattr(config, "tie_word_embeddings", False) or getattr(text, "tie_word_embeddings", False))
    # Embedding and head are quantized differently, so they cannot stay one tensor.
    config.tie_word_embeddings = text.tie_word_embeddings = False
    encodes = config.model_type in ENCODERS
    model = _empty_model(folder, config)
    if encodes:
        model.pooler = None
        return model, {}
    tied = {}
    if was_tied:
        names = {id(module): name for name, module in model.named_modules()}
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        tied[f"{names[id(head)]}.weight"] = f"{names[id(embedding)]}.weight"
    if not as_stored:
        adapt(model)
    return model, tied


def transformers_config(folder: Path) -> PreTrainedConfig:
    """The configuration of a checkpoint as the class of its family in transformers.

    Raises:
        UserError: config.json is missing, unreadable, or of an unknown family.
    """
    from transformers import PreTrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    content = read_config(folder)
    where, kind = folder / "config.json", content.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise UserError(
            f"{where} is not a model config that transformers {metadata.version('transformers')} knows: it has "
            f"model_type={kind!r}; code of the checkpoint's own is never run"
        )
    content.pop("quantization_config", None)  # its weights become floats before they get into the model
    for values in (content, content.get("text_config", {})):
        _drop_unread(values)

    def build(values: dict[str, Any]) -> Any:
        made: Any = CONFIG_MAPPING[kind].from_dict(values)
        if not isinstance(made.get_text_config(), PreTrainedConfig):
            raise ValueError(f"{kind} has no such part")
        return made

    try:
        config = build(dict(content))
    except Exception as error:
        found = culprit(content, build)
        raise UserError(f"{where} is not a model config: {f'{found}: ' if found else ''}{reason(error)}") from error
    text = config.get_text_config()
    if getattr(text, "pad_token_id", None) is not None and not 0 <= text.pad_token_id < text.vocab_size:
        text.pad_token_id = None  # the family's usual one, which this vocabulary does not have
    return config


def _drop_unread(values: dict[str, Any]) -> None:
    """Take out what our decoder reads of every config, where the family's own model does not read it.

    transformers' config keeps any key, and its caches believe these too.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = values.get("model_type")
    if kind in CONFIG_MAPPING:
        for key in {*_DECODERS} - {field.name for field in dataclasses.fields(CONFIG_MAPPING[kind])}:
            values.pop(key, None)


def config_warnings(folder: Path) -> list[str]:
    """Keys of config.json that mean nothing to its family's class, a sentence for all of them."""
    config, content = transformers_config(folder), read_config(folder)
    parts = [(config, content)]
    if "text_config" in content:
        parts.append((config.get_text_config(), content["text_config"]))
    names = []
    for own, given in parts:
        known = {field.name for field in dataclasses.fields(own)} | set(own.attribute_map)
        names += unknown_keys(given, frozenset(known))
    if not names:
        return []
    return [
        f"{folder / 'config.json'} has {', '.join(names)}, which transformers' {config.model_type} does not know; "
        "that is passed over, as transformers does"
    ]


def _empty_model(folder: Path, config: PreTrainedConfig) -> PreTrainedModel:
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    encodes = config.model_type in ENCODERS
    kind, what = (AutoModel, "encoder") if encodes else (AutoModelForCausalLM, "text-generation model")

    def build(configured: PreTrainedConfig) -> PreTrainedModel:
        with torch.device("meta"):
            model: PreTrainedModel = kind.from_config(configured, dtype=torch.float32)
        return model

    def small(values: dict[str, Any]) -> PreTrainedModel:
        return build(type(config).from_dict({**values, "num_hidden_layers": 1, "layer_types": None}))

    try:
        return build(config)
    except MemoryError:
        raise
    except Exception as error:
        found = culprit(read_config(folder), small)
        told = f"{found}: " if found else ""
        raise UserError(f"{folder / 'config.json'}: no {what} can be built from it: {told}{reason(error)}") from error


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
    folder: Path,
    model: PreTrainedModel,
    layout: dict[str, TensorInfo],
    sources: list[_Source],
    tied: dict[str, str],
) -> None:
    """Every tensor that the config asks for is there with its shape, and nothing else is."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    for source in sources:
        if source.tensor not in layout and get_checkpoint_conversion_mapping(model.config.model_type):
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
    ignored = [re.compile(p) for p in (r"rotary_emb\.inv_freq$", *(model._keys_to_ignore_on_load_unexpected or ()))]
    known = {source.tensor for source in sources} | set(tied)
    if model.config.model_type in ENCODERS:
        ignored.append(UNUSED_BY_ENCODERS)
    for name, info in layout.items():
        if name not in known and not any(pattern.search(name) for pattern in ignored):
            raise UserError(f"{folder / info.file}: tensor {name} has no place in the model that config.json describes")


def fill_computed_buffers(model: PreTrainedModel) -> None:
    """Compute the unsaved buffers of a skeleton (rotary frequencies, embedding scales), as transformers does.

    Raises:
        UserError: the family has a buffer that its initializer does not set.
    """
    import torch

    for module in model.modules():
        names = [name for name in module._non_persistent_buffers_set if module._buffers.get(name) is not None]
        for name in names:
            empty = module._buffers[name]
            # NaN, or of integers such as positions -1, marks what the family's own initializer does not set.
            if empty.is_floating_point():
                module._buffers[name] = torch.full(empty.shape, math.nan, dtype=torch.float32)
            else:
                module._buffers[name] = torch.full(empty.shape, -1, dtype=empty.dtype)
        if names:
            model._init_weights(module)
        for name in names:
            value = module._buffers[name]
            if value.is_floating_point() and bool(value.isinf().any()):
                raise UserError(
                    f"config.json makes {type(module).__name__}.{name} infinite; its rotary settings or sizes are wrong"
                )
            if bool(value.isnan().any() if value.is_floating_point() else (value < 0).any()):
                raise UserError(
                    f"{type(module).__name__}.{name} is an unsaved buffer that its family does not initialize, "
                    "so this family cannot be loaded"
                )

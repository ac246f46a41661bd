"""Quantize a model's linears and embeddings in place, one module at a time, with torchao."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from torchao.quantization import (
    Int8DynamicActivationIntxWeightConfig,
    IntxWeightOnlyConfig,
    MappingType,
    quantize_,
)
from torchao.quantization.granularity import PerAxis, PerGroup
from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm, IntxUnpackedToInt8Tensor

from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.prequantized.weight import floats
from et_pipeline.checkpoints.reader import prepare
from et_pipeline.checkpoints.skeleton import build_skeleton, fill_computed_buffers
from et_pipeline.errors import UserError
from et_pipeline.gemma import stays_float
from et_pipeline.quantization.requantized import Requantized
from et_pipeline.quantization.turned import Turn, is_turned, turn_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from et_pipeline.settings import Quantization

BLOCK_WEIGHTS = 1 << 20  # quantized at a time
SHARD_WEIGHTS = 250_000_000  # at a byte each; that many wait in memory to be written
INT4: torch.dtype = getattr(torch, "int4")  # noqa: B009  torch's stubs do not know it
_MAPPINGS = {
    "symmetric": MappingType.SYMMETRIC,
    "symmetric_no_clipping_error": MappingType.SYMMETRIC_NO_CLIPPING_ERR,
    "asymmetric": MappingType.ASYMMETRIC,
}
_WEIGHT_DTYPES = {
    "8da4w": INT4,
    "8da8w": torch.int8,
    "int4_weight_only": INT4,
    "int8_weight_only": torch.int8,
}
DYNAMIC = ("8da4w", "8da8w")
_EMBEDDING_DTYPES = {4: INT4, 8: torch.int8}


def quantize_module(name: str, module: nn.Module, q: Quantization) -> bool:
    """Quantize one module that holds its float weights; modules of other kinds stay as they are.

    Weights are rounded to the nearest step; integers that came with the checkpoint stay if they fit (`keep`). `8da4w`
    and `8da8w` quantize activations per token to 8 bits at run time (the dynamic quantization of Jacob et al. 2018,
    arXiv:1712.05877); the weight-only schemes compute in float32.

    Args:
        name: qualified name, for messages.
        module: a linear or embedding is changed in place.
        q: what to do.

    Returns:
        Whether integers stay.

    Raises:
        UserError: a row is not a whole number of groups.
    """
    if not isinstance(module, (nn.Linear, nn.Embedding)) or isinstance(module, Turn) or stays_float(name):
        return False
    config = _config(module, q)
    if config is None:
        if isinstance(module.weight, IntxUnpackedToInt8Tensor):
            module.weight = nn.Parameter(floats(module.weight), requires_grad=False)
        return False
    if isinstance(module, nn.Linear):
        _check_groups(f"linear layer {name}", module.in_features, group_of(module, q), "recipe.group_size")
    else:
        _check_groups(f"embedding {name}", module.embedding_dim, q.embedding_group_size, "recipe.embedding_group_size")
    if keep(module, q):
        return True
    _quantize_rows(module, config)
    return False


def keep(module: nn.Module, q: Quantization) -> bool:
    """Keep the integers that a module's weight had in its checkpoint, if the recipe's form can hold them.

    It can if they have no more bits, and if each of the recipe's groups lies within one of theirs. Scales are rounded
    to what the recipe stores: those of groups to bfloat16, by at most 1/256 of themselves. Negative ones stay only
    where XNNPACK does not compute (see `_turn`): in embeddings, and in groups of weight-only linears.

    Args:
        module: a linear or embedding; changed in place if its integers stay.
        q: the recipe.

    Returns:
        Whether they stay.
    """
    stored, wanted = module.weight, _expected_layouts(module, q)[0]
    if wanted is None or not isinstance(stored, IntxUnpackedToInt8Tensor):
        return False
    dtype, size, _ = wanted
    block = stored.block_size[-1]
    if (dtype is INT4 and stored.target_dtype is not INT4) or block % size:
        return False
    # One row quantized shows the types that the recipe has beside the integers.
    row = nn.Linear(1, 1, bias=False, device="meta")
    row.weight = nn.Parameter(torch.ones(1, stored.shape[1], device=stored.device), requires_grad=False)
    _quantize_rows(row, _config(module, q))
    made: Any = row.weight
    if isinstance(module, nn.Linear) and (q.scheme in DYNAMIC or not group_of(module, q)):
        stored = _turn(stored)
    scale = stored.scale.repeat_interleave(block // size, 1).to(made.scale.dtype)
    module.weight = nn.Parameter(
        IntxUnpackedToInt8Tensor(
            qdata=stored.qdata,
            scale=scale,
            zero_point=scale.new_zeros(scale.shape, dtype=made.zero_point.dtype),
            **{name: getattr(made, name) for name in made.tensor_attribute_names},
        ),
        requires_grad=False,
    )
    return True


def _turn(weight: Any) -> Any:
    """A weight with positive scales, for XNNPACK takes no others: with a scale, the integers of its group turn.

    GGUF's Q4_0 has the largest weight of a group as -8 steps, so half of its scales are negative, and 8 is no integer
    of 4 bits. That weight becomes 7, and the scale the one with the least squares of errors.
    """
    turned = weight.scale < 0
    if not bool(turned.any()):
        return weight
    size = weight.block_size[-1]
    integers, scale = weight.qdata.clone(), weight.scale.clone()
    highest = 7 if weight.target_dtype is INT4 else 127
    step = max(1, BLOCK_WEIGHTS // integers.shape[1])
    for start in range(0, len(integers), step):
        here = turned[start : start + step]
        groups = integers[start : start + step].unflatten(1, (-1, size))
        wanted = -groups[here].float()
        got = wanted.clamp(max=highest)
        fit = 1 + ((wanted - got) * got).sum(-1) / got.square().sum(-1).clamp(min=1)
        groups[here] = got.to(torch.int8)
        scale[start : start + step][here] *= -fit
    attributes = {name: getattr(weight, name) for name in weight.tensor_attribute_names}
    return IntxUnpackedToInt8Tensor(qdata=integers, scale=scale, zero_point=weight.zero_point, **attributes)


def _quantize_rows(module: nn.Linear | nn.Embedding, config: Any) -> None:
    """`quantize_` some rows at a time, and join: rows do not depend on each other.

    What torchao makes on its way takes a dozen bytes per weight, here those of a block only.
    """
    weight = module.weight.detach()
    step = max(1, BLOCK_WEIGHTS // weight.shape[1])
    whole: dict[str, torch.Tensor] = {}
    for start in range(0, len(weight), step):
        part = nn.Linear(1, 1, bias=False, device="meta")
        part.weight = nn.Parameter(floats(weight, slice(start, start + step)), requires_grad=False)
        quantize_(part, config, lambda _module, _name: True)
        made: Any = part.weight
        for name in made.tensor_data_names:
            block = getattr(made, name)
            whole.setdefault(name, block.new_empty((len(weight), *block.shape[1:])))[start : start + step] = block
    attributes = {name: getattr(made, name) for name in made.tensor_attribute_names}
    module.weight = nn.Parameter(IntxUnpackedToInt8Tensor(**whole, **attributes), requires_grad=False)


def group_of(linear: nn.Linear, q: Quantization) -> int:
    """Weights per scale of a linear; 0 for a whole row, as where it is no longer than a group (LAuReL's, of 64).

    XNNPACK does not load a linear of one group.
    """
    return 0 if linear.weight.shape[-1] <= q.group_size else q.group_size


def _config(module: nn.Module, q: Quantization) -> Any:
    """What torchao is to do with a linear or an embedding; None for nothing."""
    if isinstance(module, nn.Embedding):
        return None if q.embedding_bits == 32 else _embedding_config(q)
    return _linear_config(q, group_of(module, q)) if isinstance(module, nn.Linear) else None


def _linear_config(q: Quantization, group_size: int | None = None) -> Any:
    group_size = q.group_size if group_size is None else group_size
    if q.scheme == "fp32":
        return None
    search = IntxChooseQParamsAlgorithm("hqq_scale_only" if q.algorithm == "hqq" else "affine")
    if q.scheme in DYNAMIC:
        return Int8DynamicActivationIntxWeightConfig(
            weight_dtype=_WEIGHT_DTYPES[q.scheme],
            weight_granularity=_granularity(group_size),
            weight_mapping_type=_MAPPINGS[q.mapping],
            # XNNPACK keeps the scales of groups in bf16: with the same here, eager equals deployed.
            weight_scale_dtype=torch.bfloat16 if group_size else None,
            intx_choose_qparams_algorithm=search,
        )
    return IntxWeightOnlyConfig(
        weight_dtype=_WEIGHT_DTYPES[q.scheme],
        granularity=_granularity(group_size),
        mapping_type=_MAPPINGS[q.mapping],
        intx_choose_qparams_algorithm=search,
    )


def quantize_turn(turn: Turn) -> None:
    """Give a matrix of a turned table 4 bits per weight, if that changes nothing (see `turned`)."""
    exact, mapping = turn.weight.detach().clone(), MappingType.SYMMETRIC_NO_CLIPPING_ERR
    _quantize_rows(turn, IntxWeightOnlyConfig(weight_dtype=INT4, granularity=PerAxis(0), mapping_type=mapping))
    if not torch.allclose(floats(turn.weight.detach()), exact, rtol=1e-5, atol=0):
        turn.weight = nn.Parameter(exact, requires_grad=False)


def _embedding_config(q: Quantization) -> Any:
    return IntxWeightOnlyConfig(
        weight_dtype=_EMBEDDING_DTYPES[q.embedding_bits],
        granularity=_granularity(q.embedding_group_size),
        mapping_type=_MAPPINGS[q.mapping],
    )


def _granularity(group_size: int) -> PerGroup | PerAxis:
    return PerGroup(group_size) if group_size else PerAxis(0)


def _check_groups(what: str, width: int, group_size: int, key: str) -> None:
    if group_size and width % group_size:
        raise UserError(f"{what} has rows of {width} weights, which {key}={group_size} does not divide")


def unpack(linear: nn.Linear) -> None:
    """Let a linear compute as its quantized weight does, without unpacking that in every call; until forward is popped.

    Takes the memory of the weight as floats. A linear that is not quantized stays as it is.
    """
    weight: Any = linear.weight
    if isinstance(weight, IntxUnpackedToInt8Tensor):
        unpacked, dynamic = weight.dequantize(), weight.activation_quantization is not None

        def forward(input: torch.Tensor) -> torch.Tensor:
            return functional.linear(rounded_activations(input) if dynamic else input, unpacked, linear.bias)

        linear.forward = forward  # type: ignore[method-assign]


def rounded_activations(rows: torch.Tensor) -> torch.Tensor:
    """Activations [..., width] as the dynamic schemes round them: to 256 steps of each row's range, which holds 0."""
    lowest = rows.amin(-1, keepdim=True).clamp_(max=0)
    scale = (rows.amax(-1, keepdim=True).clamp_(min=0) - lowest).div_(255).clamp_(min=torch.finfo(torch.float32).eps)
    zero = (-128 - torch.round(lowest / scale)).clamp_(-128, 127)
    return torch.round(rows * (1 / scale)).add_(zero).clamp_(-128, 127).sub_(zero).mul_(scale)


def quantize_checkpoint(
    folder: Path, q: Quantization, out: Path, on_module: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Read a checkpoint module by module, quantize each at once, and write the weights; the model is never whole.

    The files `quantized-00000.pt`, `quantized-00001.pt`, … have the same bytes in any process.

    Args:
        folder: a checkpoint in Hugging Face layout.
        q: what to do.
        out: an existing folder for the files.
        on_module: called with (modules done, modules in all).

    Returns:
        `Requantized.figures`.

    Raises:
        UserError: the weights do not fit config.json or the recipe.
    """
    shards, requantized = Shards(out), Requantized()
    _, modules, fill, packed, _ = prepare(Folder(folder))
    for done, (name, module) in enumerate(modules, start=1):
        fill(name, module, as_stored=True)
        before = module.weight if f"{name}.weight" in packed else None
        stayed = quantize_module(name, module, q)
        if before is not None:
            requantized.add(before, module.weight, stayed)
        shards.add(name, module)
        if on_module is not None:
            on_module(done, len(modules))
    shards.close()
    return requantized.figures()


class Shards:
    """Writes modules into `quantized-00000.pt`, `quantized-00001.pt`, …; a few of them wait in memory."""

    def __init__(self, out: Path) -> None:
        """Write into an existing folder."""
        self.out, self.shard, self.count, self.size = out, dict[str, torch.Tensor](), 0, 0

    def add(self, name: str, module: nn.Module) -> None:
        """Take a module's own weights, which it loses."""
        for own, value in module.state_dict().items():
            if "." not in own:  # its children come by themselves
                quantized = isinstance(value, IntxUnpackedToInt8Tensor)
                self.shard[f"{name}.{own}"] = (value if quantized else value.float()).cpu()
                self.size += value.numel()
        module._apply(lambda tensor: tensor.to("meta"), recurse=False)  # its children have not come yet
        if self.size >= SHARD_WEIGHTS:
            self.close()

    def close(self) -> None:
        """Write what waits."""
        path = self.out / f"quantized-{self.count:05}.pt"
        with path.open("wb") as stream:  # a path's name would become part of the file
            torch.save(self.shard, stream)
        self.shard, self.count, self.size = {}, self.count + 1, 0


def load_quantized(folder: Path, saved: Path, q: Quantization) -> PreTrainedModel:
    """Rebuild the model of `quantize_checkpoint` from a checkpoint's config and the saved weights.

    The weights stay mapped to their files until they are used.

    Args:
        folder: the checkpoint; only config.json is read.
        saved: the folder that `quantize_checkpoint` filled.
        q: the settings it was quantized with.

    Returns:
        The causal LM in eval mode, without gradients.

    Raises:
        UserError: the file is unreadable, or holds another model or another quantization.
    """
    model, _ = build_skeleton(Folder(folder))
    fill_computed_buffers(model)
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(saved.glob("quantized-*.pt")):
        try:
            weights |= torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
            raise UserError(f"{path} is not a file of quantized weights: quantize again") from error
    if is_turned(weights):
        turn_table(model)
    expected = model.state_dict()
    if weights.keys() != expected.keys():
        name = min(weights.keys() ^ expected.keys())
        raise UserError(f"{saved} does not belong to {folder}: tensor {name} is in only one of them")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"{saved} does not belong to {folder}: tensor {name} has shape {list(tensor.shape)} "
                f"instead of {list(expected[name].shape)}"
            )
    model.load_state_dict(weights, assign=True)
    for name, module in model.named_modules():
        plain = isinstance(module, (nn.Linear, nn.Embedding)) and not isinstance(module, Turn) and not stays_float(name)
        if plain and _layout(module.weight) not in _expected_layouts(module, q):
            raise UserError(f"{saved} was not quantized with the given recipe: {name} differs; quantize again")
    return model.eval().requires_grad_(False)


_Layout = tuple[torch.dtype, int, bool]  # weight type, weights per scale, whether activations are quantized


def _layout(weight: torch.Tensor) -> _Layout | None:
    """How a weight is quantized; None if it is not."""
    if not isinstance(weight, IntxUnpackedToInt8Tensor):
        return None
    return weight.target_dtype, weight.block_size[-1], weight.activation_quantization is not None


def _expected_layouts(module: Any, q: Quantization) -> list[_Layout | None]:
    width = module.weight.shape[-1]
    if isinstance(module, nn.Embedding):
        if q.embedding_bits == 32:
            return [None]
        return [(_EMBEDDING_DTYPES[q.embedding_bits], q.embedding_group_size or width, False)]
    if q.scheme == "fp32":
        return [None]
    layout = (_WEIGHT_DTYPES[q.scheme], group_of(module, q) or width, q.scheme in DYNAMIC)
    return [layout] if q.mixed_bits is None else [layout, *((torch.int8, width, dynamic) for dynamic in (True, False))]

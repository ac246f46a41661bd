"""A peft adapter as what a loaded program takes: A and B of each linear, all of one rank, the scaling within B."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from et_pipeline.checkpoints.adapter import CONFIG, WEIGHTS
from et_pipeline.errors import UserError
from et_pipeline.models.adapted import DOWN, UP

if TYPE_CHECKING:
    import torch

_TENSOR = re.compile(r"base_model\.model\.(?P<linear>.+)\.lora_(?P<part>[AB])\.weight")
_MERGE = "merge it into the model instead (model.adapter)"
# Settings of peft with which an adapter is more, or other, than a product beside each linear.
_OTHERS = (
    "use_dora",
    "modules_to_save",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "lora_bias",
    "fan_in_fan_out",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
)


class Lora(NamedTuple):
    """A low-rank adapter: y = W x + B A x (Hu et al. 2021, arXiv:2106.09685).

    Attributes:
        base: the model that it was trained for, as it names it.
        rank: the largest of its linears.
        linears: A [rank, in] and B [out, rank], float32 and scaled, by the linear's name in the base.
    """

    base: str | None
    rank: int
    linears: dict[str, tuple[torch.Tensor, torch.Tensor]]


def read_lora(folder: Path) -> Lora:
    """Read a LoRA or rsLoRA adapter of peft.

    Raises:
        UserError: a file is missing, broken or a pickle, or the adapter is of a kind that only merging can apply.
    """
    from safetensors import SafetensorError, safe_open

    config, path = _config(folder), folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{folder} has no {WEIGHTS}; save the adapter with peft's save_pretrained")
    found: dict[str, dict[str, torch.Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no dict
                tensor = _TENSOR.fullmatch(name)
                if tensor is None:
                    raise UserError(f"{path} holds {name}, which a loaded program cannot take; {_MERGE}")
                found.setdefault(tensor["linear"], {})[tensor["part"]] = file.get_tensor(name).float()
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error})") from error
    linears = {}
    for linear, parts in found.items():
        if len(parts) != 2 or parts["A"].dim() != 2 or parts["A"].shape[0] != parts["B"].shape[-1]:
            raise UserError(f"{path} lacks one of lora_A and lora_B of {linear}, or their ranks differ")
        if not all(part.isfinite().all() for part in parts.values()):
            raise UserError(f"{path} holds a number of {linear} that is not finite: the adapter is damaged")
        linears[linear] = parts["A"], parts["B"] * _scaling(config, linear, parts["A"].shape[0])
    if not linears:
        raise UserError(f"{path} holds no adapter")
    return Lora(config.get("base_model_name_or_path"), max(a.shape[0] for a, _ in linears.values()), linears)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} is no adapter: it has no {CONFIG}; give the folder that peft's save_pretrained made")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind, bias = config["peft_type"], config.get("bias", "none")
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is no configuration of peft") from error
    if kind != "LORA":
        raise UserError(f"{path} has peft_type={kind!r}, and a loaded program takes LORA only; {_MERGE}")
    others = [f"{key}={config[key]!r}" for key in _OTHERS if config.get(key)] + ([f"bias={bias!r}"] * (bias != "none"))
    if others:
        raise UserError(f"{path} has {others[0]}, which is more than a loaded program can take; {_MERGE}")
    return dict(config)


def _scaling(config: Mapping[str, Any], linear: str, rank: int) -> float:
    """What peft multiplies the product by; rsLoRA divides by the root of the rank (arXiv:2312.03732)."""
    patterns, usual = config.get("alpha_pattern") or {}, config.get("lora_alpha", 8)  # as peft has it
    try:
        key = next((each for each in patterns if re.match(rf"(.*\.)?({each})$", linear)), None)
        alpha = float(usual if key is None else patterns[key])
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{CONFIG} has lora_alpha={usual!r} and alpha_pattern={patterns!r}, which are no numbers for {linear}"
        ) from error
    if not math.isfinite(alpha):
        raise UserError(f"{CONFIG} has lora_alpha={alpha} for {linear}, which is no number to multiply by")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def fit(lora: Lora, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The adapter as tensors of a program, filled up with zeros to its rank.

    Args:
        lora: the adapter.
        shapes: of the program's tensors for it, by name, in the order of the model.

    Raises:
        UserError: it is for a linear that the program has not, of other sizes, or of a larger rank.
    """
    fitted = {}
    for linear, (down, up) in lora.linears.items():
        parts = _parts(linear, shapes)
        if not parts:
            raise UserError(
                f"the adapter changes {linear}, for which the program has no place: it is for another base, or for a "
                "table of tokens or an output head, which only merging can change"
            )
        rank = shapes[f"{parts[0]}.{DOWN}"][0]
        if lora.rank > rank:
            raise UserError(
                f"the adapter is of rank {lora.rank} and the program takes {rank} at most; make the bundle with "
                f"model.adapter_rank={lora.rank}"
            )
        sizes = [shapes[f"{part}.{UP}"][0] for part in parts]
        wanted = shapes[f"{parts[0]}.{DOWN}"][1], sum(sizes)
        if (down.shape[1], up.shape[0]) != wanted:
            raise UserError(
                f"the adapter is for another base: its {linear} has {down.shape[1]} inputs and {up.shape[0]} outputs, "
                f"the program's {wanted[0]} and {wanted[1]}"
            )
        for part, rows in zip(parts, up.split(sizes), strict=True):
            for name, tensor in ((f"{part}.{DOWN}", down), (f"{part}.{UP}", rows)):
                fitted[name] = tensor.new_zeros(shapes[name])
                fitted[name][: tensor.shape[0], : tensor.shape[1]] = tensor
    return fitted


def _parts(linear: str, shapes: Mapping[str, Any]) -> list[str]:
    """The program's linears that one of the base has become; several if it was a fused one."""
    whole = f"model.{linear}"  # the decoder in export form holds the model under that name
    if f"{whole}.{DOWN}" in shapes:
        return [whole]
    return [name.removesuffix(f".{DOWN}") for name in shapes if name.startswith(f"{whole}.") and name.endswith(DOWN)]

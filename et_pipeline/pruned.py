"""How much pruning cuts: from config.json alone, without torch, so that a plan knows it too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from et_pipeline.architecture import read_architecture
from et_pipeline.errors import UserError
from et_pipeline.gemma import check_walked
from et_pipeline.states import has_mixers

LEAST = 0.5  # of its channels, and of its groups of heads, that a layer keeps
ROUNDING = (128, 64, 32)  # what groups of quantized weights divide
COARSER = 0.02  # of the channels that may go for the sake of a rounder number


class Width(NamedTuple):
    """How wide each layer is."""

    channels: int
    heads: int
    groups: int

    @property
    def config(self) -> dict[str, int]:
        """As config.json says it."""
        return {
            "intermediate_size": self.channels,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.groups,
        }


def choose_width(whole: Width, hidden: int, count: Callable[[Width], int], size: float) -> Width:
    """The widest layers with which a model has no more than a share of its parameters: all heads, if that will do.

    Args:
        whole: of the model.
        hidden: numbers per token between layers.
        count: how many parameters it has with a width.
        size: parameters that are left, as a share of all.

    Raises:
        UserError: layers of half the width are still too large.
    """
    target = size * count(whole)
    most, heads, groups = whole
    fewest = math.ceil(LEAST * most / 32) * 32
    smallest = 1.0
    for left in range(groups, math.ceil(LEAST * groups) - 1, -1):
        width = Width(most, heads // groups * left, left)
        if hidden % width.heads:  # which some families refuse
            continue
        wide, half = (count(width._replace(channels=each)) for each in (most, fewest))
        smallest = half / count(whole)
        if half <= target:
            channels = most if wide <= target else fewest + int((target - half) * (most - fewest) / (wide - half))
            return width._replace(channels=_rounded(channels, most))
    raise UserError(
        f"size={size:g} cannot be reached by narrower layers: at {LEAST:.0%} of their width {smallest:.0%} of the "
        "parameters are left; ask for that, or drop layers too (prune_depth)"
    )


def _rounded(channels: int, most: int) -> int:
    """Down, to the roundest number that takes few channels more."""
    if channels == most:
        return most
    fits = [each for each in ROUNDING if channels % each <= COARSER * most]
    multiple = fits[0] if fits else ROUNDING[-1]
    return channels // multiple * multiple


def layers_to_drop(layers: int, whole: int, one: int, size: float) -> int:
    """How many layers have to go.

    Args:
        layers: of the model.
        whole: its parameters.
        one: those of the same with one layer.
        size: parameters that are left, as a share of all, at the most.

    Raises:
        UserError: so few layers would be left that there is none.
    """
    each = (whole - one) / (layers - 1) if layers > 1 else whole
    drop = math.ceil((1 - size) * whole / each)
    if drop >= layers:
        raise UserError(
            f"size={size:g} cannot be reached by dropping layers: one of {layers} leaves "
            f"{1 - (layers - 1) * each / whole:.0%} of the parameters; ask for more, or make layers narrower "
            "(prune_width)"
        )
    return drop


def check_prunable(config: Mapping[str, Any], where: str, kinds: Sequence[str]) -> None:
    """Refuse a family that cannot be cut in one of the ways, before anything is measured.

    Raises:
        UserError: says what would work.
    """
    if not kinds:
        return
    name = str(config.get("text_config", config).get("model_type"))
    check_walked(name, "pruning")
    if "prune_width" in kinds and has_mixers(config):
        raise UserError(
            f"{where} is of a {name}, some of whose layers have a mixer instead of attention, which prune_width does "
            "not know; drop layers instead (adapt=prune_depth)"
        )


def pruned_config(config: Mapping[str, Any], where: str, kinds: Sequence[str], share: float) -> dict[str, Any]:
    """The config.json of a pruned model, but for which layers are dropped: here it is the last.

    Args:
        config: of the model.
        where: what to call it in a message.
        kinds: of pruning, in order.
        share: parameters that each of them leaves.

    Raises:
        UserError: nothing is known of the family, or it cannot become so small.
    """
    check_prunable(config, where, kinds)
    made = dict(config)

    def count(**changes: Any) -> int:
        return read_architecture({**made, **changes}, where).parameters

    for kind in kinds:
        known = read_architecture(made, where)
        if kind == "prune_depth":
            one = count(**_layers(made, 1))
            made |= _layers(made, known.layers - layers_to_drop(known.layers, known.parameters, one, share))
        else:
            made["head_dim"] = known.head_dim
            whole = Width(made["intermediate_size"], made["num_attention_heads"], known.kv_heads)
            made |= choose_width(whole, known.hidden_size, lambda width: count(**width.config), share).config
    return made


def _layers(config: Mapping[str, Any], count: int) -> dict[str, Any]:
    kinds = config.get("layer_types")
    return {"num_hidden_layers": count, **({"layer_types": kinds[:count]} if kinds else {})}

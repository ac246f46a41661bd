"""The programs that are asked for: one, or several where groups are given as lists."""

from __future__ import annotations

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from et_pipeline.backends import get_backend
from et_pipeline.errors import UserError
from et_pipeline.job.swept import suffix
from et_pipeline.settings import Settings, load_settings

_SEVERAL = ("backend", "recipe", "device")  # groups of which one bundle may hold several
_GROUPS = (*_SEVERAL, "model", "task", "experiment")


def chosen_programs(composed: DictConfig) -> list[Settings]:
    """The settings of each program of the bundle; several, where backends and devices are given as lists.

    Each backend takes the first recipe that it supports. One that compiles for a chip makes a program for each NPU of
    the devices; devices with other chips run the others' programs. A plan looks at every backend and device.

    Raises:
        UserError: a group that belongs to the bundle as a whole is given as a list, or a device has no program.
    """
    parsed = OverridesParser.create().parse_overrides(HydraConfig.get().overrides.task)
    chosen = {each.key_or_group: each.value() for each in parsed}
    lists = {group: value for group, value in chosen.items() if group in _GROUPS and isinstance(value, list)}
    if not lists:
        return [load_settings(composed)]
    for group, options in lists.items():
        if group not in _SEVERAL:
            raise UserError(f"{group}={_listed(options)} holds several values; add -m to run each of them")
        if not options or len(set(options)) < len(options):
            raise UserError(f"{group}={_listed(options)} must hold different names, and at least one")
    others = [each.input_line or "" for each in parsed if each.key_or_group not in lists]

    def settings(**names: str) -> Settings:
        options = [f"{group}={name}" for group, name in names.items()]
        return load_settings(hydra.compose(HydraConfig.get().job.config_name, [*others, *options]))

    devices = [{"device": device} for device in lists.get("device", ())] or [{}]
    recipes = [{"recipe": recipe} for recipe in lists.get("recipe", ())] or [{}]
    found: list[Settings] = []
    for name in lists.get("backend", ()) or [None]:
        backend = {} if name is None else {"backend": name}
        tries = [settings(**backend, **devices[0], **recipe) for recipe in recipes]
        kind = get_backend(tries[0].backend.name)
        fits = [kind.supports(each.recipe.quantization).ok for each in tries]
        recipe = recipes[fits.index(True) if True in fits else 0]  # none: the first one's reason will be told
        if tries[0].mode == "plan" or tries[0].backend.soc:
            made = [settings(**backend, **device, **recipe) for device in devices]
            found += made if tries[0].mode == "plan" else _by_npu(made)
        else:
            found.append(settings(**backend, **devices[0], **recipe))
    if len({each.name for each in found}) > 1:  # nobody named the bundle, so it is called after all that is in it
        parts = dict.fromkeys(f"{each.recipe.name}-{each.backend.name}" for each in found)
        name = "-".join([found[0].model.name, *parts])
        found = [each.model_copy(update={"name": name}) for each in found]
    return found


def context_is_typed() -> bool:
    """Whether somebody says how long the context is; what an option of `model` has is a default, as of any model."""
    parsed = OverridesParser.create().parse_overrides(HydraConfig.get().overrides.task)
    return any(each.key_or_group == "model.max_context" for each in parsed)


def told_apart(programs: list[Settings]) -> list[Settings]:
    """The same, called so that no other job of a sweep writes the same bundle."""
    if programs[0].mode == "plan" or programs[0].until != "bundle":
        return programs
    ending = suffix()
    return [each.model_copy(update={"name": each.name + ending}) for each in programs]


def _listed(options: list[str]) -> str:
    return f"[{','.join(map(str, options))}]"


def _by_npu(programs: list[Settings]) -> list[Settings]:
    """One program per NPU, for all chips that have it; devices without one are left to other backends."""
    from et_pipeline.backends.qnn_sdk import chips

    known = [each for each in programs if each.backend.soc in chips()] or programs
    first: dict[object, Settings] = {}
    for each in known:
        soc = each.backend.soc or ""
        npu = chips().get(soc, soc)
        kept = first.setdefault(npu, each)
        if soc not in kept.backend.socs:
            backend = kept.backend.model_copy(update={"also": (*kept.backend.also, soc)})
            first[npu] = kept.model_copy(update={"backend": backend})
    return list(first.values())

"""What a sweep goes through, and names of bundles that tell its jobs apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from et_pipeline.errors import UserError


def searched(config: DictConfig) -> list[Override]:
    """What a sweep was asked for: `hydra.sweeper.params`, and the overrides of its command line.

    Args:
        config: of the whole sweep, with Hydra's own node.

    Raises:
        UserError: `hydra.sweeper.params` is no mapping, or a range has no values.
    """
    params = config.hydra.sweeper.get("params") or {}
    if not isinstance(params, Mapping):
        raise UserError(f"hydra.sweeper.params={params} is no mapping; write {{recipe.group_size: '32,64'}}")
    lines = [f"{key}={value}" for key, value in params.items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())  # which glob(..) asks for options
    given: dict[str, Override] = {}
    for override in parser.parse_overrides([*lines, *config.hydra.overrides.task]):
        refuse_empty(override)
        given[override.get_key_element()] = override  # the command line's are later, and count
    return list(given.values())


def refuse_empty(override: Override) -> None:
    """Refuse a range without values, which Hydra goes through without a word, or never gets through.

    Raises:
        UserError: it is one.
    """
    value = override.value()
    if isinstance(value, RangeSweep) and (value.step == 0 or next(iter(value.range()), None) is None):
        line = override.input_line or override.get_key_element()
        raise UserError(f"{line} has no values; range(start,stop,step) takes steps from start that end before stop")


def suffix() -> str:
    """What a bundle's name lacks to tell this job from others of its sweep: keys that it does not tell, with values.

    A name tells a key if another value gives another name, which Hydra is asked.
    """
    ran = HydraConfig.get()
    saved = Path(ran.sweep.dir) / "multirun.yaml"  # sweepers write it first of all
    if ran.mode is not RunMode.MULTIRUN or not saved.is_file():
        return ""
    sweep = OmegaConf.load(saved)
    assert isinstance(sweep, DictConfig)
    every = {each.get_key_element(): each for each in searched(sweep) if each.is_sweep_override()}
    mine = {each.get_key_element(): each for each in OverridesParser.create().parse_overrides(list(ran.overrides.task))}
    parts = []
    for key in sorted(set(every) & set(mine)):
        value = mine[key].get_value_element_as_str()
        other = next((each for each in _values(every[key]) if each != value), value)
        others = [each.input_line or "" for name, each in mine.items() if name != key]
        names = {hydra.compose(ran.job.config_name, [*others, f"{key}={each}"]).name for each in (value, other)}
        if len(names) == 1:
            parts.append(re.sub(r"[^A-Za-z0-9.]+", "_", f"{key.rpartition('.')[2]}{value}").strip("_"))
    return "".join(f"-{part}" for part in parts)


def _values(override: Override) -> list[str]:
    """What a key goes through; of an interval its ends."""
    if override.is_interval_sweep():
        ends = override.value()
        assert isinstance(ends, IntervalSweep)
        return [str(ends.start), str(ends.end)]
    return list(override.sweep_string_iterator())

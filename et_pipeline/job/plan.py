"""What `mode=plan` asks for: one forecast, beside the same with every recipe or on every device."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TypeVar

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from yaml import YAMLError

from et_pipeline.backends import get_backend
from et_pipeline.errors import UserError
from et_pipeline.forecast import positions
from et_pipeline.report import plots
from et_pipeline.settings import Device, Recipe, Settings, shortened
from et_pipeline.survey import Survey, survey

log = logging.getLogger(__name__)
ALL_DEVICES = "all"
Option = TypeVar("Option", bound=BaseModel)


def forecast(settings: Settings, yields: bool = False) -> Survey:
    """Forecast what was asked for, beside every recipe or every device, and draw it where that is wanted.

    Args:
        settings: the run.
        yields: shorten a context that the model does not have, instead of refusing it.

    Raises:
        UserError: as `survey`; or there is no forecast of what was asked for, or no picture can be written.
    """
    if settings.plot is not None and settings.plot.suffix != ".svg":
        raise UserError(f"plot={settings.plot} is not a name ending in .svg, the one format that is drawn")
    if settings.backend.name != "xnnpack":
        raise UserError(f"mode=plan forecasts backend=xnnpack, and backend={settings.backend.name} was chosen")
    if settings.recipe.prefer is not None:
        log.warning(
            "recipe=auto finds its recipe by measuring; forecast is recipe=8da4w, and what it finds may be larger"
        )
        plain = {"prefer": None, "name": f"{settings.recipe.scheme}-g{settings.recipe.group_size}"}
        settings = settings.model_copy(update={"recipe": settings.recipe.model_copy(update=plain)})
    if yields:
        settings = shortened(settings, positions(settings.model))
    every = settings.device.name == ALL_DEVICES
    if every and settings.adapt.prunes and settings.adapt.size == "device":
        raise UserError("adapt.size=device makes the model fit one device, and device=all is every one; choose one")
    recipes = {} if every else _options("recipe", Recipe)
    backend = get_backend(settings.backend.name)
    usable = {name: recipe for name, recipe in recipes.items() if backend.supports(recipe.quantization).ok}
    devices = _options("device", Device) if every else None
    result = survey(settings, usable, devices)
    if settings.plot is not None:
        picture = plots.survey_svg(result)
        try:
            settings.plot.parent.mkdir(parents=True, exist_ok=True)
            settings.plot.write_text(picture, encoding="utf-8")
        except OSError as error:
            raise UserError(f"plot={settings.plot} cannot be written: {error.strerror}; choose another file") from error
    return result


def _options(group: str, kind: type[Option]) -> dict[str, Option]:
    """Every option of a group that stands for itself, from all folders in which Hydra looks.

    The files are read directly: composing each would take ten times as long as the plan.

    Raises:
        UserError: a file holds something else.
    """
    found: dict[str, Option] = {}
    for source in HydraConfig.get().runtime.config_sources:
        for path in sorted((Path(source.path) / group).glob("*.yaml")) if source.path else ():
            try:
                config = OmegaConf.load(path)
                if path.stem in found or "defaults" in config:
                    continue
                plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            except (OmegaConfBaseException, YAMLError):  # made to be completed by others, or not asked for
                continue
            try:
                found[path.stem] = kind.model_validate_json(json.dumps(plain))
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(map(str, first["loc"]))
                raise UserError(f"{path} is not a {group}: {key or 'it'}: {first['msg'].lower()}") from error
    return found

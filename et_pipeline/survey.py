"""A forecast beside the same with other recipes or on other devices, and of the model that pruning leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from et_pipeline import gemma
from et_pipeline.architecture import Architecture, read_architecture
from et_pipeline.errors import UserError
from et_pipeline.forecast import Plan, check_groups, config_of, forecast, read_model
from et_pipeline.pruned import pruned_config
from et_pipeline.settings import Adapt, Device, Recipe, Settings
from et_pipeline.states import kinds_of_layers


class Survey(BaseModel):
    """One plan in full, and the same with other recipes on its device, or on other devices.

    Attributes:
        over: what the others differ in.
        chosen: what was asked for; None where it was every device.
    """

    model_config = ConfigDict(frozen=True)

    over: str
    chosen: Plan | None
    plans: tuple[Plan, ...]


def survey(settings: Settings, recipes: dict[str, Recipe], devices: dict[str, Device] | None) -> Survey:
    """Forecast a bundle, and what it is compared with.

    Args:
        settings: the run.
        recipes: to show beside the chosen one, if that is on one device.
        devices: to show with the chosen recipe, instead of its own device.

    Raises:
        UserError: the model's config is missing or broken, or the recipe does not fit its shapes.
    """
    known = read_adapted(settings)
    check_groups(known, settings.recipe)
    check_recipe(known.family, settings.recipe)
    if devices is not None:
        plans = [forecast(settings, known, settings.recipe, device) for device in devices.values()]
        return Survey(over="device", chosen=None, plans=tuple(sorted(plans, key=lambda each: -each.pace)))
    chosen = forecast(settings, known, settings.recipe, settings.device)
    if settings.adapt.prunes:
        whole = read_model(settings.model).parameters
        left = f"{known.parameters / whole:.1%} of {whole:,} after {' and '.join(settings.adapt.prunes)}"
        chosen = chosen.model_copy(update={"pruned": left})
    others = {chosen.recipe: chosen}
    for recipe in recipes.values():
        try:
            check_groups(known, recipe)
        except UserError:  # not asked for, and not possible with this model
            continue
        others.setdefault(recipe.name, forecast(settings, known, recipe, settings.device))
    return Survey(over="recipe", chosen=chosen, plans=tuple(sorted(others.values(), key=lambda each: each.pte_bytes)))


def check_recipe(family: str, recipe: Recipe) -> None:
    """Refuse what a recipe does with the layers of a model, where a family's do not let it.

    Raises:
        UserError: says what would work.
    """
    if recipe.calibrated or recipe.transform != "none":
        gemma.check_walked(family, "calibration")
    if recipe.transform != "none" and kinds_of_layers(family):
        raise UserError(
            f"recipe.transform={recipe.transform} is for layers of attention, and some of family {family} have a mixer "
            "instead; use recipe.transform=none"
        )


def read_adapted(settings: Settings) -> Architecture:
    """The architecture of the model after pruning, which is read as by `read_model`.

    Raises:
        UserError: likewise, or pruning cannot do that.
    """
    known = read_model(settings.model)
    if not settings.adapt.prunes:
        return known
    config, where = config_of(settings.model)
    adapt = sized(settings, config, where)
    return read_architecture(pruned_config(config, where, adapt.prunes, adapt.share), where)


def sized(settings: Settings, config: Mapping[str, Any], where: str) -> Adapt:
    """What is done to the model, `adapt.size=device` being the largest share, in hundredths, that fits the device.

    Args:
        settings: of the run.
        config: the content of config.json.
        where: what to call it in a message.

    Raises:
        UserError: the whole model fits, or nothing that pruning can leave does.
    """
    adapt = settings.adapt
    if not adapt.prunes or adapt.size != "device":
        return adapt
    plan = forecast(settings, read_architecture(config, where), settings.recipe, settings.device)
    limit = f"{settings.device.name}'s {plan.limit_bytes / 1e9:.1f} GB for an app"
    if plan.fits:
        raise UserError(
            f"adapt.size=device: the whole model fits {limit} already, with {plan.resident_bytes / 1e9:.1f} GB; leave "
            f"{' and '.join(adapt.prunes)} out of adapt, or say how much is to be left, such as adapt.size=0.75"
        )
    for percent in range(99, 0, -1):
        smaller = adapt.model_copy(update={"size": percent / 100})
        try:
            made = pruned_config(config, where, smaller.prunes, smaller.share)
        except UserError as error:
            raise UserError(
                f"adapt.size=device: the least that {' and '.join(adapt.prunes)} can leave takes "
                f"{plan.resident_bytes / 1e9:.1f} GB, more than {limit}; take fewer bits or a shorter context, or "
                "prune both ways (adapt=[prune_depth,prune_width])"
            ) from error
        plan = forecast(settings, read_architecture(made, where), settings.recipe, settings.device)
        if plan.fits:
            return smaller
    raise AssertionError(percent)

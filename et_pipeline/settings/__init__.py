"""Frozen, validated settings: one class per config group.

Hydra composes `conf/`; `load_settings` turns the result into a `Settings`. Past this room nobody sees a `DictConfig`. A
stage receives only the classes it reads, so a cache key can list exactly what a result depends on.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from et_pipeline.errors import UserError
from et_pipeline.settings.combinations import check_combination, shortened
from et_pipeline.settings.groups import (
    OWN,
    RANDOM,
    Adapt,
    Algorithm,
    Amount,
    Backend,
    Calibration,
    Checkpoint,
    Device,
    Distillation,
    Evidence,
    ExportForm,
    Frozen,
    Gate,
    KvCache,
    LearnedText,
    Mapping,
    Measure,
    Metric,
    Model,
    Paths,
    Prune,
    Quantization,
    Recipe,
    Samples,
    Scheme,
    Sentence,
    Settings,
    StageName,
    Sweep,
    Task,
    Training,
    Transform,
    UseCase,
    Verify,
)
from et_pipeline.settings.words import closest, first_line

__all__ = [
    "OWN",
    "RANDOM",
    "Adapt",
    "Algorithm",
    "Amount",
    "Backend",
    "Calibration",
    "Checkpoint",
    "Device",
    "Distillation",
    "Evidence",
    "ExportForm",
    "Frozen",
    "Gate",
    "KvCache",
    "LearnedText",
    "Mapping",
    "Measure",
    "Metric",
    "Model",
    "Paths",
    "Prune",
    "Quantization",
    "Recipe",
    "Samples",
    "Scheme",
    "Sentence",
    "Settings",
    "StageName",
    "Sweep",
    "Task",
    "Training",
    "Transform",
    "UseCase",
    "Verify",
    "closest",
    "first_line",
    "load_settings",
    "load_sweep",
    "setting_names",
    "shortened",
]

Kind = TypeVar("Kind", bound=BaseModel)


def load_settings(composed: Any) -> Settings:
    """Turn what Hydra composed into frozen settings.

    Args:
        composed: the job's `DictConfig`, without Hydra's own node.

    Raises:
        UserError: one sentence naming the first key that is missing, unknown or of the wrong kind.
    """
    from omegaconf import OmegaConf

    model = composed.get("model")
    if model and OmegaConf.is_missing(model, "source") and model.get("adapter"):
        model.source = model.adapter  # which names the model that it is for
    settings = _valid(Settings, composed)
    check_combination(settings)
    return settings


def load_sweep(composed: Any) -> Sweep:
    """The same of what concerns a sweep as a whole, whose other keys may have several values."""
    return _valid(_OfSweep, {"sweep": composed}).sweep


class _OfSweep(Frozen):
    sweep: Sweep


def _valid(kind: type[Kind], composed: Any) -> Kind:
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(OmegaConf.create(composed), resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} has no value; give one, for example {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'config'} cannot be resolved: {first_line(error)}") from error
    try:
        # By way of JSON, where a list is a tuple, and strict typing still holds.
        return kind.model_validate_json(json.dumps(plain))
    except ValidationError as error:
        raise UserError(_sentence(error)) from error


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    key, given = ".".join(map(str, first["loc"])), json.dumps(first["input"], default=str)
    if first["type"] == "extra_forbidden":
        known = _fields_at(first["loc"][:-1])
        return f"{key} is not a setting{closest(str(first['loc'][-1]), known)}"
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "string_too_short":
        return f"{key}={given} is empty; give it a value, or leave it out"
    return f"{key}={given} is not valid: {first['msg'][0].lower()}{first['msg'][1:]}"


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    kind: Any = Settings
    for part in location:
        kind = kind.model_fields[part].annotation if part in getattr(kind, "model_fields", {}) else None
    return list(getattr(kind, "model_fields", {}))


def setting_names(kind: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    """All keys of the settings, dotted."""
    names = []
    for name, field in kind.model_fields.items():
        names.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += setting_names(field.annotation, f"{prefix}{name}.")
    return names

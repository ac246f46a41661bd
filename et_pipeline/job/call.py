"""A job that Python code asks for: its keywords become Hydra's overrides, its mistakes a `UserError`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, open_dict

from et_pipeline import CONF, job
from et_pipeline.errors import StageError, UserError
from et_pipeline.job.mistakes import told
from et_pipeline.survey import Survey

if TYPE_CHECKING:
    from et_pipeline.pipeline import Result


def run(overrides: Sequence[str], settings: Mapping[str, Any]) -> Result:
    """See `et_pipeline.run`."""
    (made,) = _do("run", overrides, settings)
    assert not isinstance(made, Survey)
    return made


def plan(overrides: Sequence[str], settings: Mapping[str, Any]) -> Survey:
    """See `et_pipeline.plan`."""
    surveys = [each for each in _do("plan", overrides, settings) if isinstance(each, Survey)]
    if len(surveys) > 1:
        raise UserError(f"these are {len(surveys)} plans; call plan for each, or with device=all for every phone")
    return surveys[0]


def _do(mode: str, overrides: Sequence[str], settings: Mapping[str, Any]) -> list[Result] | list[Survey]:
    if isinstance(overrides, str):
        raise UserError(f"{overrides} must stand in a list: [{overrides!r}]")
    lines = [*overrides, *(f"{key}={_text(value)}" for key, value in settings.items()), f"mode={mode}"]
    with told(lines), _composed(lines) as (composed, outputs):
        try:
            return job.do(composed, outputs, quiet=not sys.stderr.isatty())
        except StageError:  # whose log tells more
            raise
        except (UserError, OSError):
            job.forget(outputs)
            raise
        finally:
            job.remove_empty(outputs)


@contextmanager
def _composed(lines: list[str]) -> Iterator[tuple[DictConfig, Path]]:
    """What Hydra makes of overrides, and the folder for logs; a Hydra of the caller's is put back afterwards."""
    ours, config = GlobalHydra.instance(), HydraConfig.instance()
    outer = ours.hydra, config.cfg
    ours.clear()
    try:
        with hydra.initialize_config_dir(str(CONF), job_name="et-pipeline", version_base="1.3"):
            composed = hydra.compose("config", lines, return_hydra_config=True)
            config.set_config(composed.copy())
            with open_dict(composed):
                outputs = Path(composed.pop("hydra").run.dir).absolute()
            yield composed, outputs
    finally:
        restored = GlobalHydra.instance()
        restored.hydra, config.cfg = outer


def _text(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    return QuotedString(str(value).replace("${", "\\${"), Quote.single).with_quotes()

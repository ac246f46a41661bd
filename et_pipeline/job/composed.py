"""Settings from Hydra's overrides, for commands that have other arguments of their own."""

from __future__ import annotations

from collections.abc import Iterable

from hydra import compose, initialize_config_dir

from et_pipeline import CONF
from et_pipeline.settings import Settings, load_settings


def composed(overrides: Iterable[str]) -> Settings:
    """The settings that a command line of `et-pipeline` with these overrides has.

    Raises:
        UserError: as `load_settings`.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_settings(compose("config", overrides=list(overrides)))

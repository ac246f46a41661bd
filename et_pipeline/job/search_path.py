"""Hydra also looks into the folders of other packages, after ours."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from et_pipeline import CONF, plugins


class OptionsOfPlugins(SearchPathPlugin):
    """Hydra asks it whenever it begins."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folders, unless this is another program's Hydra."""
        if any((each.path or "").endswith(str(CONF)) for each in search_path.get_path()):
            for folder in plugins.folders():
                search_path.append(provider=folder.parent.name, path=f"file://{folder}")


def register() -> None:
    """Let Hydra know."""
    Plugins.instance().register(OptionsOfPlugins)

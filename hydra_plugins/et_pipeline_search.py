"""`hydra/sweeper=optuna`: Hydra takes sweepers of this package only, and imports it for other programs too."""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """What `conf/hydra/sweeper/optuna.yaml` names; `et_pipeline.job.search` does the work."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See Hydra."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """See Hydra."""
        from et_pipeline.job.search import search

        assert self.config is not None

        def launch(jobs: list[list[str]], first: int) -> list[Any]:
            self.validate_batch_is_legal(jobs)
            return [each.return_value for each in self.launcher.launch(jobs, initial_job_idx=first)]

        search(self.config, launch)

"""et_pipeline: from a Hugging Face language model to a verified ExecuTorch bundle for a phone.

    import et_pipeline

    forecast = et_pipeline.plan(model="llama3_2_1b", device="galaxy_s22")
    result = et_pipeline.run(model="tiny_assistant", recipe="8da4w")
    with et_pipeline.open_bundle(result.bundle) as bundle:
        print(bundle.chat("Hi"))

Importing this takes no time: torch and Hydra come with the first call.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.errors import UserError

if TYPE_CHECKING:
    from et_pipeline.bundle import Bundle
    from et_pipeline.pipeline import Result
    from et_pipeline.survey import Survey

__version__ = "0.1.0"
__all__ = ["CONF", "UserError", "open_bundle", "plan", "run"]

_HERE = Path(__file__).parent
# In a wheel the config tree lies inside the package, in a checkout beside it.
CONF = next(folder for folder in (_HERE / "conf", _HERE.parent / "conf") if folder.is_dir())


def run(overrides: Sequence[str] = (), /, **settings: Any) -> Result:
    """Takes a model to a bundle, as `et-pipeline` does: what the cache holds is reused.

    Args:
        overrides: Settings as on the command line: `["recipe=8da4w", "verify.items_per_task=0"]`.
        settings: The same by name: `recipe="8da4w", **{"verify.items_per_task": 0}`. A list of backends, recipes or
            devices makes several programs in one bundle.

    Returns:
        The bundle's folder, its manifest and what each stage made. A bundle that failed its gate is there too:
        `result.manifest.quality.gate.passed`.

    Raises:
        UserError: One sentence that names the setting, its value and what would work.
    """
    from et_pipeline.job import call

    return call.run(overrides, settings)


def plan(overrides: Sequence[str] = (), /, **settings: Any) -> Survey:
    """Forecasts size, memory, speed and export cost, as `et-pipeline mode=plan` does: nothing is downloaded or made.

    Args:
        overrides: As of `run`.
        settings: As of `run`; `device="all"` forecasts for every phone.

    Returns:
        The forecast of what was asked for, and of the same with every recipe or on every device.

    Raises:
        UserError: One sentence that names the setting, its value and what would work.
    """
    from et_pipeline.job import call

    return call.plan(overrides, settings)


def open_bundle(path: Path | str, *, threads: int | None = None, packed: Path | None = None) -> Bundle:
    """Opens a bundle and checks every file's hash; its model is loaded when it is first used.

    Args:
        path: The folder, or the .zip, which is unpacked until the bundle is closed.
        threads: Threads that compute; by default the runtime chooses.
        packed: Folder in which a large model's weights are kept as this processor wants them, to load fast next time.

    Returns:
        The bundle, with its `manifest`, and `chat`, `stream`, `session`, `embed` and `verify`.

    Raises:
        UserError: It is no bundle, or a file is missing, altered, too many or unsafe.
    """
    from et_pipeline import bundle

    return bundle.open_bundle(path, threads=threads, packed=packed)

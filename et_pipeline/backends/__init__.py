"""One module per delegate, behind the interface of `base`."""

from __future__ import annotations

from collections.abc import Callable

from et_pipeline import plugins
from et_pipeline.backends.base import Backend, Delegation, Support
from et_pipeline.errors import UserError

__all__ = ["Backend", "Delegation", "Support", "get_backend"]


def get_backend(name: str, soc: str | None = None) -> Backend:
    """Look a backend up by its name in `conf/backend/`: one of ours, or another package's (see `plugins`).

    Args:
        name: one of those.
        soc: the chip to compile for, where the backend compiles for one.

    Raises:
        UserError: there is no such backend.
    """
    from et_pipeline.backends.coreml import CoreMlBackend
    from et_pipeline.backends.portable import PortableBackend
    from et_pipeline.backends.qnn import QnnBackend
    from et_pipeline.backends.vulkan import VulkanBackend
    from et_pipeline.backends.xnnpack import XnnpackBackend

    made: dict[str, Callable[[], Backend]] = {
        "xnnpack": XnnpackBackend,
        "qnn": lambda: QnnBackend(soc),
        "coreml": CoreMlBackend,
        "vulkan": VulkanBackend,
        "portable": PortableBackend,
    }
    if name in made:
        return made[name]()
    found: Backend | None = plugins.load("backends", name, Backend, lambda make: make(soc))
    if found is None:
        raise UserError(f"backend={name} does not exist; there is {', '.join([*made, *plugins.names('backends')])}")
    return found

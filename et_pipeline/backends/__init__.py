"""One module per delegate, behind the interface of `base`."""

from __future__ import annotations

from et_pipeline.backends.base import Backend, Delegation, Support
from et_pipeline.errors import UserError

__all__ = ["Backend", "Delegation", "Support", "get_backend"]

_NAMES = ("xnnpack",)


def get_backend(name: str) -> Backend:
    """Look a backend up by its name in `conf/backend/`.

    Raises:
        UserError: there is no such backend.
    """
    from et_pipeline.backends.xnnpack import XnnpackBackend

    if name != "xnnpack":
        raise UserError(f"backend={name} does not exist; there is {', '.join(_NAMES)}")
    return XnnpackBackend()

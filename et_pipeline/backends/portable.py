"""ExecuTorch's own reference kernels: slow, the same everywhere, and what others are compared with."""

from __future__ import annotations

from et_pipeline.backends.base import StaticBackend


class PortableBackend(StaticBackend):
    """The kernels."""

    can_execute = True
    schemes = ("fp32",)
    reason = "the reference kernels compute in float32"
    instead = "use recipe=fp32"

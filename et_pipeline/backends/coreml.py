"""Apple's Core ML (iOS 18): lowered on any host, executed on Apple hardware only."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any

from et_pipeline.backends.base import StaticBackend
from et_pipeline.errors import UserError
from et_pipeline.upstream.refusals import noted_refusals


class CoreMlBackend(StaticBackend):
    """The delegate."""

    schemes = ("fp32", "int4_weight_only", "int8_weight_only")
    reason = "Core ML takes weights in 4 or 8 bits and float activations"
    instead = "use recipe.scheme=int4_weight_only"

    def check(self) -> None:
        """Refuse a host without Apple's converter, which executorch installs where there is one.

        Raises:
            UserError: says where.
        """
        if find_spec("coremltools") is None:
            raise UserError(
                "backend=coreml lowers with coremltools, which is not installed; there is one for Linux and macOS with "
                "Python below 3.14"
            )

    def partitioner(self) -> Any:
        """See `StaticBackend.partitioner`."""
        import coremltools
        from executorch.backends.apple.coreml.compiler import CoreMLBackend
        from executorch.backends.apple.coreml.partition import CoreMLPartitioner

        specs = CoreMLBackend.generate_compile_specs(
            minimum_deployment_target=coremltools.target.iOS18, compute_precision=coremltools.precision.FLOAT16
        )
        return CoreMLPartitioner(compile_specs=specs)

    def noted(self) -> AbstractContextManager[dict[str, str]]:
        """See `StaticBackend.noted`: the partitioner asks coremltools, which says yes or no."""
        from executorch.backends.apple.coreml.partition.coreml_partitioner import _OperatorsSupportedForCoreMLBackend

        return noted_refusals(
            _OperatorsSupportedForCoreMLBackend, lambda checker, node: "coremltools cannot convert it"
        )

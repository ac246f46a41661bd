"""The overrides by which an export and a lowering take a third of the time, together; each has its own file and tests.

torch 2.13.0 and executorch 1.5.1 walk a program some twenty times between the model and the file, each time asking what
shape every operator's result has. Nothing here changes what is computed: a test compares the bytes with upstream's own
way. Percentages in these files are of the CPU time of export, save, load and lowering, measured on a Llama of four
layers (26 s) by leaving one override out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from et_pipeline.upstream.collector import seldom_collected
from et_pipeline.upstream.decomposition import one_decomposition
from et_pipeline.upstream.dependencies import bitmask_dependencies
from et_pipeline.upstream.kernels import remembered_kernels
from et_pipeline.upstream.packing import packed_pairs
from et_pipeline.upstream.passes import idle_passes
from et_pipeline.upstream.recompile import late_recompile
from et_pipeline.upstream.shapes import remembered_shapes


@contextmanager
def cheap_tracing() -> Iterator[None]:
    """Within the context torch.export and its decompositions cost less."""
    with seldom_collected(), late_recompile(), remembered_kernels():
        yield


@contextmanager
def cheap_lowering() -> Iterator[None]:
    """Within the context ExecuTorch's lowering costs less, in time and memory."""
    with ExitStack() as overrides:
        for override in (
            cheap_tracing,
            remembered_shapes,
            one_decomposition,
            idle_passes,
            bitmask_dependencies,
            packed_pairs,
        ):
            overrides.enter_context(override())
        yield

"""A program is traced once where `to_edge_transform_and_lower` traces it three times. Worth 38 %.

The first trace only makes it functional, as every trace does; the last one decomposes what the second one left, and
mostly there is nothing left. To go when executorch asks that before it traces.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


@contextmanager
def one_decomposition() -> Iterator[None]:
    """Within the context; see above."""
    import torch
    from executorch.exir.graph_module import contains_any_call_fn_target_op
    from torch.export import ExportedProgram

    decompose = ExportedProgram.run_decompositions

    postponed: list[Any] = []

    def run(self: Any, decomp_table: Any = None, **options: Any) -> Any:
        if type(decomp_table) is dict and not decomp_table:  # the default table calls itself equal to an empty one
            postponed.append(self)
            return self
        due = any(self is each for each in postponed)
        if not due:
            # A tensor's size is in the table, and stays as it is.
            left = set(decomp_table) - {torch.ops.aten.sym_size.int}
            if not contains_any_call_fn_target_op(self.graph_module, left):
                return self
        postponed.clear()
        return decompose(self, decomp_table, **options)

    with mock.patch.object(ExportedProgram, "run_decompositions", run):
        yield

"""A graph's Python code is generated when it is called, as torch's own `_LazyGraphModule` does. Worth 8 to 20 %.

Every pass leaves a graph behind with code of some ten thousand lines, which Python compiles and nobody runs. To go when
torch's `GraphModule` is lazy by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


@contextmanager
def late_recompile() -> Iterator[None]:
    """Within the context; see above."""
    from torch.fx import GraphModule
    from torch.fx.graph import _PyTreeCodeGen

    recompile = GraphModule.recompile

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        recompile(self)  # replaces the forward of this module's own class
        return type(self).forward(self, *args, **kwargs)

    def mark(self: Any) -> None:
        codegen = self._graph._codegen
        if isinstance(codegen, _PyTreeCodeGen):
            self._in_spec, self._out_spec = codegen.pytree_info.in_spec, codegen.pytree_info.out_spec
        self._code = "# generated when the graph is called"  # upstream puts it into messages for logs
        type(self).forward = forward

    with mock.patch.object(GraphModule, "recompile", mark):
        yield

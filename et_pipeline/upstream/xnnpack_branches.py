"""XNNPACK takes the branches of a decoder's graph, where attention to the tokens of a prompt is.

executorch 1.5.1 looks for partitions in the outermost graph alone, takes nothing whose length is known only at run
time, and drops delegates that only a branch uses. To go when it does none of that: `models.attention` then works as is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def infer_symbolic_views(module: Any) -> Any:
    """Edge pass: write the one symbolic size of a view as -1, so that XNNPACK takes it; no retrace."""
    from executorch.exir.dialects._ops import ops
    from torch.fx.passes.infra.pass_base import PassResult

    changed = False
    for graph_module in (module, *_branches(module).values()):
        for node in graph_module.graph.nodes:
            if node.op != "call_function" or node.target != ops.edge.aten.view_copy.default:
                continue
            symbolic = [index for index, size in enumerate(node.args[1]) if not isinstance(size, int)]
            if len(symbolic) == 1:
                # From the result's shape, because the argument may hold a -1 of its own already.
                shape = [-1 if index in symbolic else int(size) for index, size in enumerate(node.meta["val"].shape)]
                node.args = (node.args[0], shape)
                changed = True
        graph_module.graph.eliminate_dead_code()
        graph_module.recompile()
    return PassResult(module, changed)


def _branches(module: Any) -> dict[str, Any]:
    """The graphs that a graph chooses between at run time, by their names."""
    from executorch.exir.graph_module import get_control_flow_submodules

    return {name: branch for name, branch, _ in get_control_flow_submodules(module)}


def branch_partitioner(configs: Sequence[Any]) -> Any:
    """Upstream's partitioner with these configurations; it looks into the branches of a graph too."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    class _Partitioner(XnnpackPartitioner):
        """Looks into the branches too, for those with batched matrix products; the others have views alone."""

        def partition(self, exported_program: Any) -> Any:
            result = super().partition(exported_program)
            for name, branch in _branches(exported_program.graph_module).items():
                if not any(getattr(node.target, "__name__", "") == "aten.bmm.default" for node in branch.graph.nodes):
                    continue
                for part in self.generate_partitions(_BranchProgram(exported_program, branch)):
                    tag = f"{name}_{part.id}"
                    for node in part.nodes:
                        node.meta["delegation_tag"] = tag
                    result.partition_tags[tag] = self.delegation_spec
            return result

    return _Partitioner(configs=configs)


class _BranchProgram:
    """A branch of a program as the partitioner wants it, which asks a program for its graph and for its weights."""

    def __init__(self, program: ExportedProgram, branch: Any) -> None:
        self.program, self.graph_module, self.graph = program, branch, branch.graph

    def __getattr__(self, name: str) -> Any:
        return getattr(self.program, name)


@contextmanager
def lengths_known_at_run_time() -> Iterator[None]:
    """Within the context the partitioner takes lengths that cannot be 0."""
    from executorch.backends.xnnpack.partition.config import xnnpack_config
    from torch.fx.experimental.symbolic_shapes import has_free_unbacked_symbols
    from torch.utils._sympy.value_ranges import bound_sympy

    def may_be_empty(value: Any) -> bool:
        """Upstream refuses every length that is known only at run time, because it might be 0."""

        def least(size: Any) -> Any:
            return (
                size if isinstance(size, int) else bound_sympy(size.node.expr, size.node.shape_env.var_to_range).lower
            )

        return has_free_unbacked_symbols(value) and any(least(size) < 1 for size in value.shape)

    with mock.patch.object(xnnpack_config, "has_free_unbacked_symbols", may_be_empty):
        yield


@contextmanager
def branches_delegates_kept() -> Iterator[None]:
    """Within the context what only a branch uses is not removed.

    Removing unused submodules, fx looks for users in the outermost graph alone and drops the branches' delegates.
    """
    from torch.fx import GraphModule

    with mock.patch.object(GraphModule, "delete_all_unused_submodules"):
        yield

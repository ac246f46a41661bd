"""XNNPACK: fast CPU kernels on every phone, and on this host.

Upstream (executorch 1.5.1) lowers weight-only linears without an error and computes garbage, because it takes them for
statically quantized ones and writes the weight's integers as if they were floats. XNNPACK itself has kernels of float32
activations with 4- and 8-bit weights per output channel. `_LinearConfig` and `_QuantParams` make the lowering reach
them; `_split_biases` keeps the bias out of them. Everything is scoped to `lower`.

A decoder attends to the tokens of a prompt in one branch of its graph and to a single token in the other
(`models.attention`). Upstream looks for partitions in the outermost graph alone, and takes nothing whose length is
known only at run time; `_partitioner` and `_scoped_overrides` let it take the first branch's products and softmax.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from et_pipeline.backends.base import (
    Delegation,
    Support,
    delegated_operators,
    fallback_operators,
    fallback_reasons,
    operator_name,
    operators,
    shared_weights,
)
from et_pipeline.cheap_tracing import cheap_lowering

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from et_pipeline.settings import Quantization

_TRANSPOSE_B = 1  # XNN_FLAG_TRANSPOSE_B
INLINE_BYTES = 1024  # constants outside the delegate up to this size stay in the program: they are part of its form
SCHEMES = ("8da4w", "8da8w", "int4_weight_only", "int8_weight_only")
GROUP_MULTIPLE = 32  # XNNPACK's blockwise 4-bit kernels

# Upstream runs 17 passes over every delegate, each of them a trace of its own: half of the time of a lowering. A graph
# of these operators alone needs these passes alone; the others look for convolutions, pooling, batch norms, padding,
# concatenations and resizing. A test compares the bytes. Where a length is known only at run time, some cannot run.
_PLAIN_OPERATORS = frozenset(
    (
        "aten._softmax.default",
        "aten.add.Tensor",
        "aten.bmm.default",
        "aten.clamp.default",
        "aten.clone.default",
        "aten.cos.default",
        "aten.gelu.default",
        "aten.linear.default",
        "aten.mul.Tensor",
        "aten.neg.default",
        "aten.permute_copy.default",
        "aten.rsqrt.default",
        "aten.sigmoid.default",
        "aten.sin.default",
        "aten.slice_copy.Tensor",
        "aten.sub.Tensor",
        "aten.tanh.default",
        "aten.view_copy.default",
        "getitem",
        "torchao.choose_qparams_affine.default",
        "torchao.dequantize_affine.default",
        "torchao.quantize_affine.default",
    )
)
_PLAIN_PASSES = frozenset(("XNNPACKRemoveCloneOpsTransform", "DimOrderOpsRevertPass"))


# Operators that decoders are made of on purpose: kernels of ExecuTorch, which no delegate has.
_OURS = {
    "llama::custom_sdpa": "ExecuTorch's own attention over a cache",
    "llama::update_cache": "ExecuTorch's own write into the cache",
    "llama::update_cache_with_indices": "ExecuTorch's own write into the ring of a sliding window",
}


# Of the branch for a single token, into which the partitioner does not look.
_SINGLE_TOKEN = {"aten::view_copy": "a shape for ExecuTorch's own attention, not worth a delegate"}


class XnnpackBackend:
    """The XNNPACK delegate."""

    can_execute = True
    static = False
    calibrated = False
    timed = True

    def prepare(self) -> None:
        """The runtime has it."""

    def check(self) -> None:
        """It lowers on any host."""

    def supports(self, q: Quantization) -> Support:
        """Refuse what XNNPACK has no kernel for or what the lowering computes wrongly."""
        if q.scheme == "fp32":
            return Support(ok=True)
        if q.scheme not in SCHEMES:
            return _refuse(
                "XNNPACK computes in float32, with activations that are quantized at run time or not at all",
                f"use recipe.scheme={', '.join(SCHEMES)}",
            )
        if q.mapping == "asymmetric":
            return _refuse(
                "XNNPACK's kernels have no zero points for weights, and ignore them",
                "use recipe.mapping=symmetric_no_clipping_error",
            )
        if q.group_size and q.scheme in ("int4_weight_only", "int8_weight_only"):
            return _refuse(
                "XNNPACK has weight-only kernels with one scale per output channel only",
                "use recipe.group_size=0, or recipe.scheme=8da4w for groups",
            )
        if q.group_size and q.scheme == "8da8w":
            return _refuse(
                "XNNPACK has groups for 4-bit weights only",
                "use recipe.group_size=0, or recipe.scheme=8da4w for groups",
            )
        if q.group_size % GROUP_MULTIPLE:
            return _refuse(
                f"XNNPACK's groups are multiples of {GROUP_MULTIPLE} weights",
                f"use recipe.group_size={GROUP_MULTIPLE * max(1, round(q.group_size / GROUP_MULTIPLE))}",
            )
        return Support(ok=True)

    def lower(
        self, program: ExportedProgram, metadata: dict[str, Any], out: Path, external_weights: bool = False
    ) -> Delegation:
        """Lower `program`, which is changed, and stream it to `out`.

        Args:
            program: an exported decoder with plain tensors.
            metadata: constant methods to put beside `forward`.
            out: the .pte file to write.
            external_weights: whether the weights go into a .ptd beside it; the same weights give the same bytes,
                whatever the program around them is.

        Returns:
            What runs in the delegate and what beside it.
        """
        import torch
        from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
        from executorch.exir.passes import MemoryPlanningPass
        from executorch.exir.passes.sym_shape_eval_pass import ConstraintBasedSymShapeEvalPass

        _split_biases(program)
        with cheap_lowering(), _scoped_overrides(), _noted() as reasons:
            edge = to_edge_transform_and_lower(
                program,
                partitioner=[_partitioner()],
                transform_passes=[_infer_symbolic_views],
                constant_methods=dict(sorted(metadata.items())),  # the order is part of the file
                # The verifier rejects llama::update_cache, and dim-order copies are one more operator to fall back on.
                compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
            )
        delegated = delegated_operators(edge.exported_program())
        if external_weights:
            _externalize(edge, out.stem)
        config = ExecutorchBackendConfig(
            extract_delegate_segments=True,
            # Turns dequantize + embedding into one quantized embedding; without it there is no such kernel.
            do_quant_fusion_and_const_prop=True,
            memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False),
            # Memory for at most prefill_chunk tokens, by the constraints of the export.
            sym_shape_eval_pass=ConstraintBasedSymShapeEvalPass(),
            external_constants=(lambda node: _external_tag(node, out.stem)) if external_weights else False,
        )
        # Removing unused submodules, fx looks for users in the outermost graph alone and drops the branches' delegates.
        with cheap_lowering(), mock.patch.object(torch.fx.GraphModule, "delete_all_unused_submodules"):
            executable = edge.to_executorch(config)
        with out.open("wb") as stream:
            executable.write_to_file(stream)
        if external_weights:
            executable.write_tensor_data_to_file(out.parent)
        plan = next(p for p in executable.executorch_program.execution_plan if p.name == "forward")
        fallback = fallback_operators(plan)
        return Delegation(
            delegates=len(plan.delegates),
            delegated_operators=delegated,
            fallback_operators=fallback,
            fallback_reasons=fallback_reasons(fallback, _SINGLE_TOKEN | _without_kernel(fallback) | reasons),
        )


@contextmanager
def _noted() -> Iterator[dict[str, str]]:
    """Note why the partitioner leaves out what XNNPACK has kernels for: its own words, which it would log."""
    from executorch.exir.backend.utils import WhyNoPartition

    reasons: dict[str, str] = {}

    def note(self: Any, node: Any, reason: str) -> None:
        reasons[operator_name(node)] = reason

    with mock.patch.object(WhyNoPartition, "__call__", note):
        yield reasons


def _without_kernel(fallback: Mapping[str, int]) -> dict[str, str]:
    """Reasons for operators that the partitioner does not even look at, by name without overload."""
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS

    known = {config.target_name.partition(".")[0] for config in ALL_PARTITIONER_CONFIGS}
    bare = {name.partition(".")[0] for name in fallback}
    return {name: _OURS.get(name, "XNNPACK has no kernel") for name in bare if name.partition("::")[2] not in known}


def _refuse(reason: str, instead: str) -> Support:
    return Support(ok=False, reason=reason, instead=instead)


def _externalize(edge: Any, file: str) -> None:
    """Move what the delegates hold into the file of that name, ordered by its keys, which are hashes of the content."""
    store = edge._named_data_store
    store.external_data = {file: dict(sorted(store.pte_data.items()))}
    store.pte_data = {}


def _external_tag(node: Any, file: str) -> str | None:
    """The file of a weight outside the delegates, such as the embedding."""
    return file if node.meta["spec"].nbytes() > INLINE_BYTES else None


def _is_quantized_weight(node: Any) -> bool:
    return getattr(node, "op", "") == "call_function" and "dequantize_affine" in str(node.target)


def _split_biases(program: ExportedProgram) -> None:
    """Make the bias of each weight-only linear an addition of its own.

    XNNPACK's float x per-channel kernels scale the sum after the bias was added to it, so that the bias shrinks by the
    weight's scale and seems to be dropped.
    """
    import torch

    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target is not torch.ops.aten.linear.default:
            continue
        if len(node.args) < 3 or node.args[2] is None:
            continue
        activation, weight, bias = node.args
        if not _is_quantized_weight(weight) or _is_quantized_weight(activation):
            continue
        node.args = (activation, weight)
        with graph.inserting_after(node):
            added = graph.call_function(torch.ops.aten.add.Tensor, (node, bias))
        added.meta = dict(node.meta)
        node.replace_all_uses_with(added, delete_user_cb=lambda user, added=added: user is not added)
    program.graph_module.recompile()


def _infer_symbolic_views(module: Any) -> Any:
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


def _partitioner() -> Any:
    """Upstream's partitioner with a linear that knows weight-only quantization."""
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.config.gemm_configs import LinearConfig
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.utils.quant_utils import is_dequant
    from executorch.backends.xnnpack.utils.utils import get_input_node

    def is_weight_only(node: Any) -> bool:
        return is_dequant(get_input_node(node, 1)) and not is_dequant(get_input_node(node, 0))

    class _LinearConfig(LinearConfig):
        """A quantized weight with a float activation: nothing before it and nothing after it is quantized."""

        def _get_weight_deps(self, node: Any, ep: Any, precision: Any) -> Any:
            if is_weight_only(node):
                scales = get_input_node(get_input_node(node, 1), 2).meta["val"]
                if scales.shape[-1] != 1:  # groups: leaving it alone ends in an error, not in garbage
                    return False, []
            return super()._get_weight_deps(node, ep, precision)

        def _get_act_deps(self, node: Any, ep: Any, precision: Any) -> Any:
            if is_weight_only(node):
                return True, []
            return super()._get_act_deps(node, ep, precision)

        def _get_output_deps(self, node: Any, ep: Any, precision: Any) -> Any:
            return super()._get_output_deps(node, ep, ConfigPrecisionType.FP32 if is_weight_only(node) else precision)

    class _Partitioner(XnnpackPartitioner):
        """Looks into the branches too, for those with batched matrix products; the others have views alone."""

        def partition(self, exported_program: Any) -> Any:
            result = super().partition(exported_program)
            for name, branch in _branches(exported_program.graph_module).items():
                if "aten.bmm.default" not in operators(branch):
                    continue
                for part in self.generate_partitions(_BranchProgram(exported_program, branch)):
                    tag = f"{name}_{part.id}"
                    for node in part.nodes:
                        node.meta["delegation_tag"] = tag
                    result.partition_tags[tag] = self.delegation_spec
            return result

    configs = [_LinearConfig if config is LinearConfig else config for config in ALL_PARTITIONER_CONFIGS]
    return _Partitioner(configs=configs)


class _BranchProgram:
    """A branch of a program as the partitioner wants it, which asks a program for its graph and for its weights."""

    def __init__(self, program: ExportedProgram, branch: Any) -> None:
        self.program, self.graph_module, self.graph = program, branch, branch.graph

    def __getattr__(self, name: str) -> Any:
        return getattr(self.program, name)


@contextmanager
def _scoped_overrides() -> Iterator[None]:
    """Replace parts of upstream's partitioning and preprocessing for as long as one lowering runs."""
    from executorch.backends.xnnpack import xnnpack_preprocess
    from executorch.backends.xnnpack._passes import XNNPACKPassManager
    from executorch.backends.xnnpack.operators import node_visitor, op_linear
    from executorch.backends.xnnpack.operators.quant_params import QuantParams
    from executorch.backends.xnnpack.partition.config import xnnpack_config
    from torch.fx.experimental.symbolic_shapes import has_free_unbacked_symbols
    from torch.utils._sympy.value_ranges import bound_sympy

    class _PassManager(XNNPACKPassManager):
        """Leaves out the passes that have nothing to do."""

        def __init__(self, exported_program: Any, passes: Any = None) -> None:
            super().__init__(exported_program, passes)
            own: Any = self
            if operators(exported_program.graph_module).keys() <= _PLAIN_OPERATORS:
                own.passes = [each for each in own.passes if each.__name__ in _PLAIN_PASSES]

    class _QuantParams(QuantParams):
        """Writes int4 with one scale per row as such; upstream makes it a group, with its scale cut to bf16."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            own: Any = self
            if own.per_channel_group and own.group_size == own.q_input.meta["val"].shape[1]:
                own.per_channel_group, own.group_size = False, 0
                own.scale, own.zp = own.scale.reshape(-1), own.zp.reshape(-1)

    def may_be_empty(value: Any) -> bool:
        """Upstream refuses every length that is known only at run time, because it might be 0."""

        def least(size: Any) -> Any:
            return (
                size if isinstance(size, int) else bound_sympy(size.node.expr, size.node.shape_env.var_to_range).lower
            )

        return has_free_unbacked_symbols(value) and any(least(size) < 1 for size in value.shape)

    with (
        mock.patch.object(xnnpack_config, "has_free_unbacked_symbols", may_be_empty),
        mock.patch.dict(node_visitor._node_visitor_dict, _transposing_visitors(node_visitor._node_visitor_dict)),
        mock.patch.object(op_linear, "QuantParams", _QuantParams),
        mock.patch.object(xnnpack_preprocess, "XNNPACKPassManager", _PassManager),
        shared_weights(xnnpack_preprocess.XnnpackBackend),
    ):
        yield


def _transposing_visitors(visitors: dict[str, Any]) -> dict[str, Any]:
    """Let a batched matrix product take its second factor as it lies and transpose it while packing, which is free."""
    from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNBatchMatrixMultiply, XNode
    from executorch.exir.dialects._ops import ops

    product, permute = ops.edge.aten.bmm.default, ops.edge.aten.permute_copy.default

    def folded(node: Any) -> bool:
        return (
            node.op == "call_function"
            and node.target == permute
            and [dim % 3 for dim in node.args[1]] == [0, 2, 1]
            and all(user.target == product and user.args[1] is node and user.args[0] is not node for user in node.users)
        )

    products: Any = visitors["aten.bmm.default"]
    permutes: Any = visitors["aten.permute_copy.default"]

    class _Product(products):
        def define_node(self, node: Any, xnn_graph: Any, vals_to_ids: dict[Any, int], debug_handle: int) -> None:
            second = node.args[1]
            if not folded(second):
                super().define_node(node, xnn_graph, vals_to_ids, debug_handle)
                return
            tensors = node.args[0], second.args[0], node
            for each in tensors:
                self.define_tensor(each, xnn_graph, vals_to_ids)
            first, second, out = (vals_to_ids[each] for each in tensors)
            call = XNNBatchMatrixMultiply(input1_id=first, input2_id=second, output_id=out, flags=_TRANSPOSE_B)
            xnn_graph.xnodes.append(XNode(xnode_union=call, debug_handle=debug_handle))

    class _Permute(permutes):
        def define_node(self, node: Any, xnn_graph: Any, vals_to_ids: dict[Any, int], debug_handle: int) -> None:
            if not folded(node):
                super().define_node(node, xnn_graph, vals_to_ids, debug_handle)

    return {"aten.bmm.default": _Product, "aten.permute_copy.default": _Permute}

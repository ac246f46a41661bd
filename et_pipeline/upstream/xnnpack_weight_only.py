"""Quantized weights with float activations, which XNNPACK has kernels for, per output channel.

executorch 1.5.1 lowers such linears without an error and computes garbage, because it takes them for statically
quantized ones and writes the weight's integers as if they were floats. `linear_config` and `rows_as_rows` make the
lowering reach the right kernels; `split_biases` keeps the bias out of them. The second one also makes 8da4w with one
scale per row exact, which upstream writes as a group whose scale is cut to bf16 (52 dB, not 133). To go when
`test_what_upstream_lowers_to_garbage` fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def _is_quantized_weight(node: Any) -> bool:
    return getattr(node, "op", "") == "call_function" and "dequantize_affine" in str(node.target)


def split_biases(program: ExportedProgram) -> None:
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


def linear_config() -> Any:
    """Upstream's configuration of a linear for the partitioner, which knows weight-only quantization too."""
    from executorch.backends.xnnpack.partition.config.gemm_configs import LinearConfig
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
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

    return _LinearConfig


@contextmanager
def rows_as_rows() -> Iterator[None]:
    """Within the context int4 with one scale per row is written as such."""
    from executorch.backends.xnnpack.operators import op_linear
    from executorch.backends.xnnpack.operators.quant_params import QuantParams

    class _QuantParams(QuantParams):
        """Writes int4 with one scale per row as such; upstream makes it a group, with its scale cut to bf16."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            own: Any = self
            if own.per_channel_group and own.group_size == own.q_input.meta["val"].shape[1]:
                own.per_channel_group, own.group_size = False, 0
                own.scale, own.zp = own.scale.reshape(-1), own.zp.reshape(-1)

    with mock.patch.object(op_linear, "QuantParams", _QuantParams):
        yield

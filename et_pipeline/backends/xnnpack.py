"""XNNPACK: fast CPU kernels on every phone, and on this host.

Upstream's lowering is led around its faults and limits by overrides that last as long as `lower` does: see `upstream`,
`xnnpack_weight_only` above all, without which weight-only linears become garbage, and `xnnpack_lengths`, by which a
decoder's attention (`models.attention`) is delegated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.backends.base import (
    Delegation,
    Support,
    delegated_operators,
    fallback_operators,
    fallback_reasons,
)
from et_pipeline.upstream.cheap import cheap_lowering
from et_pipeline.upstream.refusals import noted_xnnpack_refusals
from et_pipeline.upstream.shared_constants import shared_constants
from et_pipeline.upstream.shared_weights import shared_weights
from et_pipeline.upstream.tensor_file import with_tensors
from et_pipeline.upstream.xnnpack_halves import halves_config, halves_widened
from et_pipeline.upstream.xnnpack_inputs import weights_from_outside
from et_pipeline.upstream.xnnpack_lengths import infer_symbolic_views, lengths_known_at_run_time
from et_pipeline.upstream.xnnpack_passes import passes_with_work
from et_pipeline.upstream.xnnpack_transpose import transposed_while_packing
from et_pipeline.upstream.xnnpack_weight_only import linear_config, rows_as_rows, split_biases

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from et_pipeline.settings import Quantization

INLINE_BYTES = 1024  # constants outside the delegate up to this size stay in the program: they are part of its form
SCHEMES = ("8da4w", "8da8w", "int4_weight_only", "int8_weight_only")
GROUP_MULTIPLE = 32  # XNNPACK's blockwise 4-bit kernels

# Operators that decoders are made of on purpose: kernels of ExecuTorch, which no delegate has.
_OURS = {
    "aten::empty": "what is used of a cache, which lies in the cache: nothing is copied",
    "llama::update_cache": "ExecuTorch's own write into the cache",
    "llama::update_cache_with_indices": "ExecuTorch's own write into the ring of a sliding window",
}


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
                whatever the program around them is. Without that, a .ptd has the program's adapter, if any: zeros.

        Returns:
            What runs in the delegate and what beside it.
        """
        from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
        from executorch.exir.passes.sym_shape_eval_pass import ConstraintBasedSymShapeEvalPass

        from et_pipeline.upstream.prefixes import planning_with_prefixes  # it needs torch

        split_biases(program)
        adaptable = not external_weights and _tell_apart(program)
        with cheap_lowering(), _scoped_overrides(), noted_xnnpack_refusals() as reasons:
            edge = to_edge_transform_and_lower(
                program,
                partitioner=[_partitioner()],
                transform_passes=[infer_symbolic_views],
                constant_methods=dict(sorted(metadata.items())),  # the order is part of the file
                # The verifier rejects llama::update_cache, and dim-order copies are one more operator to fall back on.
                compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
            )
        delegated = delegated_operators(edge.exported_program())
        if external_weights:
            _externalize(edge, out.stem)
        outside = _is_large if external_weights else lambda node: _is_adapter(node.name)
        config = ExecutorchBackendConfig(
            extract_delegate_segments=True,
            # Turns dequantize + embedding into one quantized embedding; without it there is no such kernel.
            do_quant_fusion_and_const_prop=True,
            memory_planning_pass=planning_with_prefixes(alloc_graph_input=False),
            # Memory for at most prefill_chunk tokens, by the constraints of the export.
            sym_shape_eval_pass=ConstraintBasedSymShapeEvalPass(),
            external_constants=(lambda node: out.stem if outside(node) else None),
        )
        with cheap_lowering(), shared_constants():
            executable = edge.to_executorch(config)
        with out.open("wb") as stream:
            executable.write_to_file(stream)
        if external_weights or adaptable:
            executable.write_tensor_data_to_file(out.parent)
        if adaptable:
            out.with_suffix(".ptd").write_bytes(with_tensors(out.with_suffix(".ptd"), {}))
        plan = next(p for p in executable.executorch_program.execution_plan if p.name == "forward")
        fallback = fallback_operators(plan)
        return Delegation(
            delegates=len(plan.delegates),
            delegated_operators=delegated,
            fallback_operators=fallback,
            fallback_reasons=fallback_reasons(fallback, _without_kernel(fallback) | reasons),
        )


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


def _is_large(node: Any) -> bool:
    """A weight outside the delegates, such as the embedding."""
    return bool(node.meta["spec"].nbytes() > INLINE_BYTES)


def _is_adapter(name: str) -> bool:
    from et_pipeline.models.adapted import is_adapter  # not above: it imports torch, which a plan does without

    return is_adapter(name)


def _tell_apart(program: ExportedProgram) -> bool:
    """Give each tensor of the adapter other numbers, as equal ones would share a place; whether there is any."""
    import torch

    names = [name for name in program.state_dict if _is_adapter(name)]
    for number, name in enumerate(names, start=1):
        values = torch.full_like(program.state_dict[name], number)
        program.state_dict[name] = torch.nn.Parameter(values, requires_grad=False)
    return bool(names)


def _partitioner() -> Any:
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.config.gemm_configs import LinearConfig
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    ours = weights_from_outside(linear_config(), _is_adapter)
    upstream = [ours if each is LinearConfig else each for each in ALL_PARTITIONER_CONFIGS]
    return XnnpackPartitioner([*upstream, halves_config()])


@contextmanager
def _scoped_overrides() -> Iterator[None]:
    """Replace parts of upstream's partitioning and preprocessing for as long as one lowering runs."""
    from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend as Delegate

    with ExitStack() as overrides:
        for override in (
            lengths_known_at_run_time,
            transposed_while_packing,
            halves_widened,
            rows_as_rows,
            passes_with_work,
        ):
            overrides.enter_context(override())
        overrides.enter_context(shared_weights(Delegate))
        yield

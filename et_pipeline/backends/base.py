"""What every backend offers. Importing this module needs neither torch nor executorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from et_pipeline.settings import Quantization


# What a program gets after partitioning, so that no partitioner can say anything about it.
_WRITTEN_LATER = {
    "aten::copy_": "writes a changed buffer back, after the delegates have run",
    "executorch_prim::et_view": "changes a shape alone, and moves nothing",
}


class Support(BaseModel):
    """Whether a backend computes a quantization rightly; if not, why, and the nearest thing that it does."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    reason: str = ""
    instead: str = ""


class Delegation(BaseModel):
    """What of a program runs in the delegate, and what runs as an ordinary operator beside it."""

    model_config = ConfigDict(frozen=True)

    delegates: int
    delegated_operators: dict[str, int]
    fallback_operators: dict[str, int]
    fallback_reasons: dict[str, str] = {}  # why an operator of these runs beside it, where that is known
    qairt: str | None = None  # version of Qualcomm's compiler
    hexagon: str | None = None  # version of the NPU that it compiled for
    notice: str | None = None  # about the compiler and its licence


@runtime_checkable
class Backend(Protocol):
    """A delegate of ExecuTorch."""

    can_execute: bool  # whether this host can run the result
    static: bool  # whether it takes no dynamic shape: of a decoder one token per call, of an encoder padded texts
    calibrated: bool  # whether it quantizes an exported program, by `quantize`; else the model is quantized before
    timed: bool  # whether its speed on this host means anything

    def prepare(self) -> None:
        """Load into this process what executing a program takes."""

    def check(self) -> None:
        """Refuse, with a `UserError`, a host or a chip on which it cannot lower."""

    def supports(self, q: Quantization) -> Support:
        """Say whether `q` runs on this backend and is computed rightly."""

    def lower(
        self, program: ExportedProgram, metadata: dict[str, Any], out: Path, external_weights: bool = False
    ) -> Delegation:
        """Lower `program`, which may be changed, and stream it with its constant methods to `out`.

        With `external_weights` its weights go into a file of the same name with the suffix .ptd.
        """


class StaticBackend:
    """What the delegates have in common that take one token per call and quantized weights as they are."""

    can_execute = False
    static = True
    calibrated = False
    timed = False
    schemes: tuple[str, ...]
    reason: str  # why it takes no others
    instead: str

    def prepare(self) -> None:
        """The runtime has what it takes, where it can execute the program."""

    def check(self) -> None:
        """It lowers on any host."""

    def supports(self, q: Quantization) -> Support:
        """Refuse what was not seen to lower."""
        return (
            Support(ok=True)
            if q.scheme in self.schemes
            else Support(ok=False, reason=self.reason, instead=self.instead)
        )

    def partitioner(self) -> Any:
        """What marks the delegate's part of a graph; None where there is no delegate."""
        return None

    def noted(self) -> AbstractContextManager[dict[str, str]]:
        """Within the context: why the partitioner leaves an operator out, by the name that `operator_name` gives."""
        return nullcontext({})

    def lower(
        self, program: ExportedProgram, metadata: dict[str, Any], out: Path, external_weights: bool = False
    ) -> Delegation:
        """Lower `program`, which is changed, and write it to `out`; see `Backend.lower`."""
        from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower

        assert not external_weights
        partitioner = self.partitioner()
        with self.noted() as reasons:
            edge = to_edge_transform_and_lower(
                program,
                partitioner=[] if partitioner is None else [partitioner],
                constant_methods=dict(sorted(metadata.items())),
                compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
            )
        delegated = delegated_operators(edge.exported_program())
        finished = edge.to_executorch(ExecutorchBackendConfig(do_quant_fusion_and_const_prop=True))
        with out.open("wb") as stream:
            finished.write_to_file(stream)
        plan = next(each for each in finished.executorch_program.execution_plan if each.name == "forward")
        fallback = fallback_operators(plan)
        return Delegation(
            delegates=len(plan.delegates),
            delegated_operators=delegated,
            fallback_operators=fallback,
            fallback_reasons=fallback_reasons(fallback, reasons),
        )


def operators(module: Any) -> Counter[str]:
    """Count a graph's operators."""
    return Counter(node.target.__name__ for node in module.graph.nodes if node.op == "call_function")


def delegated_operators(program: ExportedProgram) -> dict[str, int]:
    """Count what the delegates of a lowered program compute, by operator."""
    counts: Counter[str] = Counter()
    for module in program.graph_module.modules():
        original = getattr(module, "original_module", None)
        if original is not None:
            counts.update(operators(original.graph_module))
    counts.pop("getitem", None)  # takes one of several outputs and computes nothing
    return {name.removesuffix(".default"): count for name, count in sorted(counts.items())}


def fallback_operators(plan: Any) -> dict[str, int]:
    """Count the kernel calls that a finished program makes beside its delegates."""
    counts: Counter[str] = Counter()
    for chain in plan.chains:
        for instruction in chain.instructions:
            call = instruction.instr_args
            if type(call).__name__ == "KernelCall":
                operator = plan.operators[call.op_index]
                counts[f"{operator.name}.{operator.overload}" if operator.overload else operator.name] += 1
    return dict(sorted(counts.items()))


def fallback_reasons(fallback: Mapping[str, int], noted: Mapping[str, str]) -> dict[str, str]:
    """Why operators run outside the delegates, of those where it is known.

    Args:
        fallback: what `fallback_operators` counted.
        noted: reasons by the name that `operator_name` gives.
    """
    known = {**noted, **_WRITTEN_LATER}
    return {name: known[bare] for name in fallback if (bare := name.partition(".")[0]) in known}

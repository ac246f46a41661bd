"""Qualcomm's NPU (Hexagon HTP) by way of QNN: compiled for a named chip, executed here on Qualcomm's own simulator.

Weights and activations are quantized after export, with ranges from calibration (PT2E).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.backends.base import (
    Delegation,
    Support,
    delegated_operators,
    fallback_operators,
    fallback_reasons,
)
from et_pipeline.backends.qnn_sdk import chips, find_sdk, load_sdk
from et_pipeline.errors import StageError, UserError
from et_pipeline.upstream.block_scales import block_scales_as_compiled
from et_pipeline.upstream.refusals import noted_refusals
from et_pipeline.upstream.shared_weights import shared_weights

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from et_pipeline.settings import Quantization

BLOCK_MULTIPLE = 16
SCHEMES = ("16a4w", "16a8w", "8a8w", "fp16")


class QnnBackend:
    """The QNN delegate."""

    can_execute = True  # on Qualcomm's simulator
    static = True
    calibrated = True
    timed = False  # the simulator is 1000 times slower than the chip

    def __init__(self, soc: str | None) -> None:
        """Compile for the chip `soc`, such as SM8650."""
        self.soc = soc

    def prepare(self) -> None:
        """Load Qualcomm's simulator."""
        load_sdk()

    def check(self) -> None:
        """Refuse a chip that the compiler does not know, or a machine that has no compiler.

        Raises:
            UserError: says what would work.
        """
        known = chips()
        if self.soc not in known:
            raise UserError(
                f"backend.soc={self.soc} is not a Qualcomm chip that executorch knows; choose a device with one of "
                f"{', '.join(known)}"
            )
        find_sdk()

    def supports(self, q: Quantization) -> Support:
        """Refuse what the NPU has no kernel for."""
        if q.scheme not in SCHEMES:
            return Support(
                ok=False,
                reason="Qualcomm's NPU takes activations with ranges that calibration has fixed, or all in fp16",
                instead=f"use recipe=16a4w, or recipe.scheme={', '.join(SCHEMES)}",
            )
        if q.group_size and q.scheme != "16a4w":
            return Support(
                ok=False,
                reason="it has blocks for 4-bit weights only",
                instead="use recipe.group_size=0, or recipe.scheme=16a4w",
            )
        bits = 32 if q.scheme == "fp16" else 8
        if (q.embedding_bits, q.embedding_group_size) != (bits, 0):
            return Support(
                ok=False,
                reason="the embedding has 8 bits and one scale per row there, or fp16 like the rest",
                instead=f"use recipe.embedding_bits={bits} recipe.embedding_group_size=0",
            )
        if q.group_size % BLOCK_MULTIPLE:
            return Support(
                ok=False,
                reason=f"its blocks are multiples of {BLOCK_MULTIPLE} weights",
                instead=f"use recipe.group_size={BLOCK_MULTIPLE * max(1, round(q.group_size / BLOCK_MULTIPLE))}",
            )
        return Support(ok=True)

    def quantize(
        self, program: ExportedProgram, q: Quantization, calibrate: Callable[[Callable[..., Any]], None]
    ) -> ExportedProgram:
        """Quantize an exported program by the ranges that calibration shows (PT2E).

        Args:
            program: of static shape, in float32.
            q: what to do. Weights have one scale per output channel, or per block of them (LPBQ, whose scales of blocks
                are multiples of the channel's), the embedding 8 bits with a scale per row; activations have one scale
                per tensor. With 8a8w linears take and give 8 bits, the rest and a decoder's head have 16. With fp16
                there is nothing to do.
            calibrate: feeds the function that it is given with inputs like real ones.

        Returns:
            The program with its quantization written out: it computes in float32 what the NPU computes in integers.
        """
        return self.quantize_alike({"forward": program}, q, calibrate)["forward"]

    def quantize_alike(
        self, programs: Mapping[str, ExportedProgram], q: Quantization, calibrate: Callable[[Callable[..., Any]], None]
    ) -> dict[str, ExportedProgram]:
        """Quantize programs that differ in their shapes only, all by the ranges that the first one's calibration shows.

        See `quantize`. Weights come out equal, so that they can be shared, and so does what one program passes another.
        """
        if q.scheme == "fp16":
            return dict(programs)
        import torch
        from executorch.backends.qualcomm.export_utils import make_quantizer
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        load_sdk()
        recipe = _recipe(q)
        prepared = {}
        for name, program in programs.items():
            quantizer = make_quantizer(soc_model=self.soc)
            quantizer.set_recipe(recipe)
            # With guards, which use each input, a concatenation takes them for its input's observer, and a cache that
            # comes in gets another range than the one that goes out.
            prepared[name] = prepare_pt2e(program.module(check_guards=False), quantizer)
        first, *others = prepared
        with torch.no_grad(), block_scales_as_compiled():
            calibrate(prepared[first])
            for name in others:
                _observe_alike(prepared[first], prepared[name])
            done = {}
            for name, program in programs.items():
                converted = convert_pt2e(prepared.pop(name))
                converted.delete_all_unused_submodules()  # with the float weights, of which nothing needs a copy
                done[name] = torch.export.export(converted, program.example_inputs[0], strict=True)
            return done

    def lower(
        self, program: ExportedProgram, metadata: dict[str, Any], out: Path, external_weights: bool = False
    ) -> Delegation:
        """Compile `program` for the chip, and write it to `out`.

        Args:
            program: what `quantize` made; one without any quantization is computed in fp16.
            metadata: constant methods to put beside `forward`.
            out: the .pte file to write.
            external_weights: the compiler keeps them in what it compiles.

        Returns:
            What runs in the delegate and what beside it.

        Raises:
            StageError: the compiler refused the program, or did not start.
        """
        assert not external_weights
        return self._compile({"forward": program}, metadata, out)

    def lower_together(
        self, programs: Mapping[str, ExportedProgram], metadata: dict[str, Any], out: Path, shared: bool
    ) -> Delegation:
        """Compile several programs as methods of one file; see `lower`.

        Args:
            programs: by the method's name, what `quantize_alike` made. Their caches, inputs of the name `caches` and
                outputs of four axes, become the 16-bit integers that the NPU computes with; what goes out has the scale
                of what comes in, so the caller need not know it.
            metadata: constant methods to put beside them.
            out: the .pte file to write.
            shared: keep weights that are equal once; the simulator takes no such file.

        Returns:
            What runs in the delegates of all methods and what beside them.
        """
        return self._compile(programs, metadata, out, shared, integer_caches=True)

    def _compile(
        self,
        programs: Mapping[str, ExportedProgram],
        metadata: dict[str, Any],
        out: Path,
        shared: bool = False,
        integer_caches: bool = False,
    ) -> Delegation:
        load_sdk()
        import torch
        from executorch.backends.qualcomm._passes.build_quant_io import BuildQuantIo
        from executorch.backends.qualcomm.partition.qnn_partitioner import QnnOperatorSupport
        from executorch.backends.qualcomm.qnn_preprocess import QnnBackend as QnnDelegate
        from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset
        from executorch.backends.qualcomm.utils.utils import (
            generate_htp_compiler_spec,
            generate_qnn_executorch_compiler_spec,
            to_edge_transform_and_lower_to_qnn,
        )
        from executorch.exir import ExecutorchBackendConfig

        types = set().union(*map(_activation_types, programs.values()))
        spec = generate_qnn_executorch_compiler_spec(
            soc_model=QcomChipset[self.soc],
            backend_options=generate_htp_compiler_spec(use_fp16=not types, use_weight_sharing=shared),
        )
        with noted_refusals(QnnOperatorSupport, _refusal) as reasons, shared_weights(QnnDelegate), _refusals():
            edge = to_edge_transform_and_lower_to_qnn(
                {name: program.module() for name, program in programs.items()},
                {name: program.example_inputs[0] for name, program in programs.items()},
                spec,
                constant_methods=dict(sorted(metadata.items())),
                passes_job={name: _integer_caches() for name in programs} if integer_caches else None,
                # Upstream's conversion loses the change of width before a linear, which the compiler then refuses.
                convert_linear_to_conv2d=torch.uint8 not in types,
            )
        delegated: Counter[str] = Counter()
        for name in programs:
            delegated.update(delegated_operators(edge.exported_program(name)))
        finished = edge.to_executorch(ExecutorchBackendConfig(passes=[BuildQuantIo()] if integer_caches else []))
        with out.open("wb") as stream:
            finished.write_to_file(stream)
        plans = [plan for plan in finished.executorch_program.execution_plan if plan.name in programs]
        fallback: Counter[str] = Counter()
        for plan in plans:
            fallback.update(fallback_operators(plan))
        return Delegation(
            delegates=sum(len(plan.delegates) for plan in plans),
            delegated_operators=dict(sorted(delegated.items())),
            fallback_operators=dict(sorted(fallback.items())),
            fallback_reasons=fallback_reasons(fallback, reasons),
            qairt=load_sdk(),
            hexagon=chips()[self.soc or ""].hexagon,
            notice=f"Compiled with Qualcomm AI Runtime (QAIRT) {load_sdk()}, which is under Qualcomm's licence; so are "
            "the libraries of it that an app ships to run the program.",
        )


def _recipe(q: Quantization) -> Any:
    """What executorch's quantizer does with each operator."""
    import torch
    from executorch.backends.qualcomm.quantizer.quant_recipe import QuantGranularity, QuantRecipe
    from executorch.backends.qualcomm.quantizer.quantizer import ModuleQConfig, QuantDtype
    from torchao.quantization.pt2e import MinMaxObserver

    # In 8 bits a step of the masked scores of attention is a factor of e in their softmax.
    recipe = QuantRecipe(
        QuantDtype.use_16a8w, False, act_observer=MinMaxObserver, granularity=QuantGranularity.PER_TENSOR
    )
    recipe.add_node_target(
        {torch.ops.aten.linear.default},
        QuantDtype[f"use_{q.scheme}{'_block' if q.group_size else ''}"],
        False,
        act_observer=MinMaxObserver,
        granularity=QuantGranularity.PER_BLOCK if q.group_size else QuantGranularity.PER_CHANNEL,
        extra_kwargs={"block_size": (1, q.group_size)} if q.group_size else None,
    )
    if q.scheme == "8a8w":
        # Eight bits of logits are too coarse to choose a token by.
        recipe.add_regex(
            {r"lm_head"},
            QuantDtype.use_16a8w,
            False,
            act_observer=MinMaxObserver,
            granularity=QuantGranularity.PER_CHANNEL,
            priority=2,
        )
    # 8 bits and a scale per row, half the size of an activation's 16 bits. Upstream's recipes can say that of
    # linears only, so the strategy's choice is replaced.
    recipe.add_node_target(
        {torch.ops.aten.embedding.default},
        QuantDtype.use_16a8w,
        False,
        act_observer=MinMaxObserver,
        granularity=QuantGranularity.PER_CHANNEL,
    )
    recipe._strategies[-1].quant_config = ModuleQConfig(
        QuantDtype.use_16a8w, is_embedding_per_channel=True, act_observer=MinMaxObserver
    )
    return recipe


def _refusal(checker: Any, node: Any) -> str:
    """Why a node stays outside: executorch asks Qualcomm's compiler about what it can translate for it."""
    if node.target.__name__ not in checker.node_visitors:
        return "executorch cannot translate it for Qualcomm's compiler"
    return "Qualcomm's compiler refuses it in this shape and type"


def _activation_types(program: ExportedProgram) -> set[Any]:
    """The types that a program's activations are quantized to; unsigned 16-bit integers are int32 here."""
    import torch

    quantize = torch.ops.quantized_decomposed.quantize_per_tensor.default
    return {node.args[5] for node in program.graph.nodes if node.target is quantize}


def _integer_caches() -> Any:
    """The compiler's passes, one of which leaves caches that come in and go out as integers."""
    import torch
    from executorch.backends.qualcomm._passes import TagQuantIO
    from executorch.backends.qualcomm._passes.qnn_pass_manager import get_qnn_pass_manager_cls
    from executorch.backends.qualcomm.builders.utils import is_graph_output
    from executorch.backends.qualcomm.utils.constants import (
        QCOM_PASS_ACTIVATE_KEY,
        QCOM_PASS_ARGS_KWARGS_DEFAULTS_KEY,
    )

    def kind(node: Any) -> torch.dtype | None:
        given = node.op == "placeholder" and node.name.startswith("caches_")
        made = is_graph_output(node) and node.meta["val"].dim() == 4  # logits have three axes
        return torch.uint16 if given or made else None

    passes = get_qnn_pass_manager_cls().get_capture_program_passes()
    passes[TagQuantIO][QCOM_PASS_ACTIVATE_KEY] = True
    passes[TagQuantIO][QCOM_PASS_ARGS_KWARGS_DEFAULTS_KEY]["get_quant_io_dtype_fn"] = kind
    return passes


def _observe_alike(calibrated: Any, other: Any) -> None:
    """Give the observers of one prepared graph to another one, which is alike but for its shapes."""
    for node, twin in zip(calibrated.graph.nodes, other.graph.nodes, strict=True):
        assert (node.op, node.name, node.target) == (twin.op, twin.name, twin.target), f"{node} is not {twin}"
        if node.name.startswith("activation_post_process"):
            setattr(other, twin.target, getattr(calibrated, node.target))


@contextmanager
def _refusals() -> Iterator[None]:
    """Make what executorch raises where Qualcomm's libraries return an error a stage's error: they print why."""
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        if not str(error).startswith(("Failed to generate Qnn", "Failed to initialize QNN")):
            raise
        raise StageError(
            f"Qualcomm's compiler gave up ({str(error).partition('.')[0]}); lower.log of this run has what it said"
        ) from error

"""Upstream is as the overrides take it to be: a test that fails here says which of them can go."""

import dataclasses
import inspect
from collections import Counter
from unittest import mock

import pytest
import torch
from torch import nn


def counted(owner, name):
    """Count the calls of a function, by its last argument."""
    called, calls = getattr(owner, name), Counter()

    def call(*args, **options):
        calls[args[-1] if isinstance(args[-1], str) else None] += 1
        return called(*args, **options)

    return mock.patch.object(owner, name, call), calls


def test_yaml_parser():
    from executorch.exir.dialects.edge import _ops

    assert _ops.YAML.__module__ == "ruamel.yaml.main"


def test_refusals():
    """A partition has no reasons yet."""
    from executorch.exir.backend.partitioner import PartitionResult

    assert {field.name for field in dataclasses.fields(PartitionResult)} == {
        *("tagged_exported_program", "partition_tags")
    }


def test_recompile():
    graph = torch.fx.symbolic_trace(nn.ReLU())
    assert "def forward" in vars(graph)["_code"]  # generated though nobody asked


def test_shapes():
    from executorch.exir.pass_base import ExportPass

    graph = torch.export.export(nn.ReLU(), (torch.ones(2),)).graph_module
    result = ExportPass()(graph).graph_module
    before, after = ([n.meta["val"] for n in each.graph.nodes if n.op == "call_function"] for each in (graph, result))
    assert after[0] is not before[0]


def test_kernels():
    import torchao.quantization  # noqa: F401  registers them

    for name in ("choose_qparams_affine", "quantize_affine", "dequantize_affine"):
        assert not torch._C._dispatch_has_kernel_for_dispatch_key(f"torchao::{name}", "Meta")


def test_decomposition():
    from executorch.exir import to_edge_transform_and_lower
    from torch.export import ExportedProgram

    program = torch.export.export(nn.ReLU(), (torch.ones(2),))
    patch, calls = counted(ExportedProgram, "run_decompositions")
    with patch:
        to_edge_transform_and_lower(program)
    assert calls.total() > 1


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("normalize_transpose_pass", "NormalizeTransposePass"),
        ("replace_broken_ops_with_function_ops_pass", "ReplaceBrokenOpsWithFunctionalOpsPass"),
        ("memory_format_ops_pass", "DimOrderOpsRevertPass"),
        ("sym_to_tensor_pass", "SymToTensorPass"),
    ],
)
def test_passes(module, name):
    kind = getattr(__import__(f"executorch.exir.passes.{module}", fromlist=[name]), name)
    graph = torch.export.export(nn.ReLU(), (torch.ones(2),)).graph_module
    assert kind()(graph).graph_module is not graph


def test_dependencies():
    from executorch.exir.backend.canonical_partitioners.group_partitioner import _DependencyViewer

    viewer = _DependencyViewer(torch.fx.symbolic_trace(nn.ReLU()))
    assert all(type(each) is set for each in viewer.downstreams.values())


def test_program_files(tmp_path):
    from torch._export.serde import serialize
    from torch._export.serde.serialize import GraphModuleDeserializer

    trial, trials = counted(serialize, "canonicalize")
    with trial:
        torch.export.save(torch.export.export(nn.ReLU(), (torch.ones(2),)), tmp_path / "program.pt2")
    assert trials
    length = torch.export.Dim("length", min=2, max=64)
    program = torch.export.export(nn.ReLU(), (torch.ones(4, 3),), dynamic_shapes=({0: length},))
    torch.export.save(program, tmp_path / "program.pt2")
    sympify, parsed = counted(serialize.sympy, "sympify")
    assert "sympify" in inspect.getsource(GraphModuleDeserializer._parse_sym_expr)
    with sympify:
        torch.export.load(tmp_path / "program.pt2")
    assert parsed.total() > 1  # one length


def test_shared_weights():
    from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend

    program = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    copied = XnnpackBackend.copy_exported_program_for_preprocess(program, [])
    assert copied.state_dict["weight"].data_ptr() != program.state_dict["weight"].data_ptr()


def test_shared_constants():
    """Upstream writes a table twice that is a constant and named data; ours reads like it."""
    from executorch.exir._serialize._named_data_store import NamedDataStore
    from executorch.exir._serialize._program import PTEFile, deserialize_pte_binary, serialize_pte_binary
    from executorch.exir.schema import Buffer, Program, SubsegmentOffsets

    from et_pipeline.upstream.shared_constants import shared_constants

    other, table = (torch.rand(size // 4).numpy().tobytes() for size in (5000, 7000))
    store = NamedDataStore()
    for key, data in (("another", other[::-1]), ("tied", table), ("short", b"12"), ("again", other)):
        store.add_named_data(key, data)
    constants = [Buffer(storage=data) for data in (b"", b"12", other, table)]
    program = Program(0, [], constants, [], [], SubsegmentOffsets(0, []), None, [])
    file = PTEFile(program, named_data=store.get_named_data_store_output())
    upstream = bytes(serialize_pte_binary(file))
    with shared_constants():
        ours = bytes(serialize_pte_binary(file))
    assert (upstream.count(table), ours.count(table)) == (2, 1)
    assert (upstream.count(other), ours.count(other)) == (2, 1)
    theirs, own = deserialize_pte_binary(upstream), deserialize_pte_binary(ours)
    assert own.program == theirs.program
    held = [
        [each.buffers[entry.buffer_index] for entry in each.pte_data.values()]
        for each in (own.named_data, theirs.named_data)
    ]
    assert held[0] == held[1] == [other[::-1], table, b"12", other]


def test_branches_delegates():
    inner = torch.fx.symbolic_trace(nn.Sequential(nn.ReLU()))
    outer = torch.fx.symbolic_trace(nn.Sequential(nn.ReLU()))
    outer.add_submodule("branch", inner)
    node = next(iter(outer.graph.nodes))
    with outer.graph.inserting_after(node):
        outer.graph.get_attr("branch")
    outer.delete_all_unused_submodules()
    assert hasattr(outer, "branch")
    assert not hasattr(outer.get_submodule("branch"), "0.0")
    assert not list(inner.children()) or not list(inner.get_submodule("0").children())


def test_lengths_known_at_run_time():
    from executorch.backends.xnnpack.partition.config import xnnpack_config
    from torch.fx.experimental.symbolic_shapes import has_free_unbacked_symbols

    assert xnnpack_config.has_free_unbacked_symbols is has_free_unbacked_symbols


def test_transpose():
    from executorch.backends.xnnpack.operators import op_bmm

    assert "flags=0" in inspect.getsource(op_bmm)


def test_block_scales():
    from executorch.backends.qualcomm.quantizer.observers.per_block_param_observer import PerBlockParamObserver

    observer = PerBlockParamObserver(
        dtype=torch.int8, block_size=torch.Size([1, 4]), quant_min=-7, quant_max=7, qscheme=torch.per_channel_symmetric
    )
    observer(torch.tensor([[1.0] * 4 + [0.77] * 4]))
    scales, _ = observer.calculate_qparams()
    steps = scales.flatten() / scales.max() * observer.num_steps
    assert not torch.allclose(steps, steps.round())


def test_gguf_reader(tmp_path):
    import transformers.modeling_gguf_pytorch_utils as theirs

    with pytest.raises(TypeError, match="reader"):
        theirs.load_gguf_checkpoint(str(tmp_path), reader=object())


def test_packing():
    """Upstream's passes over a weight make copies of the whole of it."""
    from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor
    from torch.utils._python_dispatch import TorchDispatchMode

    from et_pipeline.upstream.packing import packed_pairs

    class Whole(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            copied = isinstance(made, torch.Tensor) and made.numel() >= weights.numel() and not made._is_view()
            self.count += copied and made.data_ptr() != weights.data_ptr()
            return made

    weights = torch.randint(-8, 8, (64, 256), dtype=torch.int8)
    with Whole() as upstream:
        expected = NodeVisitor.convert_to_qc4w(weights)
    with packed_pairs(), Whole() as ours:
        assert torch.equal(NodeVisitor.convert_to_qc4w(weights), expected)
    assert upstream.count > ours.count == 0


def test_packed_cache():
    """The bindings take a file and nothing of how the backend is to load it."""
    from executorch.extension.pybindings import portable_lib

    assert "option" not in portable_lib._load_for_executorch.__doc__
    assert "path" in portable_lib._load_for_executorch.__doc__

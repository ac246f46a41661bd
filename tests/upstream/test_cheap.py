"""Bytes and tables against upstream's own way, which the overrides replace."""

import gc
from contextlib import nullcontext
from importlib import resources

import pytest
import torch

from et_pipeline.upstream.cheap import cheap_lowering, cheap_tracing
from et_pipeline.upstream.program_files import cheap_files
from et_pipeline.upstream.yaml_parser import quick_yaml


def test_quick_yaml_reads_what_upstream_reads():
    from executorch.exir.dialects.edge import _ops
    from ruamel.yaml import YAML

    text = resources.files(_ops.edge_package).joinpath("edge.yaml").read_text(encoding="utf-8")
    assert len(_ops._edge_dialect_info) > 100
    assert _ops._edge_dialect_info == {each["inherits"]: each for each in YAML(typ="safe").load(text)}


def test_quick_yaml_leaves_the_parser_as_it_was(monkeypatch):
    from ruamel.yaml import YAML

    monkeypatch.delitem(__import__("sys").modules, "executorch.exir.dialects.edge._ops", raising=False)
    before = YAML.load
    with quick_yaml():
        assert YAML.load is not before
        assert YAML(typ="safe").load("- {a: [b, 1]}") == [{"a": ["b", 1]}]
    assert YAML.load is before


@pytest.mark.parametrize("shape", [(3, 8), (5000, 2048), (4, 7)])
def test_packed_pairs_are_upstreams(shape):
    from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor

    weights = torch.randint(-8, 8, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    expected = NodeVisitor.convert_to_qc4w(weights)
    with cheap_lowering():
        packed = NodeVisitor.convert_to_qc4w(weights)
        with pytest.raises(AssertionError):
            NodeVisitor.convert_to_qc4w(torch.full(shape, 8, dtype=torch.int8))
    assert packed.dtype == expected.dtype
    assert torch.equal(packed, expected)


def test_a_graph_changed_and_called_runs_what_it_is_now():
    graph = torch.fx.symbolic_trace(lambda x: torch.neg(x))
    (node,) = (node for node in graph.graph.nodes if node.op == "call_function")
    with cheap_tracing():
        node.target = torch.exp
        graph.recompile()
        assert graph(torch.zeros(1)).item() == 1
        node.target = torch.cos
        graph.recompile()
    assert graph(torch.full((1,), torch.pi)).item() == -1
    node.target = torch.neg
    graph.recompile()
    assert graph(torch.ones(1)).item() == -1


def test_files_are_upstreams(tmp_path):
    class Model(torch.nn.Module):
        def forward(self, x):
            return torch.cat([x, x * 2]).view(-1)

    length = torch.export.Dim("length", min=2, max=64)
    program = torch.export.export(Model(), (torch.ones(4, 3),), dynamic_shapes={"x": {0: length}})
    with (tmp_path / "upstream").open("wb") as stream:
        torch.export.save(program, stream)
    with (tmp_path / "cheap").open("wb") as stream, cheap_files():
        torch.export.save(program, stream)
    assert (tmp_path / "cheap").read_bytes() == (tmp_path / "upstream").read_bytes()
    with cheap_files():
        cheap = torch.export.load(tmp_path / "cheap")
    upstream = torch.export.load(tmp_path / "upstream")
    assert str(cheap.graph) == str(upstream.graph)
    assert str(cheap.range_constraints) == str(upstream.range_constraints)
    for a, b in zip(cheap.graph.nodes, upstream.graph.nodes, strict=True):
        assert str(a.meta.get("val")) == str(b.meta.get("val"))


@pytest.mark.parametrize("transposes", [True, False])
def test_a_pass_that_changes_something_runs(transposes):
    from executorch.exir.passes.normalize_transpose_pass import NormalizeTransposePass

    class Model(torch.nn.Module):
        def forward(self, x):
            return x.t() if transposes else x + x

    def graph():
        return NormalizeTransposePass()(torch.export.export(Model(), (torch.ones(2, 3),)).graph_module).graph_module

    expected = [str(node.target) for node in graph().graph.nodes]
    with cheap_lowering():
        assert [str(node.target) for node in graph().graph.nodes] == expected
    assert ("aten.t_copy.default" in expected) == transposes


def test_nothing_stays_behind():
    from torch.export import ExportedProgram, exported_program

    def state():
        return (
            gc.get_threshold(),
            gc.get_freeze_count(),
            torch.fx.GraphModule.recompile,
            torch.fx.Interpreter.call_function,
            ExportedProgram.run_decompositions,
            exported_program._get_decomp_for_cia,
        )

    before = state()
    with cheap_lowering():
        assert all(a != b for a, b in zip(before, state(), strict=True))
    assert state() == before


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen2"])
def test_no_byte_changes(make_checkpoint, lower_checkpoint, monkeypatch, family):
    """Two layers, of a family with windows and of one with biases too."""
    from et_pipeline.backends import xnnpack
    from et_pipeline.models import decoder

    checkpoint = make_checkpoint(family)
    cheap = lower_checkpoint(checkpoint)
    monkeypatch.setattr(xnnpack, "cheap_lowering", nullcontext)
    monkeypatch.setattr(decoder, "cheap_tracing", nullcontext)
    upstream = lower_checkpoint(checkpoint)
    assert cheap.pte.read_bytes() == upstream.pte.read_bytes()
    assert cheap.delegation == upstream.delegation

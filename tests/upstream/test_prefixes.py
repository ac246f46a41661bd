import executorch.extension.llm.custom_ops.custom_ops  # noqa: F401  registers llama::update_cache
import pytest
import torch
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge
from executorch.exir.passes import MemoryPlanningPass
from executorch.runtime import Runtime
from torch import nn

from et_pipeline.upstream.prefixes import planning_with_prefixes


class Remembers(nn.Module):
    """Writes into a cache [1, 6, 2, 4], and gives a part of it, twice."""

    def __init__(self, dim, start):
        super().__init__()
        self.dim, self.start = dim, start
        self.register_buffer("kept", torch.zeros(1, 6, 2, 4))

    def forward(self, rows, end):
        torch.ops.llama.update_cache(rows, self.kept, 0)
        used = 1
        if (self.dim, self.start) == (1, 0):
            used = end.item()
            torch._check(used >= 1)
            torch._check(used <= 6)
        return self.kept.narrow(self.dim, self.start, used) * 2.0


def lowered(module, rows, planning=planning_with_prefixes):
    program = torch.export.export(module, (rows, torch.tensor(2)), strict=False)
    edge = to_edge(program, compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True))
    return edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning()))


def operators(program):
    return {operator.name for operator in program.executorch_program.execution_plan[0].operators}


def test_the_first_part_of_a_cache_is_not_copied():
    module, rows = Remembers(1, 0), torch.arange(48.0).view(1, 6, 2, 4)
    program = lowered(module, rows)
    assert "aten::empty" in operators(program)
    method = Runtime.get().load_program(program.buffer).load_method("forward")
    for end in (6, 2, 5):
        rows = rows + 1
        (found,) = method.execute((rows, torch.tensor(end)))
        assert torch.equal(found, module(rows, torch.tensor(end)))


def test_upstream_copies():
    """Or this override can go."""
    assert "aten::slice_copy" in operators(lowered(Remembers(1, 0), torch.zeros(1, 6, 2, 4), MemoryPlanningPass))


@pytest.mark.parametrize(("dim", "start"), [(1, 1), (2, 0)])
def test_what_does_not_lie_in_one_piece_at_the_start_is_copied(dim, start):
    module, rows = Remembers(dim, start), torch.arange(48.0).view(1, 6, 2, 4)
    program = lowered(module, rows)
    assert operators(program) >= {"aten::slice_copy"}
    (found,) = Runtime.get().load_program(program.buffer).load_method("forward").execute((rows, torch.tensor(2)))
    assert torch.equal(found, module(rows, torch.tensor(2)))

import executorch.extension.llm.custom_ops.custom_ops  # noqa: F401  registers llama::update_cache
import pytest
import torch
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge
from executorch.exir.passes import MemoryPlanningPass
from executorch.runtime import Runtime
from torch import nn

from et_pipeline.upstream.prefixes import first_slots, planning_with_prefixes


class Remembers(nn.Module):
    """Writes into a cache [3, 16, 1, 4] of three heads, and gives what is used of each, and 1."""

    def __init__(self, dtype=torch.float32, read=first_slots):
        super().__init__()
        self.read, self.one = read, torch.ones(1, dtype=dtype)
        self.register_buffer("kept", torch.zeros(3, 16, 1, 4, dtype=dtype))

    def forward(self, rows, end):
        torch.ops.llama.update_cache(rows, self.kept, 0)
        used = end.item()
        torch._check(used >= 1)
        torch._check(used <= 16)
        return torch.cat([self.read(self.kept, head, used) + self.one for head in (2, 0, 1)])


def lowered(module, rows, planning=planning_with_prefixes):
    program = torch.export.export(module, (rows, torch.tensor(2)), strict=False)
    edge = to_edge(program, compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True))
    return edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning()))


def operators(program):
    return {operator.name for operator in program.executorch_program.execution_plan[0].operators}


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_what_is_used_of_a_head_is_not_copied(dtype):
    module, rows = Remembers(dtype), torch.arange(-96, 96).view(3, 16, 1, 4).to(dtype)
    program = lowered(module, rows)
    assert "aten::empty" in operators(program)
    assert not operators(program) & {"et_pipeline::first_slots", "aten::slice_copy"}
    method = Runtime.get().load_program(program.buffer).load_method("forward")
    for end in (16, 2, 5):
        rows = rows - 1
        (found,) = method.execute((rows, torch.tensor(end)))
        expected = torch.stack([rows[head, :end, 0] for head in (2, 0, 1)]) + 1
        assert torch.equal(found, expected)
        assert torch.equal(module(rows, torch.tensor(end)), expected)


def test_upstream_copies_a_slice():
    """Or this override can go."""
    module = Remembers(read=lambda cache, head, used: cache[head].narrow(0, 0, used))
    assert "aten::slice_copy" in operators(lowered(module, torch.zeros(3, 16, 1, 4), MemoryPlanningPass))

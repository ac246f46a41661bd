"""What an operator's result depends on while shapes are propagated, as a key to remember it by."""

from __future__ import annotations

from typing import Any


class UnknownError(Exception):
    """A value of which nothing is known but by computing it."""


class Descriptions:
    """What an operator's result depends on while shapes are propagated: kinds of tensors, and values of the rest."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, Any]] = {}  # the tensors stay alive, so that no other gets their id

    def of(self, value: Any) -> Any:
        """Describe a value; an equal description means an equal result.

        Raises:
            UnknownError: that cannot be said of it.
        """
        import torch
        from torch._subclasses.fake_tensor import FakeTensor

        if isinstance(value, torch.Tensor):
            if id(value) not in self.known:
                self.known[id(value)] = value, self._tensor(value, FakeTensor)
            return self.known[id(value)][1]
        if isinstance(value, (list, tuple)):
            return type(value).__name__, *map(self.of, value)
        if isinstance(value, dict):
            return "dict", *((key, self.of(each)) for key, each in value.items())
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return type(value).__name__, value.node.expr
        if value is None or isinstance(
            value, (bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format)
        ):
            return type(value).__name__, value  # 1, 1.0 and True are equal, and not the same
        raise UnknownError

    def graph(self, module: Any) -> Any:
        """What a graph computes, whatever its nodes are called."""
        from torch.fx import GraphModule, map_arg

        if not isinstance(module, GraphModule):
            raise UnknownError
        if id(module) not in self.known:
            places: dict[Any, str] = {}
            nodes = []
            for node in module.graph.nodes:
                if node.op not in ("placeholder", "call_function", "output"):
                    raise UnknownError
                given = map_arg((node.args, node.kwargs), places.__getitem__)
                nodes.append((node.op, node.target if node.op == "call_function" else None, self.of(given)))
                places[node] = f"%{len(places)}"
            self.known[id(module)] = module, tuple(nodes)
        return self.known[id(module)][1]

    def _tensor(self, value: Any, fake: Any) -> Any:
        import torch

        if type(value) is fake:
            if value.constant is not None or value.layout != torch.strided:
                raise UnknownError
            mode: Any = id(value.fake_mode)
        elif type(value) in (torch.Tensor, torch.nn.Parameter):
            mode = None
        else:
            raise UnknownError
        sizes = (*value.shape, None, *value.stride(), None, value.storage_offset())
        return (
            mode,
            value.dtype,
            value.fake_device if mode else value.device,  # within a kernel of its own, a fake tensor says "meta"
            value.requires_grad,
            *(self.of(size) for size in sizes),
        )

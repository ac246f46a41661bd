"""ExecuTorch's file of named tensors beside a program (.ptd): what is in it, and the same file with other numbers.

The runtime maps it to memory shared with the file, and what a program's own operators read from it is not copied: so a
file that is written over, at the same size, is what a loaded program computes with from then on. That is so in 1.3.1
(Android's library, in each mode that maps files) and 1.5.1; tests say it of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a .ptd by its name."""
    return {name: tuple(entry.tensor_layout.sizes) for name, entry in _read(file).named_data.items()}


def with_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A .ptd like the one in `file`, byte for byte but for its numbers.

    Args:
        file: a .ptd of float32 tensors, each with a place of its own.
        tensors: some of its tensors, by name, of their shapes; the others become zeros.
    """
    from executorch.extension.flat_tensor.serialize.serialize import FlatTensorSerializer

    payload = _read(file)
    buffers = [bytes(len(buffer)) for buffer in payload.buffers]
    for name, tensor in tensors.items():
        entry = payload.named_data[name]
        if tuple(entry.tensor_layout.sizes) != tuple(tensor.shape):
            raise ValueError(f"{name} is of shape {entry.tensor_layout.sizes}, not {list(tensor.shape)}")
        buffers[entry.buffer_index] = tensor.float().contiguous().numpy().tobytes()
    payload.buffers = buffers
    return bytes(FlatTensorSerializer().serialize(payload))


def _read(file: Path) -> Any:
    from executorch.exir._serialize._cord import Cord
    from executorch.extension.flat_tensor.serialize.serialize import FlatTensorSerializer

    return FlatTensorSerializer().deserialize(Cord(file.read_bytes()))

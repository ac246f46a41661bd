"""Finds the tensors that make up packed weights, and checks that they fit together, from the headers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from et_pipeline.checkpoints.layout import TensorInfo, read_bytes
from et_pipeline.errors import UserError

if TYPE_CHECKING:
    import torch

READABLE = (
    "bitsandbytes (NF4, FP4, int8), gptq (2, 4 or 8 bits), awq (gemm), torchao (IntxUnpackedToInt8Tensor, Int8Tensor) "
    "and compressed-tensors (integers of 2, 4 or 8 bits) can, and so can the original float weights"
)
FLOATS = ("F32", "F16", "BF16")


class Packed(NamedTuple):
    """A weight that is stored in another form.

    Attributes:
        what: it is, for a message.
        shape: of the float weight, [outputs, inputs].
        parts: what the form calls a tensor, and the tensor's name in the files.
        decode: makes the weight of the parts; see `decode`.
    """

    what: str
    shape: tuple[int, int]
    parts: dict[str, str]
    decode: Callable[[dict[str, torch.Tensor]], torch.Tensor]


class Part(NamedTuple):
    """What a tensor beside a packed weight must be like; a None in its shape stands for any number."""

    dtypes: tuple[str, ...]
    shape: tuple[int | None, ...]
    needed: bool = True


class Finder:
    """Collects the packed weights of a checkpoint."""

    def __init__(self, folder: Path, layout: dict[str, TensorInfo], settings: Mapping[str, Any]) -> None:
        self.folder, self.layout, self.settings = folder, layout, settings
        self.packed: dict[str, Packed] = {}
        self.used: set[str] = set()

    def add(
        self,
        stem: str,
        shape: tuple[int, int],
        parts: dict[str, Part],
        decode: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    ) -> None:
        """Take the weight of the module `stem`; its parts are named `stem` and their own name."""
        found = {}
        for part, wanted in parts.items():
            name = f"{stem}{part}"
            info = self.layout.get(name)
            if info is None:
                if wanted.needed:
                    raise UserError(
                        f"{self.folder}: tensor {name} is in no safetensors file, and "
                        f"quantization_config.quant_method={self.settings['quant_method']!r} asks for it"
                    )
                continue
            fits = len(info.shape) == len(wanted.shape) and all(
                n in (None, m) for n, m in zip(wanted.shape, info.shape, strict=True)
            )
            if not fits or info.dtype not in wanted.dtypes or 0 in info.shape:
                expected = ", ".join("any" if n is None else str(n) for n in wanted.shape)
                raise UserError(
                    f"{self.folder / info.file}: tensor {name} is {info.dtype} {list(info.shape)}, but the weight "
                    f"{stem}weight of {list(shape)} asks for {' or '.join(wanted.dtypes)} [{expected}]"
                )
            found[part] = name
        self.used.update(found.values())
        self.packed[f"{stem}weight"] = Packed(f"{self.folder}: weight {stem}weight", shape, found, decode)

    def stems(self, part: str) -> list[str]:
        """The modules, each with a dot at its end, that have a tensor of this name."""
        return [name.removesuffix(part) for name in self.layout if name.endswith(f".{part}")]

    def dimensions(self, name: str, count: int) -> tuple[int, ...]:
        """A tensor's shape, which has `count` numbers."""
        info = self.layout[name]
        if len(info.shape) != count:
            raise UserError(
                f"{self.folder / info.file}: tensor {name} has shape {list(info.shape)}, expected {count} dimensions"
            )
        return info.shape

    def raw(self, name: str) -> bytes:
        """A tensor's bytes."""
        return b"".join(read_bytes(self.folder, self.layout[name]))


def in_words(bits: int, size: int) -> str:
    """How weights are grouped; `size` is 0 or less where a scale is for all inputs of an output."""
    return f"{bits} bits in groups of {size}" if size > 0 else f"{bits} bits per output channel"

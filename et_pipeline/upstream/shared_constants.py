"""A constant of the program that a delegate holds too lies in the file once: a tied head is an embedding's table.

executorch 1.5.1 puts the program's own constants into one segment, and what delegates hold by name, such as weights,
into a segment each, though the bytes be the same. Its runtime, and that of 1.3, loads a segment by offset and size and
asks nothing more, so that one may lie within the other. It has another way to a constant outside the program, but that
leads to a .ptd only: `Method::init` does not look for one in the program's own named data, which say nothing of shapes.
In a .ptd upstream itself writes equal bytes once. To go when it does so in a .pte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

_LEAST = 4096  # bytes that are worth it


@contextmanager
def shared_constants() -> Iterator[None]:
    """Within the context; see above."""
    from executorch.exir._serialize import _program

    extract, finish = _program._extract_named_data, _program._program_to_flatbuffer
    within: dict[int, tuple[int, int]] = {}  # of a segment without bytes: where in the constants they are, how many

    def extract_others(program: Any, segments: list[Any], buffers: Sequence[Any], entries: Mapping[str, Any]) -> None:
        """Leave a segment empty whose bytes are a constant."""
        constants = program.constant_segment
        pieces = segments[constants.segment_index].data._buffers if constants.offsets else []
        known = _offsets(pieces, {len(each) for each in buffers})
        equal = [known.get(each) if isinstance(each, bytes) else None for each in buffers]
        left = [each if at is None else b"" for each, at in zip(buffers, equal, strict=True)]
        extract(program, segments, left, entries)
        within.clear()
        for named in program.named_data:
            index = entries[named.key].buffer_index
            at = equal[index]
            if at is not None:
                within[named.segment_index] = at, len(buffers[index])

    def point(program: Any, **options: Any) -> Any:
        """Let these segments be a part of the constants' segment, now that its place is known."""
        for segment, (at, size) in within.items():
            start = program.segments[program.constant_segment.segment_index].offset
            program.segments[segment] = _program.DataSegment(offset=start + at, size=size)
        within.clear()
        return finish(program, **options)

    with (
        mock.patch.object(_program, "_extract_named_data", extract_others),
        mock.patch.object(_program, "_program_to_flatbuffer", point),
    ):
        yield


def _offsets(pieces: Sequence[Any], sizes: set[int]) -> dict[bytes, int]:
    """Where each tensor of one of these sizes lies in a segment, whose pieces are tensors and padding."""
    found: dict[bytes, int] = {}
    at = 0
    for piece in pieces:
        if isinstance(piece, bytes) and len(piece) >= _LEAST and len(piece) in sizes:
            found.setdefault(piece, at)
        at += len(piece)
    return found

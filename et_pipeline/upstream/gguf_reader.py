"""transformers reads a GGUF file with the reader that we have: ten seconds and 300 MB less for a large vocabulary.

`load_gguf_checkpoint` of transformers 5.23 opens the file by its path. To go when it takes a reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest import mock

if TYPE_CHECKING:
    from gguf import GGUFReader


@contextmanager
def opened_once(reader: GGUFReader) -> Iterator[None]:
    """Within the context transformers reads with `reader`."""
    import gguf

    with mock.patch.object(gguf, "GGUFReader", return_value=reader):
        yield

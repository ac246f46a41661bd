"""Exchange the adapter of a loaded program, without loading or packing anything of its base again."""

from __future__ import annotations

import shutil
import struct
import tempfile
from pathlib import Path

from et_pipeline.errors import UserError
from et_pipeline.runtime.program import check_weights_file

_DATA_START = struct.Struct("<32xQ")  # of a .ptd: where its numbers begin, see `program.check_weights_file`


class AdapterSlot:
    """The file that a program reads its adapter from at each call: a copy, so that no bundle is changed.

    Load the program with it, as its weights. What is put into the file is what the program computes with from the next
    call on (see `upstream.tensor_file`); what its cache holds is still of the adapter before, so begin at position 0.

    Attributes:
        path: the file.
    """

    def __init__(self, empty: Path) -> None:
        """Copy the .ptd of a program that takes adapters, which is of none.

        Raises:
            UserError: it is missing or broken.
        """
        check_weights_file(empty)
        self._empty = empty
        # As long as this; Windows removes no file that a program has mapped, and opens none twice that removes itself.
        self._folder = tempfile.TemporaryDirectory(prefix="adapter-", ignore_cleanup_errors=True)
        self.path = Path(self._folder.name) / "adapter.ptd"
        shutil.copyfile(empty, self.path)
        self._index = _index(empty)

    def put(self, adapter: Path | None) -> None:
        """Let the program compute with an adapter, or with none.

        Raises:
            UserError: the file is missing, broken, or for another program.
        """
        file = adapter or self._empty
        check_weights_file(file)
        data = file.read_bytes()
        if len(data) != self.path.stat().st_size or data[: len(self._index)] != self._index:
            raise UserError(f"{file} is an adapter for another program: it has other tensors")
        # In place and never shorter: the program has this file mapped.
        with self.path.open("r+b") as stream:
            stream.write(data)


def _index(file: Path) -> bytes:
    """All of a .ptd before its numbers: which tensors it has, and where."""
    with file.open("rb") as stream:
        (start,) = _DATA_START.unpack(stream.read(_DATA_START.size))
        stream.seek(0)
        return stream.read(start)

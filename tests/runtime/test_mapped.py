"""What of a program's file lies in memory."""

import ctypes
import mmap
from pathlib import Path

import pytest

from et_pipeline.runtime.mapped import let_go

SIZE = 1 << 20


def of_mapping(path, field):
    """Kilobytes of a file's mappings in this process, by a field of smaps."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split()[0]:
            inside = line.rstrip().endswith(str(path))
        elif inside and line.startswith(f"{field}:"):
            total += int(line.split()[1])
    return total


@pytest.mark.linux("it has /proc/self/smaps")
def test_a_locked_file_is_let_go_and_reads_as_before(tmp_path):
    path = tmp_path / "with spaces" / "x.pte"
    path.parent.mkdir()
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    with path.open("rb") as file, mmap.mmap(file.fileno(), SIZE, prot=mmap.PROT_READ) as mapped:
        (start,) = (
            int(line.split("-")[0], 16)
            for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
            if line.rstrip().endswith(str(path))
        )
        ctypes.CDLL(None).mlock(ctypes.c_void_p(start), ctypes.c_size_t(SIZE))
        assert mapped[:] == path.read_bytes()
        assert of_mapping(path, "Rss") == SIZE // 1024
        let_go(path)
        assert of_mapping(path, "Rss") == of_mapping(path, "Locked") == 0
        assert mapped[SIZE - 1] == 255
    let_go(tmp_path / "not mapped.pte")


@pytest.mark.linux("it has /proc/self/smaps")
def test_a_loaded_program_is_not_locked(tiny_program):
    from et_pipeline.runtime.program import Program

    program = Program(tiny_program.pte, threads=1)
    assert of_mapping(tiny_program.pte, "Locked") == 0
    assert of_mapping(tiny_program.pte, "Size") > 0
    del program

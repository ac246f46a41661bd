import json
import logging
import platform
import subprocess
import sys
from collections import namedtuple

import pytest
import torch

from et_pipeline import cache
from et_pipeline.runtime import packed_weights
from et_pipeline.runtime.program import Program
from et_pipeline.upstream import packed_cache

TOKENS = torch.randint(2, 512, (1, 16), generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() != "x86_64",
    reason="packed weights are kept on Linux with x86-64 only",
)


@pytest.fixture(scope="module")
def expected(tiny_program):
    return Program(tiny_program.pte, threads=1).forward(TOKENS, 0)


@pytest.fixture
def entry(tiny_program, tmp_path):
    return packed_weights.find_entry(tmp_path, [cache.sha256_file(tiny_program.pte)], 1000)


def logits(tiny_program, entry):
    return Program(tiny_program.pte, threads=1, packed=entry).forward(TOKENS, 0)


def spoil(entry, begin=0, end=None):
    """Turn over bits of packed weights."""
    path = entry / packed_weights.FILE_NAME
    content = bytearray(path.read_bytes())
    for at in range(begin, len(content) // 2 if end is None else end):
        content[at] ^= 0x55
    path.write_bytes(content)


def test_the_second_load_computes_with_what_the_first_one_kept(tiny_program, entry, expected):
    assert torch.equal(logits(tiny_program, entry), expected)
    before = (entry / packed_weights.FILE_NAME).stat()
    assert torch.equal(logits(tiny_program, entry), expected)
    after = (entry / packed_weights.FILE_NAME).stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)

    spoil(entry)
    record = json.loads((entry / cache.RECORD).read_text())
    record["files"][packed_weights.FILE_NAME]["sha256"] = cache.sha256_file(entry / packed_weights.FILE_NAME)
    (entry / cache.RECORD).write_text(json.dumps(record))
    assert not torch.equal(logits(tiny_program, entry), expected)


def test_a_file_that_nobody_touched_is_not_hashed(tiny_program, entry, expected, monkeypatch):
    logits(tiny_program, entry)
    monkeypatch.setattr(cache, "build", None)
    assert torch.equal(logits(tiny_program, entry), expected)


def test_a_file_that_was_copied_is_hashed_and_used(tiny_program, entry, expected):
    logits(tiny_program, entry)
    path = entry / packed_weights.FILE_NAME
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    copied = path.stat().st_ino
    assert torch.equal(logits(tiny_program, entry), expected)
    assert path.stat().st_ino == copied


@pytest.mark.parametrize("damage", ["altered", "truncated", "empty", "missing", "no record", "foreign"])
def test_a_damaged_file_is_made_again(tiny_program, entry, expected, damage):
    logits(tiny_program, entry)
    path = entry / packed_weights.FILE_NAME
    whole = path.read_bytes()
    if damage == "altered":
        spoil(entry, 100, 101)
    elif damage == "missing":
        path.unlink()
    elif damage == "no record":
        (entry / cache.RECORD).unlink()
    else:
        path.write_bytes({"truncated": whole[:-100], "empty": b"", "foreign": b"x" * len(whole)}[damage])
    assert torch.equal(logits(tiny_program, entry), expected)
    assert path.stat().st_size == len(whole)
    assert cache.find(entry) is not None


def test_programs_that_are_loaded_at_the_same_time_share_the_file(tiny_program, entry, expected):
    script = """
import sys, torch
from pathlib import Path
from et_pipeline.runtime.program import Program
from et_pipeline.upstream import packed_cache
program = Program(Path(sys.argv[1]), threads=1, packed=Path(sys.argv[2]))
print(program.forward(torch.tensor([[int(token) for token in sys.argv[3].split()]]), 0).numpy().tobytes().hex())
print(str(Path(sys.argv[2]) / "packed.bin") in Path("/proc/self/maps").read_text(), flush=True)
sys.stdin.read()  # hold the program until the other one is loaded too
"""
    tokens = " ".join(str(token) for token in TOKENS[0].tolist())
    command = [sys.executable, "-W", "ignore", "-c", script, str(tiny_program.pte), str(entry), tokens]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]
    try:
        found = [[child.stdout.readline().strip() for _ in range(2)] for child in both]
    finally:
        for child in both:
            child.communicate()
    assert found == [[expected.numpy().tobytes().hex(), "True"]] * 2


def test_only_the_load_that_asks_for_it_is_kept(tiny_program, entry, expected):
    with pytest.raises(RuntimeError, match="broken"):
        packed_weights.load(lambda: (_ for _ in ()).throw(RuntimeError("broken")), entry)
    assert torch.equal(Program(tiny_program.pte, threads=1).forward(TOKENS, 0), expected)
    assert not entry.exists()


def test_an_entry_belongs_to_one_program_on_one_processor(tmp_path, monkeypatch):
    def find(*hashes):
        return packed_weights.find_entry(tmp_path, hashes, 1000)

    found = [find("a"), find("b"), find("a", "b")]
    processor = packed_weights._processor()
    assert {"vendor_id", "flags"} <= processor.keys()
    monkeypatch.setattr(packed_weights, "_processor", lambda: {**processor, "flags": "sse2"})
    found.append(find("a"))
    assert len(set(found)) == 4


@pytest.mark.parametrize("why", ["release", "room", "path"])
def test_why_nothing_is_kept(tmp_path, monkeypatch, caplog, why):
    root, said = tmp_path, "less than 2000 MB free"
    if why == "release":
        monkeypatch.setattr(packed_cache.metadata, "version", lambda name: "9.9.0")
        said = "and this is 9.9.0"
    elif why == "path":
        root, said = tmp_path / ("a" * 200), "too long a path"
    else:
        monkeypatch.setattr(packed_weights.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(10**9))
    with caplog.at_level(logging.WARNING):
        assert packed_weights.find_entry(root, ["a"], 10**9) is None
    assert said in caplog.text

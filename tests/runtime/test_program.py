import logging
import os
import struct
import subprocess
import sys

import pytest
import torch

from et_pipeline.checkpoints.reader import load_model
from et_pipeline.errors import UserError
from et_pipeline.evaluation.agreement import compare
from et_pipeline.quantization.torchao_config import quantize_module
from et_pipeline.runtime.program import Program, check_program_file, quiet

TOKENS = torch.randint(2, 512, (1, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def program(tiny_program):
    return Program(tiny_program.pte, threads=1)


def test_metadata_is_what_the_runner_reads(program):
    assert program.metadata == {
        "enable_dynamic_shape": True,
        "get_bos_id": 0,
        "get_eos_ids": [1],
        "get_max_context_len": 64,
        "get_max_seq_len": 16,
        "get_n_layers": 1,
        "get_vocab_size": 512,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": True,
    }


@pytest.mark.parametrize("chunk", [None, 7, 1])
def test_every_way_of_feeding_agrees_with_transformers(program, tiny_program, chunk):
    q = tiny_program.quantization
    model = load_model(tiny_program.checkpoint, lambda name, module: quantize_module(name, module, q))
    with torch.no_grad():
        expected = model(TOKENS).logits[0, -1:]
    agreement = compare(program.prefill(TOKENS, chunk=chunk).unsqueeze(0), expected)
    assert agreement.cosine > 0.999
    assert agreement.top1 == 1


def test_a_new_prompt_forgets_the_old_one(program):
    first = program.prefill(TOKENS)
    kept = first.clone()
    program.prefill(TOKENS.flip(1))
    assert torch.equal(first, kept)
    assert torch.equal(program.prefill(TOKENS), first)


WIDE = """
import psutil, torch
from pathlib import Path
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from et_pipeline.runtime.program import Program

class Wide(torch.nn.Module):
    def forward(self, x):
        return x + torch.arange(100_000.0)

torch.set_num_threads(1)
with open("wide.pte", "wb") as out:
    exported = torch.export.export(Wide(), (torch.ones(1),))
    out.write(to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)
program = Program(Path("wide.pte"), threads=1)
torch.set_num_threads(3)
before = psutil.Process().num_threads()
assert program.embed(torch.ones(1))[-1] == 100_000
print(psutil.Process().num_threads() - before)
"""


def test_torchs_threads_do_not_wake_for_the_result(tmp_path):
    # Once awake they wait busily: on two processors a token with two threads took up to 1.35 times as long, quiet ones.
    done = subprocess.run([sys.executable, "-c", WIDE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "0\n", done.stderr


def test_an_answer_goes_on_from_where_the_prompt_ends(program):
    program.prefill(TOKENS[:, :25], chunk=1)
    continued = program.prefill(TOKENS[:, 25:], start=25, chunk=1)
    assert torch.equal(continued, program.prefill(TOKENS, chunk=1))


def test_greedy_follows_the_likeliest_token(program):
    prompt = TOKENS[0, :5].tolist()
    answer = program.greedy(prompt, 4, ())
    expected = []
    for _ in range(4):
        expected.append(int(program.prefill(torch.tensor([prompt + expected])).argmax()))
    assert answer == expected
    assert program.greedy(prompt, 4, {answer[2]}) == answer[: answer.index(answer[2])]
    assert program.greedy(prompt, 0, ()) == []


def test_greedy_ends_with_the_context(program):
    assert len(program.greedy(TOKENS[0].tolist(), 1000, ())) == 64 - 40


def test_no_prompt(program):
    with pytest.raises(ValueError, match="at least one token"):
        program.prefill(TOKENS[:, :0])


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Program(tmp_path / "model.pte")


@pytest.mark.parametrize("missing", [1, 1000])
def test_truncated_file(tiny_program, tmp_path, missing):
    path = tmp_path / "model.pte"
    path.write_bytes(tiny_program.pte.read_bytes()[:-missing])
    with pytest.raises(UserError, match=r"model\.pte is truncated"):
        Program(path)


@pytest.mark.parametrize("content", [b"", b"GGUF" * 20, struct.pack("<I4s4s", 8, b"ET12", b"xxxx") + bytes(40)])
def test_not_a_program(tmp_path, content):
    path = tmp_path / "model.pte"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not an ExecuTorch program"):
        check_program_file(path)


def test_native_noise_is_hidden_unless_it_fails(capfd):
    with quiet():
        os.write(1, b"noise")
    assert capfd.readouterr() == ("", "")

    @quiet()
    def fail():
        os.write(2, b"reason")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert capfd.readouterr().err == "reason"


def test_a_library_that_is_imported_in_quiet_logs_to_standard_error_afterwards():
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("imported_in_quiet")
    with quiet():
        handler.setStream(sys.stderr)
        logger.addHandler(handler)
    assert handler.stream is sys.__stderr__
    logger.removeHandler(handler)

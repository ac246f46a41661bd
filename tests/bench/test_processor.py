"""XNNPACK's kernels for older processors compute what those for this one do; which of them run is its own choice."""

import json
import platform
import subprocess
import sys
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from et_pipeline import tiny_assistant
from et_pipeline.bench import contenders
from et_pipeline.bench.host_tables import GENAI, LLAMA_CPP
from et_pipeline.bench.processor import LEVELS, newer, pretend
from et_pipeline.runtime.program import Program
from et_pipeline.settings import ExportForm

pytestmark = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="what is struck out lies elsewhere"
)

ITEMS = [json.loads(line) for line in tiny_assistant.EVAL.read_text(encoding="utf-8").splitlines()[::60]]
CONVERSATIONS = [
    "".join(["<|begin|>", *(f"<|{of['role']}|>{of['content']}<|end|>" for of in each["messages"])])
    + f"<|assistant|>{each['answer']}<|end|>"
    for each in ITEMS
]
RECIPES = {
    "8da4w-g32": {},
    "8da4w-g0": {"group_size": 0},
    "8da8w": {"scheme": "8da8w", "group_size": 0},
    "int8_weight_only": {"scheme": "int8_weight_only", "group_size": 0},
    "int4_weight_only": {"scheme": "int4_weight_only", "group_size": 0},
    "fp32": {"scheme": "fp32", "group_size": 0, "embedding_bits": 32},
}
# Mean of the tokens, in nats; a wrong kernel would be nats away. Kernels add up in other orders. Seen: 2e-12.
FARTHEST = 1e-10
# Where integers are made at run time some fall on the other side of a rounding. Seen: 1e-5, of one token 2e-3; a gate
# lets a recipe cost 0.1.
FARTHEST_ROUNDED = 1e-4
OLDER = """
import json
import sys
from pathlib import Path
import numpy as np
import torch
from et_pipeline.bench.processor import pretend
from et_pipeline.runtime.program import Program
pretend(sys.argv[1])
program = Program(Path(sys.argv[2]), threads=1)
calls = json.loads(Path(sys.argv[3]).read_text())
np.save(sys.argv[4], np.stack([program.forward(torch.tensor([ids]), at).numpy().copy() for at, ids in calls]))
"""


@pytest.fixture(scope="module")
def lowered(lower_checkpoint):
    @cache
    def make(recipe, kv_cache="fp32"):
        form = ExportForm(max_context=128, prefill_chunk=16, kv_cache=kv_cache)
        return lower_checkpoint(tiny_assistant.CHECKPOINT, form, **RECIPES[recipe]).pte

    return make


def calls_of(texts):
    """Position and tokens of each call: a chunk, some tokens more, then one by one to the text's end."""
    tokenizer = Tokenizer.from_file(str(tiny_assistant.CHECKPOINT / "tokenizer.json"))
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids[:128]
        ends = [12, 16, *range(17, len(ids) + 1)]
        yield from ((at, ids[at:end]) for at, end in pairwise([0, *ends]))


def check(pte, level, texts, farthest, folder):
    calls = list(calls_of(texts))
    (folder / "calls.json").write_text(json.dumps(calls), encoding="utf-8")
    words = [OLDER, level, pte, folder / "calls.json", folder / "rows.npy"]
    done = subprocess.run([sys.executable, "-c", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    program = Program(pte, threads=1)
    right = torch.stack([program.forward(torch.tensor([ids]), at).clone() for at, ids in calls]).double()
    found = torch.from_numpy(np.load(folder / "rows.npy")).double()
    apart = functional.kl_div(found.log_softmax(-1), right.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    same = (found.argmax(-1) == right.argmax(-1)).double().mean()
    print(f"as on {level}: KL of {len(calls)} tokens {apart.mean():.1e}, largest {apart.max():.1e}, top-1 {same:.4f}")
    assert same > 0.99
    assert apart.mean() < farthest


def test_the_same_numbers(lowered, tmp_path):
    check(lowered("8da4w-g32"), "avx2", CONVERSATIONS, FARTHEST_ROUNDED, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_numbers_of_each_recipe(lowered, recipe, level, tmp_path):
    farthest = FARTHEST_ROUNDED if recipe.startswith("8da") else FARTHEST
    check(lowered(recipe), level, CONVERSATIONS, farthest, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["fp32", "int8", "fp16"])
def test_the_same_numbers_with_each_cache_filled(lowered, kind, level, tmp_path):
    farthest = FARTHEST if kind == "fp32" else FARTHEST_ROUNDED
    check(lowered("fp32", kind), level, ["".join(CONVERSATIONS)], farthest, tmp_path)


def test_what_is_struck_out(tiny_program):
    said = subprocess.run(
        [sys.executable, "-c", "from et_pipeline.bench.processor import pretend; pretend('sse4'); pretend('sse4')"],
        capture_output=True,
        text=True,
    ).stderr
    assert said.strip().splitlines()[-1].startswith("RuntimeError: cpuinfo's record lies otherwise")  # than /proc says
    Program(tiny_program.pte)
    with pytest.raises(RuntimeError, match="is loaded already"):
        pretend("sse4")
    assert newer(["avx2", "sse3", "avx512f", "avxvnni", "avx512vnni"], "avx512") == ["avxvnni", "avx512vnni"]
    assert newer(["avx2", "fma3", "amxint8"], "avx2") == ["amxint8"]


def test_a_peer_takes_part_if_it_is_as_old(monkeypatch):
    built = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | AVX512 = 0 | AVX512_VNNI = 1 | REPACK = 1 | "
    monkeypatch.setattr(contenders.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, built, ""))
    assert "is built for avx512vnni: build another with" in contenders.too_new(LLAMA_CPP, "avx2")
    built = built.replace("VNNI = 1", "VNNI = 0")
    assert contenders.too_new(LLAMA_CPP, "avx2") is None
    assert "avx2, f16c, fma3" in contenders.too_new(LLAMA_CPP, "avx")
    assert contenders.too_new(GENAI, "avx2")

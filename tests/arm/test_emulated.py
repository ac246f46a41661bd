"""Android's own arm64 library, emulated, computes what the x86-64 runtime does: see android_demo/tools/arm.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from et_pipeline import tiny_assistant
from et_pipeline.runtime.program import Program

pytestmark = [pytest.mark.slow, pytest.mark.arm]

RECIPES = {
    "fp32": ["recipe=fp32"],
    "8da8w": ["recipe=8da8w"],
    "8da4w-g32": ["recipe=8da4w"],
    "8da4w-g0": ["recipe=8da4w", "recipe.group_size=0"],
    "int8_weight_only": ["recipe=int8_weight_only"],
    "int4_weight_only": ["recipe=int4_weight_only"],
}
CORES = ("cortex-a53-kernels", "cortex-a76", "max")
# Of a token, in nats: a ten-thousandth of what a recipe may cost. Seen: 1e-7. Kernels add up in other orders, and an
# activation may fall on the other side of a rounding; a wrong kernel would be nats away.
FARTHEST = 1e-5
PROMPT = "<|begin|><|user|>Translate to French: The train arrives at eight o'clock.<|end|><|assistant|>"
ANSWER = "Le train arrive à huit heures."


def numbers(machine, core, *arguments, out):
    done = machine.run(core, arguments[0], arguments[1], out, *arguments[2:])
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    return torch.from_numpy(np.fromfile(out, ">f4").astype(np.float32))


def distance(machine, core, program, calls, out):
    """The largest KL of a token, x86-64's being right, and whether all have the same likeliest next one."""
    found = numbers(machine, core, "forward", program, *(",".join(map(str, each)) for each in calls), out=out)
    here, start, expected = Program(program), 0, []
    for call in calls:
        expected.append(here.forward(torch.tensor([call]), start).clone())
        start += len(call)
    right = torch.stack(expected)
    theirs = found.view_as(right).double().log_softmax(-1)
    apart = functional.kl_div(theirs, right.double().log_softmax(-1), reduction="none", log_target=True).sum(-1)
    return apart.max().item(), bool((theirs.argmax(-1) == right.argmax(-1)).all())


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_computes_the_same(machine, lowered, recipe, core, tmp_path):
    tokenizer = Tokenizer.from_file(str(tiny_assistant.CHECKPOINT / "tokenizer.json"))
    ids = tokenizer.encode(PROMPT + ANSWER, add_special_tokens=False).ids
    calls = [ids[:16], ids[16:20], *([token] for token in ids[20:])]
    apart, same = distance(machine, core, lowered("experiment=demo", *RECIPES[recipe]), calls, tmp_path / "out")
    print(f"ARM {recipe} {core}: largest KL {apart:.1e}")
    assert same
    assert apart < FARTHEST


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("cache_of", ["int8", "fp16"])
def test_each_kind_of_cache_is_the_same(machine, lowered, cache_of, core, tmp_path):
    ids = [(7 * number) % 500 + 8 for number in range(40)]
    calls = [ids[:16], ids[16:32], *([token] for token in ids[32:])]
    # Without activations of 8 bits: on tokens as senseless as these, one of them on the edge between two roundings is
    # worth 1e-3 nats, with any cache.
    program = lowered("experiment=demo", "recipe=fp32", f"model.kv_cache={cache_of}")
    apart, same = distance(machine, core, program, calls, tmp_path / "out")
    print(f"ARM cache of {cache_of} {core}: largest KL {apart:.1e}")
    assert same
    assert apart < FARTHEST / 10  # seen: 3e-8


@pytest.mark.parametrize("core", CORES)
def test_a_window_is_the_same(machine, lowered, make_checkpoint, core, tmp_path):
    kinds = ["sliding_attention", "full_attention"]
    source = _checkpoint(make_checkpoint, "gemma3_text", json.dumps({"sliding_window": 8, "layer_types": kinds}))
    short = ["model.max_context=64", "model.prefill_chunk=16", "measure.prompt_tokens=8", "measure.decode_tokens=4"]
    program = lowered("model=custom", "task=chat", f"model.source={source}", "recipe=8da4w", *short)
    ids = [(7 * number) % 500 + 2 for number in range(40)]
    calls = [ids[:16], ids[16:32], *([token] for token in ids[32:])]
    apart, same = distance(machine, core, program, calls, tmp_path / "out")
    print(f"ARM window {core}: largest KL {apart:.1e}")
    assert same
    assert apart < FARTHEST


HYBRIDS = {
    "lfm2": {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "block_multiple_of": 32},
    "qwen3_5_text": {
        "num_hidden_layers": 4,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
    },
    "granitemoehybrid": {
        "num_hidden_layers": 3,
        "layer_types": ["mamba", "attention", "mamba"],
        "num_local_experts": 0,
        "shared_intermediate_size": 128,
        "mamba_n_heads": 8,
        "mamba_d_head": 32,
        "mamba_d_state": 16,
    },
    "gemma3n_text": {
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "num_kv_shared_layers": 2,
        "sliding_window": 8,
        "intermediate_size": 256,
        "hidden_size_per_layer_input": 32,
        "vocab_size_per_layer_input": 512,
        "activation_sparsity_pattern": [0.9, 0.9, 0.0, 0.0, 0.0, 0.0],
        "laurel_rank": 32,
    },
}


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("family", HYBRIDS)
def test_other_states_than_keys_and_values_are_the_same(machine, lowered, make_checkpoint, family, core, tmp_path):
    source = _checkpoint(make_checkpoint, family, json.dumps(HYBRIDS[family]))
    short = ["model.max_context=64", "model.prefill_chunk=16", "measure.prompt_tokens=8", "measure.decode_tokens=4"]
    program = lowered("model=custom", "task=chat", f"model.source={source}", "recipe=fp32", *short)
    ids = [(7 * number) % 500 + 2 for number in range(40)]
    calls = [ids[:16], ids[16:32], *([token] for token in ids[32:])]
    apart, same = distance(machine, core, program, calls, tmp_path / "out")
    print(f"ARM {family} {core}: largest KL {apart:.1e}")
    assert same
    assert apart < FARTHEST


_MADE: dict[str, Path] = {}


def _checkpoint(make, family, settings):
    """The same one each time, so that its program is made once."""
    if family + settings not in _MADE:
        _MADE[family + settings] = make(family, **json.loads(settings))
    return _MADE[family + settings]


@pytest.mark.parametrize("core", CORES)
def test_an_embedding_is_the_same(machine, lowered, make_checkpoint, core, tmp_path):
    source = _checkpoint(make_checkpoint, "bert", json.dumps({"num_key_value_heads": None}))
    words = ["model.max_context=64", "measure.prompt_tokens=8", "measure.decode_tokens=4"]
    program = lowered("model=custom_embedding", f"model.source={source}", "recipe=8da8w", *words)
    ids = list(range(3, 40))
    found = numbers(machine, core, "embed", program, ",".join(map(str, ids)), out=tmp_path / "out")
    right = Program(program).embed(torch.tensor([ids]))
    assert functional.cosine_similarity(found, right, dim=0) > 1 - 1e-6


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a76", "max"])
def test_answers_are_those_of_x86(machine, lowered, core, tmp_path):
    """By the app's own road, text to text; on the A53 itself too."""
    program = lowered("experiment=demo", *RECIPES["8da4w-g32"])
    tokenizer = tiny_assistant.CHECKPOINT / "tokenizer.json"
    items = [json.loads(line) for line in tiny_assistant.EVAL.read_text(encoding="utf-8").splitlines()]
    items = [each for each in items if len(each["messages"]) == 1]
    asked = [
        f"<|begin|><|user|>{each['messages'][0]['content']}<|end|><|assistant|>" for each in items[:: len(items) // 12]
    ]
    (tmp_path / "in").write_text("\0".join(asked), encoding="utf-8")
    done = machine.run(core, "answer", program, tokenizer, "160", tmp_path / "in", tmp_path / "out")
    if core == "cortex-a53":  # the library closes a model with atomics of ARMv8.1, see the last test
        assert "SIGILL" in done.stdout
    else:
        assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    found = (tmp_path / "out").read_text(encoding="utf-8").split("\0")[:-1]
    encoder, here = Tokenizer.from_file(str(tokenizer)), Program(program)
    end = encoder.token_to_id("<|end|>")
    expected = [
        encoder.decode(here.greedy(encoder.encode(each, add_special_tokens=False).ids, 100, [end])) for each in asked
    ]
    assert [each.removesuffix("<|end|>").strip() for each in found] == [each.strip() for each in expected]
    assert len(expected) >= 12


@pytest.mark.parametrize("core", ["cortex-a53", "max"])
def test_a_broken_file_is_refused_and_ends_nothing(machine, lowered, core, tmp_path):
    content = lowered("experiment=demo", *RECIPES["8da4w-g32"]).read_bytes()
    broken = {
        "cut": content[: len(content) // 2],
        "short": content[:100],
        "empty": b"",
        "magic": content[:4] + b"XXXX" + content[8:],
        "other": b"\0" * 4096,
    }
    for name, data in broken.items():
        file = tmp_path / f"{name}.pte"
        file.write_bytes(data)
        (tmp_path / "in").write_text("x")
        tokenizer = tiny_assistant.CHECKPOINT / "tokenizer.json"
        done = machine.run(core, "answer", file, tokenizer, "8", tmp_path / "in", tmp_path / "out")
        assert done.returncode == 3, (name, done.stdout[-300:], done.stderr[-300:])
        assert "REFUSED" in done.stdout


def test_module_stops_a_core_without_the_atomics_of_armv8_1(machine, lowered, tmp_path):
    """A fault of the library of ExecuTorch 1.3 as it is built; closing an `LlmModule` meets it too."""
    program = lowered("experiment=demo", *RECIPES["8da4w-g32"])
    done = machine.run("cortex-a53", "forward", program, tmp_path / "out", "1,5")
    assert done.returncode != 0
    assert "SIGILL" in done.stdout

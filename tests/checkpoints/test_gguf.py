import contextlib
import json

import gguf as library
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from make_gguf import write_gguf
from safetensors.torch import load_file
from tokenizers import Tokenizer

from et_pipeline import tiny_assistant
from et_pipeline.checkpoints import gguf
from et_pipeline.checkpoints.facts import read_facts
from et_pipeline.checkpoints.gguf import GgufFile
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.errors import UserError

# Largest difference over largest weight. Q4's steps are a sixteenth, Q8's a 256th of a block's range.
TOLERANCE = {"F32": 0, "F16": 1e-3, "BF16": 8e-3, "Q8_0": 8e-3, "Q4_0": 0.13, "Q4_1": 0.13, "Q5_0": 0.07}


def convert(path, out):
    out.mkdir(exist_ok=True)
    gguf.run({}, out, lambda done, total: None, GgufFile(path=str(path)))
    return load_file(out / "model.safetensors")


@pytest.fixture(scope="module")
def llama(make_checkpoint):
    return make_checkpoint("llama", vocab_size=2048, tie_word_embeddings=False)


@pytest.mark.parametrize("kind", TOLERANCE)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_weights_come_back(family, kind, make_checkpoint, llama, tmp_path):
    tied = family == "qwen2"
    checkpoint = make_checkpoint("qwen2", vocab_size=2048, tie_word_embeddings=True) if tied else llama
    found = convert(write_gguf(tmp_path / "model.gguf", checkpoint, Kind[kind]), tmp_path / "out")
    original = load_file(checkpoint / "model.safetensors")
    assert set(found) == set(original)
    for name, tensor in original.items():
        error = (found[name].float() - tensor).abs().max() / tensor.abs().max()
        assert error <= (TOLERANCE[kind] if tensor.dim() > 1 else 0), name
        stored = kind if kind in ("F32", "BF16") else "F16"
        wanted = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[stored]
        assert found[name].dtype == (wanted if tensor.dim() > 1 else torch.float32)
    config, given = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", checkpoint))
    for key in ("architectures", "hidden_size", "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings"):
        assert config[key] == given[key], key
    if kind == "F32":
        ids = torch.arange(7, 40).unsqueeze(0)
        assert torch.equal(load_model(tmp_path / "out")(ids).logits, load_model(checkpoint)(ids).logits)


def test_blocks_of_rows_make_the_same_bytes(llama, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", llama, Kind.Q4_0)
    whole = convert(path, tmp_path / "whole")
    monkeypatch.setattr(gguf, "BLOCK", 1000)
    pieces = convert(path, tmp_path / "pieces")
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


def test_tokenizer_template_and_licence_come_along(llama, tmp_path):
    convert(write_gguf(tmp_path / "model.gguf", llama), tmp_path / "out")
    given = Tokenizer.from_file(str(tiny_assistant.CHECKPOINT / "tokenizer.json"))
    found = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    for text in ("I'm in room 2048, at 10:30!", "<|begin|><|user|>Wie geht's?\n\n<|end|>", "  naïve 🙂"):
        assert found.encode(text, add_special_tokens=False).ids == given.encode(text).ids
        assert found.encode(text).ids == [1, *given.encode(text).ids]
    facts, original = read_facts(tmp_path / "out"), read_facts(tiny_assistant.CHECKPOINT)
    assert facts.chat == original.chat
    assert (facts.bos_id, facts.eos_ids, facts.adds_bos, facts.licence) == (1, (2,), True, "apache-2.0")
    assert set(facts.special_tokens) == set(original.special_tokens)


def llama3_factors(tensors):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(head_dim=32, rope_parameters=LLAMA3)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 10000.0 ** (-torch.arange(0, 32, 2) / 32)
    tensors["rope_freqs.weight"] = (plain / scaled).numpy().astype(np.float32)


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_rotary_scaling_of_llama_3_is_read_back(llama, tmp_path):
    convert(write_gguf(tmp_path / "model.gguf", llama, edit=llama3_factors), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "config.json").read_text())["rope_parameters"]
    assert found == pytest.approx(LLAMA3)


def test_linear_scaling_is_read_back(llama, tmp_path):
    def scale(writer):
        writer.add_rope_scaling_type(library.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    convert(write_gguf(tmp_path / "model.gguf", llama, extra=scale), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "config.json").read_text())["rope_parameters"]
    assert (found["rope_type"], found["factor"], found["rope_theta"]) == ("linear", 4.0, 10000.0)


def spoil(name, change):
    def edit(tensors):
        tensors[name] = change(tensors[name])

    return edit


BAD = {
    "unknown architecture": ({"architecture": "grok"}, r"architecture grok, whose GGUF form"),
    "mixture of experts": ({"architecture": "qwen3moe"}, r"qwen3"),
    "tensor without a place": (
        {"edit": lambda t: t.update({"blk.0.attn_q.bias": np.zeros(128, np.float32)})},
        r"tensor blk\.0\.attn_q\.bias has no place in the llama model",
    ),
    "tensor is missing": ({"edit": lambda t: t.pop("blk.1.ffn_up.weight")}, r"no tensor for model\.layers\.1\.mlp\.up"),
    "shape": ({"edit": spoil("blk.1.ffn_up.weight", lambda w: w.T)}, r"blk\.1\.ffn_up\.weight has shape \[128, 256\]"),
    "not a number": (
        {"edit": spoil("blk.1.ffn_up.weight", lambda w: w * np.float32(np.nan))},
        r"damaged: tensor blk\.1\.ffn_up\.weight holds values that are no weights",
    ),
    "rotary factors": (
        {"edit": lambda t: t.update({"rope_freqs.weight": np.arange(1, 17, dtype=np.float32)})},
        r"in a way other than Llama 3's",
    ),
    "rotary scaling": ({"extra": lambda w: w.add_rope_scaling_type(library.RopeScalingType.LONGROPE)}, r"'longrope'"),
    "split of text": ({"split": "poro-chat"}, r"splits text in the way 'poro-chat'"),
    "one of several files": ({"extra": lambda w: w.add_uint16("split.count", 3)}, r"one of 3 parts"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_converted_faithfully_is_refused(name, llama, tmp_path):
    settings, sentence = BAD[name]
    path = write_gguf(tmp_path / "model.gguf", llama, **settings)
    with pytest.raises(UserError, match=sentence):
        convert(path, tmp_path / "out")


@pytest.mark.parametrize("kept", [5, 23, 24, 200, 3000, 60000, -100000, -1])
def test_a_cut_file_is_refused(kept, llama, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", llama, Kind.Q8_0)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"damaged or cut short"):
        convert(path, tmp_path / "out")


def test_flipped_bits_in_the_header_make_a_sentence_or_a_model(llama, tmp_path):
    """Whatever the header says, the answer is one of the two, and soon."""
    good = write_gguf(tmp_path / "model.gguf", llama, Kind.Q8_0).read_bytes()
    random = np.random.default_rng(0)
    for number in range(40):
        data = bytearray(good)
        # The header's beginning is dense with counts and lengths; the tensor table follows the long vocabulary.
        data[int(random.integers(4, 700))] ^= 1 << int(random.integers(8))
        path = tmp_path / "bad.gguf"
        path.write_bytes(data)
        with contextlib.suppress(UserError):
            convert(path, tmp_path / f"out{number}")

import contextlib
import json
import re
import struct
import time

import gguf as library
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from make_gguf import write_gguf
from safetensors.torch import load_file
from tokenizers import Tokenizer

from et_pipeline import host, tiny_assistant
from et_pipeline.checkpoints import gguf, witness
from et_pipeline.checkpoints.facts import read_facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.gguf import GgufFile, tensors
from et_pipeline.checkpoints.gguf.header import open_file
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.errors import UserError
from et_pipeline.quantization.torchao_config import load_quantized, quantize_checkpoint
from et_pipeline.settings import Quantization

# Largest difference over largest weight. Q4's steps are a sixteenth, Q8's a 256th of a block's range.
TOLERANCE = {"F32": 0, "F16": 1e-3, "BF16": 8e-3, "Q8_0": 8e-3, "Q4_0": 0.13, "Q4_1": 0.13, "Q5_0": 0.07}
KEPT = {"Q4_0": 4, "Q8_0": 8}


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
    weights = load_model(tmp_path / "out").state_dict()
    assert set(weights) - set(original) == ({"lm_head.weight"} if tied else set())
    for name, tensor in original.items():
        error = (weights[name] - tensor).abs().max() / tensor.abs().max()
        assert error <= (TOLERANCE[kind] if tensor.dim() > 1 else 0), name
        if kind in KEPT and name.endswith(("proj.weight", "lm_head.weight")):
            assert name not in found
            continue
        stored = kind if kind in ("F32", "BF16") else "F16"
        wanted = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[stored]
        assert found[name].dtype == (wanted if tensor.dim() > 1 else torch.float32)
    config, given = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", checkpoint))
    for key in ("architectures", "hidden_size", "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings"):
        assert config[key] == given[key], key
    if kind == "F32":
        ids = torch.arange(7, 40).unsqueeze(0)
        assert torch.equal(load_model(tmp_path / "out")(ids).logits, load_model(checkpoint)(ids).logits)


def blocks(path):
    """Integers and scales of each weight of a file by the letter of ggml's format, rows in the model's order."""
    found = {}
    for tensor in library.GGUFReader(path).tensors:
        kind = tensor.tensor_type.name
        if kind not in KEPT:
            continue
        raw = np.array(tensor.data).reshape(len(tensor.data), -1, 18 if kind == "Q4_0" else 34)
        scales, quants = raw[..., :2].copy().view(np.float16)[..., 0], raw[..., 2:]
        if kind == "Q4_0":  # the first half of a block in the low nibbles
            integers = np.concatenate([quants & 15, quants >> 4], -1).astype(np.int8) - 8
        else:
            integers = quants.view(np.int8)
        if ".attn_q." in tensor.name or ".attn_k." in tensor.name:
            rows = np.arange(len(raw)).reshape(-1, 16, 2).swapaxes(1, 2).ravel()  # heads of 32
            integers, scales = integers[rows], scales[rows]
        name = NAMES[tensor.name.removeprefix("blk.1.").removesuffix(".weight")]
        found[name] = torch.from_numpy(integers.reshape(len(raw), -1)), torch.from_numpy(scales.astype(np.float32))
    return found


PARTS = {"attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "o"}
NAMES = {f"{own}": f"self_attn.{letter}_proj" for own, letter in PARTS.items()}
NAMES |= {f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
NAMES = {own: f"model.layers.1.{name}.weight" for own, name in NAMES.items()} | {"output": "lm_head.weight"}
MIXED = {
    "blk.1.attn_v.weight": Kind.Q8_0,
    "blk.1.ffn_up.weight": Kind.Q4_1,
    "output.weight": Kind.Q8_0,
    "token_embd.weight": Kind.F16,
    **{f"blk.0.{own}.weight": Kind.F32 for own in (*PARTS, "ffn_gate", "ffn_up", "ffn_down")},
}


@pytest.fixture(scope="module")
def mixed(llama, tmp_path_factory):
    """A file of several types, with a group of zeros, and the checkpoint that it becomes."""

    def edit(tensors):
        tensors["blk.1.ffn_down.weight"][3, 32:64] = 0

    folder = tmp_path_factory.mktemp("mixed")
    path = write_gguf(folder / "model.gguf", llama, Kind.Q4_0, kinds=MIXED, edit=edit)
    convert(path, folder / "out")
    return path, folder / "out"


def quantize(folder, out, scheme):
    q = Quantization(
        scheme=scheme,
        group_size=32,
        mapping="symmetric_no_clipping_error",
        embedding_bits=8,
        embedding_group_size=0,
    )
    out.mkdir()
    figures = quantize_checkpoint(folder, q, out)
    return figures, load_quantized(folder, out, q).state_dict()


def test_integers_and_scales_are_the_files(mixed, tmp_path):
    """Weight-only linears in groups of 32 are Q4_0 to the bit; 8 bits and Q4_1 are rounded once more."""
    path, folder = mixed
    assert read_facts(Folder(folder)).stored == "GGUF (4 bits in groups of 32 and 8 bits in groups of 32)"
    figures, found = quantize(folder, tmp_path / "4", "int4_weight_only")
    expected = blocks(path)
    assert len(expected) == 7
    fours = {name: value for name, value in expected.items() if "v_proj" not in name and "lm_head" not in name}
    for name, (integers, scales) in fours.items():
        assert torch.equal(found[name].qdata, integers), name
        assert torch.equal(found[name].scale[scales != 0], scales[scales != 0])
        assert not integers.unflatten(1, (-1, 32))[scales == 0].any()
    assert figures["kept"] == {"weights": sum(integers.numel() for integers, _ in fours.values()), "error": 0}
    assert (
        figures["requantized"]["weights"]
        == sum(integers.numel() for integers, _ in expected.values()) - (figures["kept"]["weights"])
    )
    _, found = quantize(folder, tmp_path / "8", "int8_weight_only")
    for name, (integers, scales) in expected.items():
        assert torch.equal(found[name].qdata, integers), name
        assert torch.equal(found[name].scale[scales != 0], scales[scales != 0])


def test_for_xnnpack_negative_scales_turn_their_integers(mixed, tmp_path):
    """It takes positive scales only, and half of Q4_0's are negative."""
    path, folder = mixed
    figures, found = quantize(folder, tmp_path / "out", "8da4w")
    moved = count = 0
    for name, (integers, scales) in blocks(path).items():
        if "v_proj" in name or "lm_head" in name:
            continue
        own, sign = found[name], torch.where(scales < 0, -1, 1).unsqueeze(-1)
        wanted = (integers.unflatten(1, (-1, 32)) * sign).clamp(max=7)
        assert torch.equal(own.qdata.unflatten(1, (-1, 32)), wanted.to(torch.int8))
        assert (own.scale > 0).all()
        assert torch.equal(own.scale[scales > 0], scales[scales > 0].bfloat16())
        # None of the scales that a step of bfloat16 away has smaller errors.
        values = integers.unflatten(1, (-1, 32)) * scales.unsqueeze(-1)
        errors = [
            (wanted * own.scale.float().unsqueeze(-1) * factor - values).square().sum(-1)[scales < 0]
            for factor in (1, 1 + 1 / 64, 1 - 1 / 64)
        ]
        assert (errors[0] <= errors[1]).all()
        assert (errors[0] <= errors[2]).all()
        moved += int((integers.unflatten(1, (-1, 32)) * sign == 8).sum())
        count += integers.numel()
    assert figures["kept"]["weights"] == count - moved
    assert 0.01 < moved / count < 0.03
    assert 0 < figures["kept"]["error"] < 0.02


@pytest.mark.parametrize("kind", KEPT)
def test_transformers_reads_the_folder_alike(kind, llama, tmp_path):
    convert(write_gguf(tmp_path / "model.gguf", llama, Kind[kind]), tmp_path / "out")
    (tmp_path / "sample").mkdir()
    ids = torch.arange(7, 40).unsqueeze(0)
    whole, whose = witness.load_original(tmp_path / "out", converted=True)
    assert whose.name == "gguf"
    mine = load_model(tmp_path / "out")
    torch.testing.assert_close(mine(ids).logits, whole(ids).logits, rtol=1e-4, atol=1e-4)
    sample, _ = witness.load_sample(tmp_path / "out", [1], tmp_path / "sample", converted=True)
    own = witness.stream_sample(tmp_path / "out", [1])(ids, use_cache=False).logits
    torch.testing.assert_close(own, sample(ids, use_cache=False).logits, rtol=1e-4, atol=1e-4)


def test_blocks_of_rows_make_the_same_bytes(llama, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", llama, Kind.Q4_0)
    whole = convert(path, tmp_path / "whole")
    monkeypatch.setattr(tensors, "BLOCK", 1000)
    pieces = convert(path, tmp_path / "pieces")
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


def test_tokenizer_template_and_licence_come_along(llama, tmp_path):
    convert(write_gguf(tmp_path / "model.gguf", llama), tmp_path / "out")
    given = Tokenizer.from_file(str(tiny_assistant.CHECKPOINT / "tokenizer.json"))
    found = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    for text in ("I'm in room 2048, at 10:30!", "<|begin|><|user|>Wie geht's?\n\n<|end|>", "  naïve 🙂"):
        assert found.encode(text, add_special_tokens=False).ids == given.encode(text).ids
        assert found.encode(text).ids == [1, *given.encode(text).ids]
    facts, original = read_facts(Folder(tmp_path / "out")), read_facts(Folder(tiny_assistant.CHECKPOINT))
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
    "mixture of experts": ({"architecture": "qwen3moe"}, r"mixture of experts"),
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
    "one of several files": ({"extra": lambda w: w.add_uint16("split.count", 3)}, r"part 1 of 3 of a model"),
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
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    with pytest.raises(UserError, match=r"damaged or cut short") as refused:
        convert(path, tmp_path / "out")
    assert str(path) in str(refused.value)
    sizes = sorted(map(int, re.findall(r"\d+", str(refused.value).removeprefix(str(path)))))
    assert sizes[0] == len(whole[:kept]) < sizes[1] <= len(whole)  # ours, and not a library's words


ABSURD = st.sampled_from([2**60, 2**63, 2**64 - 1, 2**32, 2**31 - 1, 70_000, 0]).map(lambda n: struct.pack("<Q", n))
OTHER_BYTES = st.one_of(st.integers(0, 255).map(lambda n: bytes([n])), ABSURD)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The bytes of a file with each kind of value, and how many of them are its header."""
    path = tmp_path_factory.mktemp("small") / "small.gguf"
    writer = library.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 1)
    writer.add_float32("llama.rope.freq_base", 1e4)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_token_list(["a", "b", "c"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_tensor("token_embd.weight", np.ones((4, 32), np.float32))
    writer.add_tensor("output.weight", library.quantize(np.ones((4, 32), np.float32), Kind.Q4_0), raw_dtype=Kind.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes(), library.GGUFReader(path).data_offset


def opens(data, folder):
    """Whether a file opens; if not, it is refused in a sentence. Either takes little time and memory."""
    path = folder / "model.gguf"
    path.write_bytes(data)
    started, before = time.monotonic(), host.peak_bytes()
    try:
        gguf.check_magic(path)
        open_file(path)
        return True
    except UserError:
        return False
    finally:
        assert time.monotonic() - started < 3
        assert host.peak_bytes() - before < 200 << 20


def test_a_file_cut_anywhere_is_refused(small, tmp_path):
    data, _ = small
    assert opens(data, tmp_path)
    last = data.rstrip(b"\0")  # what follows fills up the last block
    assert not any(opens(data[:kept], tmp_path) for kept in range(len(last)))


COUNTS = {
    "tensors": (b"GGUF\3\0\0\0", 0),
    "keys": (b"GGUF\3\0\0\0", 8),
    "letters of a key": (b"GGUF\3\0\0\0", 16),
    "texts": (b"tokens\t\0\0\0\x08\0\0\0", 0),
    "letters of a text": (b"tokens\t\0\0\0\x08\0\0\0", 8),
    "numbers": (b"numbers\t\0\0\0\5\0\0\0", 0),
    "rows": (b"token_embd.weight\2\0\0\0", 8),
    "columns": (b"token_embd.weight\2\0\0\0", 0),
}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("count", [2**60, 2**40, 2**64 - 1])
def test_absurd_counts_are_refused_at_once(name, count, small, tmp_path):
    data, _ = small
    before, shift = COUNTS[name]
    at = data.index(before) + len(before) + shift
    assert not opens(data[:at] + struct.pack("<Q", count) + data[at + 8 :], tmp_path)


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), other=OTHER_BYTES)
def test_other_bytes_in_a_header_make_a_sentence_or_a_file(where, other, small, tmp_path):
    data, header = small
    at = int(where * header)
    opens(data[:at] + other + data[at + len(other) :], tmp_path)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), end=st.booleans(), other=OTHER_BYTES)
@example(where=0.92578125, end=True, other=struct.pack("<Q", 1 << 32))  # a tensor of no dimension
def test_other_bytes_in_a_header_make_a_sentence_or_a_model(where, end, other, quantized_bytes, tmp_path):
    """Whatever the header says, the answer is one of the two, and soon."""
    data, header = quantized_bytes
    at = int(where * 700)  # the beginning is dense with counts and lengths; the tensors follow the long vocabulary
    at = header - 700 + at if end else 4 + at
    path = tmp_path / "bad.gguf"
    path.write_bytes(data[:at] + other + data[at + len(other) :])
    started = time.monotonic()
    with contextlib.suppress(UserError):
        convert(path, tmp_path / "out")
    assert time.monotonic() - started < 10


@pytest.fixture(scope="module")
def quantized_bytes(llama, tmp_path_factory):
    path = write_gguf(tmp_path_factory.mktemp("quantized") / "model.gguf", llama, Kind.Q8_0)
    return path.read_bytes(), library.GGUFReader(path).data_offset

"""Each key of a GGUF file's metadata means what it means in llama.cpp, or is refused; a mistake of ours is noticed."""

import gguf as library
import numpy as np
import pytest
import real
import torch
from make_gguf import write_family

from et_pipeline.checkpoints import gguf, llama_cpp, witness
from et_pipeline.checkpoints.gguf import keys as gguf_keys
from et_pipeline.checkpoints.gguf.tensors import Decoder
from et_pipeline.checkpoints.gguf.tokenizer import write_tokenizer
from et_pipeline.checkpoints.reader import stream_model
from et_pipeline.errors import UserError
from et_pipeline.evaluation.agreement import eager_logits
from et_pipeline.evaluation.gate import witness_checks
from et_pipeline.evaluation.reading import ALLOWED_BY_LLAMA_CPP, examine

IDS = torch.randint(5, 512, (64,), generator=torch.Generator().manual_seed(0)).tolist()
GEMMA = {"query_pre_attn_scalar": 32, "sliding_window": 16}
WHOLE = {"num_key_value_heads": 4}  # the fused tensor's shares are equal
YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64}
FAR = {"rope_parameters": {"rope_type": "default", "rope_theta": 999999.0}}
# family in transformers, in llama.cpp, config, keys of the file
CASES = {
    "llama": ("llama", "llama", {}, {}),
    "llama: a head of its own": ("llama", "llama", {"tie_word_embeddings": False}, {}),
    "llama: rope.freq_base": ("llama", "llama", {}, {"rope.freq_base": 999999.0}),
    "llama: rms epsilon": ("llama", "llama", {}, {"attention.layer_norm_rms_epsilon": 0.01}),
    "llama: linear": ("llama", "llama", {}, {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
    "llama: yarn": ("llama", "llama", {}, YARN),
    "llama: yarn, attn_factor": ("llama", "llama", {}, YARN | {"rope.scaling.attn_factor": 1.5}),
    "llama: yarn, usual numbers": ("llama", "llama", {}, YARN | {"rope.scaling.yarn_beta_fast": 32.0}),
    "qwen2": ("qwen2", "qwen2", {}, {}),
    "qwen2: yarn": ("qwen2", "qwen2", {}, YARN),
    "qwen3": ("qwen3", "qwen3", {}, {}),
    "phi3": ("phi3", "phi3", WHOLE, {}),
    "phi3: a part turns": ("phi3", "phi3", {**WHOLE, "partial_rotary_factor": 0.5}, {}),
    "gemma2": ("gemma2", "gemma2", GEMMA, {}),
    "gemma2: caps": ("gemma2", "gemma2", {**GEMMA, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}, {}),
    "gemma3": ("gemma3_text", "gemma3", {**GEMMA, "num_hidden_layers": 6}, {}),
    "starcoder2": ("starcoder2", "starcoder2", {}, {}),
    "starcoder2: rope.freq_base": ("starcoder2", "starcoder2", FAR, {}),
}


def converted(path, out):
    out.mkdir(exist_ok=True)
    gguf.run({}, out, lambda *_: None, gguf.GgufFile(path=str(path)))
    return out


def difference(found, reference):
    return ((found - reference).abs().max() / reference.abs().max()).item()


def logits(folder):
    return eager_logits(stream_model(folder), 256, [IDS])[0]


@pytest.mark.parametrize("name", CASES)
def test_logits_are_llama_cpps(name, make_checkpoint, tmp_path):
    family, architecture, settings, keys = CASES[name]
    path = write_family(tmp_path / "model.gguf", make_checkpoint(family, **settings), architecture, keys)
    theirs = llama_cpp.logits(path, 256, [IDS])[0]
    # Those with GELU read it from a table of 16-bit floats.
    bound = 5e-3 if family.startswith(("gemma", "star")) else 5e-5
    assert difference(logits(converted(path, tmp_path / "out")), theirs) < bound < ALLOWED_BY_LLAMA_CPP


@pytest.mark.parametrize(
    ("key", "value", "as_floats"),
    [("attention.layer_norm_rms_epsilon", -1.0, True), ("expert_used_count", 8, False)],
)
def test_what_makes_llama_cpp_abort_is_a_reason(key, value, as_floats, make_checkpoint, tmp_path):
    path = write_family(tmp_path / "model.gguf", make_checkpoint("llama", **WHOLE), "llama", {key: value})
    with pytest.raises(llama_cpp.Unavailable, match=r"llama\.cpp was ended by SIGABRT over it \(\S+: GGML_ASSERT\("):
        llama_cpp.logits(path, 256, [IDS], as_floats=as_floats)


@pytest.mark.parametrize("as_floats", [True, False])
def test_the_end_of_a_longer_text_counts(as_floats, make_checkpoint, tmp_path):
    path = write_family(tmp_path / "model.gguf", make_checkpoint("llama", **WHOLE), "llama")
    whole = llama_cpp.logits(path, 256, [IDS, IDS[:5]], as_floats=as_floats)
    found = llama_cpp.logits(path, 256, [IDS[:5]], IDS, 3, as_floats=as_floats)
    assert [each.shape for each in found] == [whole[1].shape, (3, whole[0].shape[1])]
    torch.testing.assert_close(found, [whole[1], whole[0][-3:]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["phi3", "starcoder2"])
def test_a_window_that_llama_cpp_passes_over_is_the_makers(family, make_checkpoint, tmp_path):
    folder = make_checkpoint(family, sliding_window=16, **WHOLE)
    path = write_family(tmp_path / "model.gguf", folder, family)
    out = converted(path, tmp_path / "out")
    assert difference(logits(out), logits(folder)) < 1e-5
    found = examine(out, path, witness.load_original(out, converted=True), 2, [IDS], [], 256).witness
    assert (found.name, found.note) == ("gguf", f"llama.cpp passes over {family}'s sliding window")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope.scaling.yarn_beta_fast", 8.0),
        ("rope.scaling.yarn_beta_slow", 2.0),
        ("rope.scaling.yarn_ext_factor", 0.5),
        ("rope.scaling.yarn_attn_factor", 1.5),
        ("rope.scaling.yarn_log_multiplier", 0.5),
        ("rope.scaling.type", "longrope"),
        ("rope.scaling.alpha", 2.0),
        ("rope.dimension_count", 16),
        ("rope.freq_base_swa", 5000.0),
        ("attention.value_length", 16),
        ("attention.scale", 0.5),
        ("attention.clamp_kqv", 8.0),
        ("attention.max_alibi_bias", 8.0),
        ("attention.causal", False),
        ("attn_logit_softcapping", 5.0),
        ("final_logit_softcapping", 5.0),
        ("attention.sliding_window_pattern", 3),
        ("logit_scale", 0.5),
        ("residual_scale", 0.5),
        ("embedding_scale", 2.0),
        ("expert_count", 8),
        ("use_parallel_residual", True),
        ("pooling_type", 1),
        ("a_key_of_tomorrow", "x"),
    ],
)
def test_what_may_change_the_result_and_is_not_known_is_refused(key, value, make_checkpoint, tmp_path):
    extra = (YARN if "yarn" in key else {}) | {key: value}
    path = write_family(tmp_path / "model.gguf", make_checkpoint("llama"), "llama", extra)
    with pytest.raises(UserError) as caught:
        converted(path, tmp_path / "out")
    assert f"llama.{key}=" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_switched_off_is_harmless(make_checkpoint, tmp_path):
    off = {"attention.clamp_kqv": 0.0, "expert_count": 0, "rope.scaling.finetuned": True, "attention.causal": True}
    path = write_family(tmp_path / "model.gguf", make_checkpoint("llama"), "llama", off)
    assert converted(path, tmp_path / "out")


def test_big_endian_and_the_first_version_say_so(make_checkpoint, tmp_path):
    path = tmp_path / "big.gguf"
    write_family(path, make_checkpoint("llama"), "llama", endianess=library.GGUFEndian.BIG)
    with pytest.raises(UserError, match="is a big-endian GGUF file"):
        gguf.check_magic(path)
    (tmp_path / "old.gguf").write_bytes(b"GGUF\x01\0\0\0" + bytes(100))
    with pytest.raises(UserError, match="of version 1"):
        gguf.check_magic(tmp_path / "old.gguf")


def leave_out_carry(monkeypatch):
    monkeypatch.setattr(gguf_keys, "carry", lambda *_: None)


def leave_out_order(monkeypatch):
    """Rows of queries and keys as llama.cpp has them."""
    monkeypatch.setattr(Decoder, "__init__", lambda self, *_: self.__dict__.update(_path=None, _processor=None))


def ignore(*names):
    def mutate(monkeypatch):
        carry = gguf_keys.carry

        def less(path, architecture, metadata, config):
            carry(path, architecture, {k: v for k, v in metadata.items() if not k.endswith(names)}, config)

        monkeypatch.setattr(gguf_keys, "carry", less)

    return mutate


MUTATIONS = {
    "order of rows": ("llama", leave_out_order),
    "attention factor": ("llama: yarn, attn_factor", ignore("attn_factor")),
    "kind of scaling": ("llama: yarn", ignore("scaling.type", "scaling.factor")),
    "linear scaling": ("llama: linear", ignore("scaling.type", "scaling.factor")),
    "rope base": ("starcoder2: rope.freq_base", ignore("rope.freq_base")),
    "caps": ("gemma2: caps", ignore("attn_logit_softcapping", "final_logit_softcapping")),
    "attention scale": ("gemma2", leave_out_carry),
    "part that turns": ("phi3: a part turns", ignore("rope.dimension_count")),
    "norms of gemma": ("gemma3", leave_out_order),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_of_the_gguf_reader_fails_the_verdict(name, make_checkpoint, tmp_path, monkeypatch):
    case, mutate = MUTATIONS[name]
    family, architecture, settings, keys = CASES[case]
    path = write_family(tmp_path / "model.gguf", make_checkpoint(family, **settings), architecture, keys)
    mutate(monkeypatch)
    out = converted(path, tmp_path / "out")
    found = examine(out, path, witness.load_original(out, converted=True), 2, [IDS], [], 256).witness
    assert found.name == "llama.cpp"
    (check,) = witness_checks(found)
    assert not check.passed, f"{check.value:.2g}"


def spm(path, folder, prefix):
    """A SentencePiece vocabulary in a file: what stands behind a special token, and the mark before a text."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "h", "e", "l", "o", "▁h", "he"]
    pieces += ["▁he", "ll", "llo", "▁hello", "hello"]
    writer = library.GGUFWriter(path, "llama")
    for name, value in {"context_length": 64, "block_count": 1, "embedding_length": 32}.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0 if at < 259 else float(259 - at) for at in range(len(pieces))])
    writer.add_token_types([2, 3, 3, *([6] * 256), *([1] * (len(pieces) - 259))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if prefix is not None:
        writer.add_add_space_prefix(prefix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    folder.mkdir()
    write_tokenizer(path, library.GGUFReader(path), folder)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: tokenizer.encode(text, add_special_tokens=False).tokens


def test_sentencepiece_is_in_llamas_form(tmp_path):
    """As llama.cpp cuts these texts (`Llama.tokenize(text, add_bos=False, special=True)`, 0.3.36)."""
    usual = spm(tmp_path / "a.gguf", tmp_path / "a", None)
    assert usual("hello hello") == ["▁hello", "▁hello"]
    assert usual("<s>hello") == ["<s>", "▁hello"]
    assert usual("é") == ["▁", "<0xC3>", "<0xA9>"]
    plain = spm(tmp_path / "b.gguf", tmp_path / "b", False)
    assert plain("hello hello") == ["hello", "▁hello"]
    assert plain("<s>hello") == ["<s>", "hello"]


@pytest.mark.real
def test_smollm2_computes_what_llama_cpp_does(tmp_path):
    """The bound is that of weights in 16 bits: the file's products of a scale and an integer need 15 bits, not 11."""
    path = real.smollm2()
    out = converted(path, tmp_path / "out")
    ids = np.random.default_rng(0).integers(100, 40000, 128).tolist()
    theirs = llama_cpp.logits(path, 2048, [ids], as_floats=True)[0]
    found = eager_logits(stream_model(out), 2048, [ids])[0]
    assert difference(found, theirs) < 3e-3
    assert torch.nn.functional.cosine_similarity(found.double(), theirs.double()).min() > 0.9999


@pytest.mark.parametrize("architecture", ["lfm2", "gemma4"])
def test_architectures_whose_layers_differ_are_refused_whatever_the_file_says(architecture, make_checkpoint, tmp_path):
    """Transformers reads them, and its tables pass over what single layers have."""
    path = write_family(tmp_path / "model.gguf", make_checkpoint("llama"), architecture)
    with pytest.raises(UserError, match=f"architecture {architecture}, whose layers differ from each other"):
        converted(path, tmp_path / "out")

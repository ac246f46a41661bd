import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from make_prequantized import AWQ_ORDER, pack, write_awq, write_by_transformers, write_compressed, write_gptq
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchao.quantization import IntxUnpackedToInt8Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from et_pipeline import manifest, tiny_assistant
from et_pipeline.checkpoints import prequantized
from et_pipeline.checkpoints.facts import read_facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.layout import read_layout
from et_pipeline.checkpoints.prequantized import awq, bitsandbytes, check_method, gptq
from et_pipeline.checkpoints.prequantized.weight import floats, unpack
from et_pipeline.checkpoints.reader import load_model, prepare, stream_model
from et_pipeline.errors import UserError
from et_pipeline.forecast import read_model
from et_pipeline.quantization import mixed, sensitivity
from et_pipeline.quantization.calibrated import quantize_calibrated
from et_pipeline.quantization.sensitivity import Loss
from et_pipeline.quantization.torchao_config import load_quantized, quantize_checkpoint
from et_pipeline.settings import Model, Quantization

QUERY = "model.layers.0.self_attn.q_proj."
DOWN = "model.layers.0.mlp.down_proj."


def nf4(**settings):
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", **settings)


def torchao(name, **settings):
    from torchao import quantization
    from torchao.quantization.granularity import PerGroup

    if "group" in settings:
        settings["granularity"] = PerGroup(settings.pop("group"))
    return TorchAoConfig(getattr(quantization, name)(**settings))


def compressed(**settings):
    base = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    return partial(write_compressed, **base | settings)


def by_transformers(make, *arguments, **settings):
    return lambda checkpoint, out: write_by_transformers(checkpoint, out, make(*arguments, **settings))


CHANNELS = {"num_bits": 8, "strategy": "channel", "group_size": None, "form": "int-quantized"}
FORMS = {
    "nf4": by_transformers(nf4),
    "nf4 nested": by_transformers(nf4, bnb_4bit_use_double_quant=True),
    "nf4 in bf16": by_transformers(nf4, bnb_4bit_use_double_quant=True, bnb_4bit_quant_storage=torch.bfloat16),
    "fp4": by_transformers(BitsAndBytesConfig, load_in_4bit=True, bnb_4bit_quant_type="fp4"),
    "int8": by_transformers(BitsAndBytesConfig, load_in_8bit=True),
    "gptq": write_gptq,
    "gptq v2": partial(write_gptq, form="gptq_v2"),
    "gptq 2 bits": partial(write_gptq, bits=2),
    "gptq 8 bits": partial(write_gptq, bits=8, size=-1),
    "gptq 64": partial(write_gptq, size=64),
    "gptq with biases": partial(write_gptq, biases=True),
    "gptq asymmetric": partial(write_gptq, symmetric=False),
    "gptq act-order": partial(write_gptq, act_order=True),
    "gptq act-order asymmetric": partial(write_gptq, act_order=True, symmetric=False),
    "awq": write_awq,
    "awq symmetric": partial(write_awq, symmetric=True),
    "torchao int4": by_transformers(torchao, "IntxWeightOnlyConfig", weight_dtype=torch.int4, group=32),
    "torchao int8": by_transformers(torchao, "Int8WeightOnlyConfig"),
    "torchao int8 int8": by_transformers(torchao, "Int8DynamicActivationInt8WeightConfig"),
    "compressed": compressed(),
    "compressed channel": compressed(strategy="channel", group_size=None),
    "compressed asymmetric": compressed(symmetric=False),
    "compressed int8": compressed(**CHANNELS),
    "compressed int8 asymmetric": compressed(**CHANNELS | {"symmetric": False}),
}
KEPT_4 = ("gptq", "gptq v2", "gptq 2 bits", "gptq 64", "gptq with biases", "awq symmetric", "torchao int4")
KEPT_4 += ("compressed", "compressed channel")
KEPT_8 = ("int8", "gptq 8 bits", "torchao int8", "torchao int8 int8", "compressed int8", "compressed channel")


@pytest.fixture(scope="module")
def made(make_checkpoint, tmp_path_factory):
    """The small Llama in a form of FORMS; `original` is its own folder."""
    folders = {}

    def make(name):
        if name not in folders:
            folders[name] = FORMS[name](make.original, tmp_path_factory.mktemp("made") / name.replace(" ", "-"))
        return folders[name]

    make.original = make_checkpoint("llama", num_hidden_layers=1, tie_word_embeddings=True)
    return make


def recipe(scheme="8da4w", group_size=32, **changes):
    settings = {"mapping": "symmetric_no_clipping_error", "embedding_bits": 8, "embedding_group_size": 0}
    return Quantization(**{**settings, **changes, "scheme": scheme, "group_size": group_size})


PER_CHANNEL_8 = recipe("8da8w", 0)


def by_the_tool(name, folder):
    """The float weights by the tool's own code, or by what the packer of this test has rounded."""
    path = folder.with_name(f"{folder.name}-expected.safetensors")
    if path.is_file():
        return load_file(path)
    model = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", dtype=torch.float32)
    if not name.startswith("torchao"):
        model = model.dequantize()
    weights = {key: value for key, value in model.state_dict().items() if "proj" in key}
    return {key: value.dequantize() if hasattr(value, "qdata") else value for key, value in weights.items()}


@pytest.mark.parametrize("name", FORMS)
def test_weights_are_what_the_tool_makes_of_them(name, made):
    folder = made(name)
    found = load_model(folder).state_dict()
    expected = by_the_tool(name, folder)
    assert len(expected) == 7
    original = load_file(made.original / "model.safetensors")
    for key, weight in expected.items():
        assert found[key].dtype == torch.float32
        if name.startswith("compressed"):  # computes in bf16, the type of its scales
            torch.testing.assert_close(found[key].bfloat16().float(), weight, rtol=1e-2, atol=0, msg=key)
        else:
            # bitsandbytes multiplies by 1 / 127 where we divide by it
            torch.testing.assert_close(found[key], weight, rtol=2e-7 if name == "int8" else 0, atol=0, msg=key)
        assert (found[key] - original[key]).norm() < (0.5 if "2 bits" in name else 0.2) * original[key].norm()
    for key in original.keys() - expected.keys():
        assert torch.equal(found[key], original[key])


@pytest.mark.parametrize("name", ["nf4 nested", "gptq act-order", "awq", "torchao int8"])
def test_streamed_model_computes_with_the_same_weights(name, made):
    tokens = torch.arange(1, 20).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(stream_model(made(name))(tokens).logits, load_model(made(name))(tokens).logits)


@pytest.mark.parametrize("name", FORMS)
def test_parameters_are_those_of_the_float_model(name, made):
    folder = made(name)
    facts, original = read_facts(Folder(folder)), read_facts(Folder(made.original))
    assert facts.parameters == original.parameters
    assert (facts.tied_head, original.stored) == (True, None)
    method = json.loads((folder / "config.json").read_text())["quantization_config"]["quant_method"]
    assert facts.stored.startswith(method)
    form = {"name": "x", "max_context": 64, "prefill_chunk": 16}
    planned, float_plan = (read_model(Model(source=str(each), **form)) for each in (folder, made.original))
    assert planned == float_plan


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nf4", "bitsandbytes (NF4)"),
        ("int8", "bitsandbytes (int8)"),
        ("gptq", "gptq (4 bits in groups of 32)"),
        ("gptq 8 bits", "gptq (8 bits per output channel)"),
        ("torchao int4", "torchao (4 bits in groups of 32)"),
        ("compressed int8", "compressed-tensors (8 bits per output channel)"),
    ],
)
def test_form_in_words(name, words, made):
    assert read_facts(Folder(made(name))).stored == words


def quantized(folder, out, q):
    out.mkdir()
    figures = quantize_checkpoint(folder, q, out)
    return figures, load_quantized(folder, out, q).state_dict()


def stored_weight(folder, key):
    contents = Folder(folder).contents
    with safe_open(folder / "model.safetensors", "pt") as file:
        return prequantized.decode(contents.packed[key], file.get_tensor)


def error_of(found, folder):
    """By how much the packed weights changed, computed another way than the stage does."""
    floats_of = load_model(folder).state_dict()
    keys = [key for key in found if "proj" in key and key.endswith("weight")]
    missed = torch.cat([(found[key].dequantize() - floats_of[key]).flatten() for key in keys])
    return float(missed.norm() / torch.cat([floats_of[key].flatten() for key in keys]).norm())


@pytest.mark.parametrize(
    ("name", "q"), [(name, recipe()) for name in KEPT_4] + [(name, PER_CHANNEL_8) for name in KEPT_8]
)
def test_integers_stay_where_the_recipe_holds_them(name, q, made, tmp_path):
    folder = made(name)
    figures, found = quantized(folder, tmp_path / "out", q)
    assert figures["requantized"] == {"weights": 0, "error": 0}
    assert figures["kept"]["weights"] == sum(w.numel() for key, w in found.items() if "proj" in key)
    # Scales of groups are rounded to bfloat16, by at most a 256th; those of channels stay float32.
    assert figures["kept"]["error"] <= (1 / 256 if q.group_size else 0)
    assert figures["kept"]["error"] == pytest.approx(error_of(found, folder), rel=1e-3, abs=1e-9)
    for key in (f"{QUERY}weight", f"{DOWN}weight"):
        stored = stored_weight(folder, key)
        assert torch.equal(found[key].qdata, stored.qdata)
        scale = stored.scale.repeat_interleave(found[key].scale.shape[1] // stored.scale.shape[1], 1)
        assert torch.equal(found[key].scale, scale.to(found[key].scale.dtype))
        assert not found[key].zero_point.any()
        assert found[key].activation_quantization is not None


@pytest.mark.parametrize(
    ("name", "q", "limit"),
    [
        ("nf4", recipe(), 0.12),
        ("gptq asymmetric", recipe(), 0.12),
        ("gptq act-order", recipe(), 0.12),
        ("awq", recipe(), 0.12),
        ("compressed asymmetric", recipe(), 0.12),
        ("gptq", recipe(group_size=64), 0.12),  # groups of the recipe hold several of the file's
        ("gptq", recipe(group_size=0), 0.2),
        ("int8", recipe(), 0.12),
        ("nf4", PER_CHANNEL_8, 0.02),
        ("compressed int8 asymmetric", PER_CHANNEL_8, 0.02),
    ],
)
def test_loss_is_reported_where_integers_do_not_stay(name, q, limit, made, tmp_path):
    folder = made(name)
    figures, found = quantized(folder, tmp_path / "out", q)
    assert figures["kept"] == {"weights": 0, "error": 0}
    assert 0 < figures["requantized"]["error"] < limit
    assert figures["requantized"]["error"] == pytest.approx(error_of(found, folder), rel=1e-3)


def test_float_checkpoints_have_nothing_to_report(made, tmp_path):
    assert quantized(made.original, tmp_path / "out", recipe())[0] == {}


def test_without_quantization_the_floats_stay(made, tmp_path):
    q = recipe("fp32", 0, embedding_bits=32)
    figures, found = quantized(made("gptq"), tmp_path / "out", q)
    assert figures["requantized"]["error"] == 0
    expected = load_model(made("gptq")).state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


TEXTS = [[int(token) for token in np.random.default_rng(seed).integers(0, 512, 40)] for seed in range(6)]


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_calibrated_recipes_keep_integers_too(name, made, tmp_path):
    q = recipe(algorithm="gptq")
    (tmp_path / "out").mkdir()
    figures = quantize_calibrated(made(name), q, TEXTS, tmp_path / "out", lambda done, total: None)
    found = load_quantized(made(name), tmp_path / "out", q).state_dict()
    if name == "gptq":
        plain, expected = quantized(made(name), tmp_path / "plain", recipe())
        assert figures == plain
        assert all(torch.equal(found[key].qdata, expected[key].qdata) for key in found if "proj" in key)
    else:
        assert figures["kept"]["weights"] == 0
        assert figures["requantized"]["error"] == pytest.approx(error_of(found, made(name)), rel=1e-3)


def test_bits_are_not_spent_on_integers_that_stay(made, tmp_path, monkeypatch):
    monkeypatch.setattr(mixed, "OUTLIER", 2)
    folder, losses, own = made("gptq"), tmp_path / "losses", "model.layers.0.mlp.down_proj"
    q = recipe(algorithm="gptq")
    losses.mkdir()
    found = sensitivity.measure(folder, q, TEXTS, losses, lambda *_: None)
    stay = {name: each for name, each in found.items() if "proj" in name}
    assert max(each.rounded for each in stay.values()) < found["lm_head"].rounded / 100
    figures, found = {}, {name: Loss(each.weights, each.rounded, 0.0) for name, each in found.items()}
    for case, activations in (("plain", 0.0), ("floats", 1.0)):
        (tmp_path / case).mkdir()
        found[own] = found[own]._replace(activations=activations)
        chosen = q.model_copy(update={"mixed_bits": 8.0})
        figures[case] = quantize_calibrated(folder, chosen, TEXTS, tmp_path / case, lambda *_: None, found)
    assert figures["plain"]["requantized"]["weights"] == 0
    assert figures["floats"]["requantized"]["weights"] == found[own].weights
    made_of = load_quantized(folder, tmp_path / "floats", chosen).state_dict()[f"{own}.weight"]
    assert made_of.target_dtype is torch.int8
    assert made_of.activation_quantization is None


def test_modules_that_were_not_converted_stay_floats(made, tmp_path):
    folder = write_awq(made.original, tmp_path / "awq", skipped=["down_proj"])
    original = load_file(made.original / "model.safetensors")
    assert f"{DOWN}weight" in read_layout(folder)
    assert torch.equal(load_model(folder).state_dict()[f"{DOWN}weight"], original[f"{DOWN}weight"])
    figures, found = quantized(folder, tmp_path / "out", recipe())
    assert figures["requantized"]["weights"] == sum(
        w.numel() for key, w in found.items() if "proj" in key and "down_proj" not in key
    )


def test_a_packed_head_is_a_head(make_checkpoint, tmp_path):
    original = make_checkpoint("llama", num_hidden_layers=1, tie_word_embeddings=False)
    folder = write_gptq(original, tmp_path / "gptq", wanted=lambda name: "proj" in name or "lm_head" in name)
    facts = read_facts(Folder(folder))
    assert not facts.tied_head
    assert facts.parameters == read_facts(Folder(original)).parameters
    figures, found = quantized(folder, tmp_path / "out", recipe())
    assert figures["requantized"]["weights"] == 0
    assert torch.equal(found["lm_head.weight"].qdata, stored_weight(folder, "lm_head.weight").qdata)


@pytest.mark.parametrize("write", [write_gptq, write_awq])
def test_fused_projections_are_split(write, make_checkpoint, tmp_path):
    original = make_checkpoint("phi3", num_hidden_layers=1)
    folder = write(original, tmp_path / "packed")
    expected = load_file(tmp_path / "packed-expected.safetensors")["model.layers.0.self_attn.qkv_proj.weight"]
    model = load_model(folder)
    parts = [part.weight for part in model.model.layers[0].self_attn.qkv_proj.children()]
    assert [len(part) for part in parts] == [128, 64, 64]
    assert torch.equal(torch.cat(parts), expected)
    figures, found = quantized(folder, tmp_path / "out", recipe())
    kept = "kept" if write is write_gptq else "requantized"
    assert figures[kept]["weights"] == sum(w.numel() for key, w in found.items() if "_proj" in key)


def test_biases_of_zeros_are_dropped_unless_the_model_has_biases(made, make_checkpoint, tmp_path):
    assert f"{QUERY}bias" in read_layout(made("gptq with biases"))
    assert f"{QUERY}bias" not in dict(load_model(made("gptq with biases")).named_parameters())
    original = make_checkpoint("qwen2", num_hidden_layers=1)
    folder = write_gptq(original, tmp_path / "qwen")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    key = "model.layers.0.self_attn.k_proj.bias"
    save_file(tensors | {key: torch.zeros_like(tensors[key])}, path)
    assert not load_model(folder).state_dict()[key].any()


def test_a_missing_index_means_neighbours(made, tmp_path):
    folder = shutil.copytree(made("gptq"), tmp_path / "copy")
    edit(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.endswith("g_idx")])
    assert torch.equal(
        load_model(folder).state_dict()[f"{QUERY}weight"], load_model(made("gptq")).state_dict()[f"{QUERY}weight"]
    )


def test_several_files(made, tmp_path):
    folder = shutil.copytree(made("torchao int4"), tmp_path / "copy")
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), load_file(path)
    path.unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for name, part in parts.items():
        save_file({key: tensors[key] for key in part}, folder / name, metadata)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found, expected = load_model(folder).state_dict(), load_model(made("torchao int4")).state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@given(bits=st.sampled_from([2, 4, 8]), rows=st.integers(1, 5), words=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_unpacking_undoes_packing(bits, rows, words, seed):
    values = np.random.default_rng(seed).integers(0, 2**bits, (words * 32 // bits, rows))
    assert np.array_equal(unpack(pack(values, bits).T, bits).numpy(), values.T)


@given(rows=st.integers(1, 4), groups=st.integers(1, 4), act_order=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_gptq_and_awq_layouts_hold_what_was_packed(rows, groups, act_order, seed):
    random = np.random.default_rng(seed)
    width, outputs = 8 * groups, 8 * rows
    values = random.integers(0, 16, (width, outputs))
    zeros = random.integers(1, 16, (groups, outputs))
    scales = random.uniform(0.01, 1, (groups, outputs)).astype(np.float16)
    index = np.arange(width) // 8
    if act_order:
        index = random.permutation(index)
    expected = torch.from_numpy(((values - zeros[index]).astype(np.float32) * scales[index]).T.copy())
    parts = {
        "qweight": pack(values, 4),
        "qzeros": pack((zeros - 1).T, 4).T,
        "scales": torch.from_numpy(scales),
        "g_idx": torch.from_numpy(index),
    }
    assert torch.equal(floats(gptq._decode(parts, 4, 8, True)), expected)
    parts = {
        "qweight": pack(values.T, 4, AWQ_ORDER).T,
        "qzeros": pack(zeros.T, 4, AWQ_ORDER).T,
        "scales": torch.from_numpy(scales),
    }
    if not act_order:
        assert torch.equal(floats(awq._decode(parts)), expected)


@settings(deadline=None)
@given(
    rows=st.integers(1, 3),
    columns=st.integers(3, 40),  # its own code turns a packed weight of a single byte around
    size=st.sampled_from([32, 64]),
    nested=st.booleans(),
    kind=st.sampled_from(["nf4", "fp4"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_bitsandbytes_own_code_says_the_same(rows, columns, size, nested, kind, seed):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed % 2**31))
    with torch.compiler.set_stance("force_eager"):  # it would compile for a quarter of a minute
        # As one row: a block goes on over the ends of rows, where its AVX-512 kernel takes a wrong scale.
        row = weight.reshape(1, -1)
        packed, state = quantize_4bit(row, blocksize=size, quant_type=kind, compress_statistics=nested)
        expected = dequantize_4bit(packed, state).reshape(rows, columns)
    parts = {f"weight.{name}": value for name, value in state.as_dict(packed=True).items()}
    more = json.loads(bytes(parts.pop(f"weight.quant_state.bitsandbytes__{kind}").tolist()))
    found = bitsandbytes._decode_4bit(parts | {"weight": packed}, (rows, columns), more)
    assert torch.equal(found, expected)


def edit(folder, change):
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


def without(name):
    return lambda tensors: tensors.pop(name)


def changed(name, change):
    return lambda tensors: tensors.update({name: change(tensors[name])})


def spoiled(value):
    def change(tensor):
        tensor = tensor.clone()
        tensor.flatten()[-1] = value
        return tensor

    return change


STATE = f"{QUERY}weight.quant_state.bitsandbytes__nf4"
BAD = {
    "gptq: no scales": ("gptq", without(f"{QUERY}scales"), r"q_proj\.scales is in no .*quant_method='gptq' asks"),
    "gptq: no zeros": ("gptq", without(f"{QUERY}qzeros"), r"q_proj\.qzeros is in no safetensors file"),
    "gptq: scales cut": ("gptq", changed(f"{QUERY}scales", lambda t: t[:-1]), r"scales is F16 \[3, 128\].*\[4, 128\]"),
    "gptq: rows cut": ("gptq", changed(f"{QUERY}qweight", lambda t: t[:-4]), r"q_proj\.\w+ is .*\[96\]|\[3,"),
    "gptq: columns cut": ("gptq", changed(f"{QUERY}qweight", lambda t: t[:, :64]), r"q_proj\.qzeros is I32 \[4, 16\]"),
    "gptq: type": ("gptq", changed(f"{QUERY}qweight", lambda t: t.long()), r"q_proj\.qweight is I64.*asks for I32"),
    "gptq: one dimension": ("gptq", changed(f"{QUERY}qweight", lambda t: t.flatten()), r"expected 2 dimensions"),
    "gptq: index": ("gptq", changed(f"{QUERY}g_idx", spoiled(9)), r"q_proj\.weight is damaged: its g_idx names groups"),
    "gptq: not a number": ("gptq", changed(f"{QUERY}scales", spoiled(np.nan)), r"damaged: its scales are not all num"),
    "gptq: bias": (
        "gptq with biases",
        changed(f"{QUERY}bias", spoiled(1.0)),
        r"tensor model\.layers\.0\.self_attn\.q_proj\.bias has no place",
    ),
    "gptq: twice": (
        "gptq",
        lambda t: t.update({f"{QUERY}weight": torch.zeros(128, 128)}),
        r"weight is there twice",
    ),
    "awq: no scales": ("awq", without(f"{QUERY}scales"), r"q_proj\.scales is in no safetensors file"),
    "awq: zeros cut": ("awq", changed(f"{QUERY}qzeros", lambda t: t[:, 1:]), r"q_proj\.qzeros is I32 \[4, 15\]"),
    "nf4: no absmax": ("nf4", without(f"{QUERY}weight.absmax"), r"q_proj\.weight\.absmax is in no safetensors file"),
    "nf4: absmax cut": ("nf4", changed(f"{QUERY}weight.absmax", lambda t: t[1:]), r"absmax is F32 \[255\].*\[256\]"),
    "nf4: cut": ("nf4", changed(f"{QUERY}weight", lambda t: t[1:]), r"q_proj\.weight is damaged: it has 8191 bytes"),
    "nf4: no table": ("nf4", without(f"{QUERY}weight.quant_map"), r"quant_map is in no safetensors file"),
    "nf4: no state": ("nf4", without(STATE), r"q_proj\.weight has shape \[8192, 1\]"),
    "nf4: state": ("nf4", changed(STATE, lambda t: t[3:]), r"quant_state\.bitsandbytes__nf4 makes no sense"),
    "nf4: nested": (
        "nf4 nested",
        without(f"{QUERY}weight.nested_quant_map"),
        r"q_proj\.weight\.nested_quant_map is in no safetensors file",
    ),
    "int8: no SCB": ("int8", without(f"{QUERY}SCB"), r"q_proj\.weight is I8"),
    "int8: SCB cut": ("int8", changed(f"{QUERY}SCB", lambda t: t[1:]), r"q_proj\.SCB is F32 \[127\].*\[128\]"),
    "int8: format": ("int8", changed(f"{QUERY}weight_format", lambda t: t + 1), r"its weight_format is not 0"),
    "torchao: no scale": ("torchao int4", without(f"{QUERY}_weight_scale"), r"q_proj\._weight_scale is in no"),
    "torchao: no integers": ("torchao int4", without(f"{QUERY}_weight_qdata"), r"_weight_qdata is in no safetensors f"),
    "torchao: zeros": (
        "torchao int4",
        changed(f"{QUERY}_weight_zero_point", lambda t: t[:, 1:]),
        r"\[128, 4\] scales, but \[128, 3\] zero points",
    ),
    "torchao: groups": (
        "torchao int4",
        lambda t: [t.update({f"{QUERY}_weight_{n}": t[f"{QUERY}_weight_{n}"][:, 1:]}) for n in ("scale", "zero_point")],
        r"its 128 inputs are no whole number of 3 groups",
    ),
    "compressed: no shape": ("compressed", without(f"{QUERY}weight_shape"), r"weight_shape is in no safetensors file"),
    "compressed: no scale": ("compressed", without(f"{QUERY}weight_scale"), r"weight_scale is in no safetensors file"),
    "compressed: cut": (
        "compressed",
        changed(f"{QUERY}weight_packed", lambda t: t[:, 1:]),
        r"weight_packed has shape \[128, 15\], which does not go with",
    ),
    "compressed: zero points gone": (
        "compressed asymmetric",
        changed(f"{QUERY}weight_zero_point", lambda t: t[1:]),
        r"weight_zero_point is I32 \[15, 4\]",
    ),
    "compressed: no integers": ("compressed int8", without(f"{QUERY}weight"), r"q_proj\.weight is in no safetensors f"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused_in_a_sentence(name, made, tmp_path):
    form, change, sentence = BAD[name]
    folder = shutil.copytree(made(form), tmp_path / "copy")
    edit(folder, change)
    with pytest.raises(UserError, match=sentence):
        load_model(folder)


UNREADABLE = {
    "fp8": ({"quant_method": "fp8"}, r"quant_method='fp8', which cannot be read; bitsandbytes"),
    "hqq": ({"quant_method": "hqq"}, r"quant_method='hqq'"),
    "no method": ({"bits": 4}, r"quant_method=None"),
    "not an object": ("gptq", r"quantization_config='gptq', expected an object"),
    "3 bits": ({"quant_method": "gptq", "bits": 3}, r"'gptq' with bits=3, which"),
    "marlin": ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, r"checkpoint_format='marlin'"),
    "old marlin": ({"quant_method": "gptq", "bits": 4, "is_marlin_format": True}, r"is_marlin_format=True"),
    "per layer": ({"quant_method": "gptq", "bits": 4, "dynamic": {"x": {"bits": 8}}}, r"with dynamic="),
    "gemv": ({"quant_method": "awq", "bits": 4, "version": "GEMV"}, r"'awq' with version='GEMV'"),
    "awq bits": ({"quant_method": "awq", "bits": 8}, r"bits=8"),
    "floats": (
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
        },
        r"'compressed-tensors' with format='float-quantized'",
    ),
    "compressed 3 bits": (
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 3, "type": "int"}}},
        },
        r"num_bits=3",
    ),
    "sparse": (
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
            "sparsity_config": {"format": "sparse-24-bitmask"},
        },
        r"sparsity_config=",
    ),
    "rotated": (
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
            "transform_config": {"config_groups": {"u": {}}},
        },
        r"with a transform_config",
    ),
    "no groups": ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, r"config_groups=None"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_methods_are_named(name):
    settings, sentence = UNREADABLE[name]
    with pytest.raises(UserError, match=sentence) as error:
        check_method({"quantization_config": settings}, "config.json")
    assert "original float weights" in str(error.value) or name == "not an object"


def test_torchao_weights_of_another_kind_are_refused(made, tmp_path):
    folder = shutil.copytree(made("torchao int4"), tmp_path / "copy")
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    metadata[f"{QUERY}weight"] = metadata[f"{QUERY}weight"].replace("IntxUnpackedToInt8Tensor", "Float8Tensor")
    save_file(load_file(path), path, metadata)
    with pytest.raises(UserError, match=r"q_proj\.weight is a Float8Tensor of torchao, which cannot be read"):
        read_facts(Folder(folder))
    metadata[f"{QUERY}weight"] = '{"_type": '
    save_file(load_file(path), path, metadata)
    with pytest.raises(UserError, match=r"its metadata of model\.layers\.0\.self_attn\.q_proj\.weight make no sense"):
        read_facts(Folder(folder))


def test_only_one_float_weight_exists_at_a_time(made, tmp_path):
    """Packed weights stay in their files until their module is filled, and integers come without a float copy."""
    model, modules, fill, packed, _ = prepare(Folder(made("gptq")))
    assert {value.device.type for value in model.parameters()} == {"meta"}
    assert len(packed) == 7
    name, module = next((name, module) for name, module in modules if f"{name}." == QUERY)
    fill(name, module, as_stored=True)
    assert isinstance(module.weight, IntxUnpackedToInt8Tensor)
    assert module.weight.qdata.dtype == torch.int8
    assert sum(value.device.type != "meta" for value in model.parameters()) == 1


ROAD = {  # recipe, what the closing table says, the figures' part that holds all packed weights
    "nf4 nested": ("8da4w", "bitsandbytes (NF4); 1,572,864 weights requantized, off by", "requantized"),
    "int8": ("8da8w", "bitsandbytes (int8); 1,572,864 integers kept, scales too", "kept"),
    "gptq": ("8da4w", "gptq (4 bits in groups of 32); 1,572,864 integers kept, scales off by 0.1", "kept"),
    "awq": ("8da4w", "awq (4 bits in groups of 32); 1,572,864 weights requantized, off by", "requantized"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROAD)
def test_the_whole_road(name, command, tmp_path):
    """Imported, lowered to XNNPACK, run, compared with what the stored weights stand for, and gated."""
    chosen, sentence, part = ROAD[name]
    folder = FORMS[name](tiny_assistant.CHECKPOINT, tmp_path / "source")
    code, out, err = command(
        f"model.source={folder}", f"recipe={chosen}", "name=imported", "verify.items_per_task=2", "verify.sequences=24"
    )
    assert code == 0, out + err
    assert sentence in " ".join(out.split())
    made = manifest.read(tmp_path / "bundles" / "imported")
    found = made.main.source_quantization
    assert getattr(found, part).weights == 1_572_864
    assert made.what.parameters == read_facts(Folder(tiny_assistant.CHECKPOINT)).parameters
    assert made.quality.gate.passed
    assert made.main.executed

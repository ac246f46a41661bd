"""What people reported of projects like this one, made anew, each with what is right; see docs/pages/reports.md."""

import json
import logging
import shutil
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from et_pipeline.architecture import read_architecture
from et_pipeline.checkpoints import witness
from et_pipeline.checkpoints.config import put_right
from et_pipeline.checkpoints.facts import Facts, read_facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.layout import read_layout
from et_pipeline.checkpoints.reader import load_model, stream_model
from et_pipeline.errors import UserError
from et_pipeline.forecast import read_model
from et_pipeline.models.decoder import Decoder
from et_pipeline.settings import ExportForm, Model
from et_pipeline.stages import acquire

FORM = ExportForm(max_context=64, prefill_chunk=16)
IDS = torch.randint(2, 250, (1, 30), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def plain(make_checkpoint):
    return make_checkpoint("llama", num_hidden_layers=1, tie_word_embeddings=True)


@pytest.fixture
def folder(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "model")


def edit(folder, file="config.json", drop=(), **changes):
    path = folder / file
    content = json.loads(path.read_text()) if path.is_file() else {}
    content = {key: value for key, value in (content | changes).items() if key not in drop}
    path.write_text(json.dumps(content))
    return folder


def transformers_logits(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(IDS).logits


def our_logits(folder):
    with torch.no_grad():
        return stream_model(folder)(IDS, use_cache=False).logits


def acquired(folder, out):
    out.mkdir()
    return acquire.run({"checkpoint": folder}, out, lambda *_: None, form=FORM)


def planned(folder):
    return read_model(Model(source=str(folder), name="x", max_context=64, prefill_chunk=16))


def refused(folder, out, message):
    """In a run, before anything heavy, and in mode=plan."""
    for ask in (lambda: acquired(folder, out), lambda: planned(folder)):
        with pytest.raises(UserError, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text", "smollm3"])
def test_a_head_of_its_own_under_tied(family, make_checkpoint):
    settings = {"query_pre_attn_scalar": 32} if family == "gemma3_text" else {}
    folder = make_checkpoint(family, tie_word_embeddings=False, **settings)
    edit(folder, tie_word_embeddings=True)
    torch.testing.assert_close(our_logits(folder), transformers_logits(folder), rtol=1e-4, atol=1e-4)
    facts = read_facts(Folder(folder))
    assert not facts.tied_head
    assert not planned(folder).tied_head
    assert facts.parameters == planned(folder).parameters == sum(t.numel() for t in load_model(folder).parameters())


def test_an_equal_head_stays_tied(folder):
    tensors = load_file(folder / "model.safetensors")
    before = read_facts(Folder(folder)).parameters
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert read_facts(Folder(folder)).tied_head
    assert planned(folder).tied_head
    assert read_facts(Folder(folder)).parameters == planned(folder).parameters == before
    torch.testing.assert_close(our_logits(folder), transformers_logits(folder), rtol=1e-4, atol=1e-4)


def test_a_head_that_is_missing_is_named(folder, tmp_path):
    edit(folder, tie_word_embeddings=False)
    with pytest.raises(UserError, match=r"lm_head\.weight, which config\.json asks for, is in no safetensors file"):
        acquired(folder, tmp_path / "out")


def test_a_stale_index_beside_new_weights(folder, tmp_path):
    """The single file, as transformers loads it; that the index is there is said."""
    tensors = load_file(folder / "model.safetensors")
    old = {name: tensor + 1 for name, tensor in tensors.items()}
    save_file(old, folder / "model-00001-of-00001.safetensors", {"format": "pt"})
    names = dict.fromkeys(old, "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert {info.file for info in read_layout(folder).values()} == {"model.safetensors"}
    torch.testing.assert_close(our_logits(folder), transformers_logits(folder), rtol=1e-4, atol=1e-4)
    (warning,) = acquired(folder, tmp_path / "out").warnings
    assert "model-00001-of-00001.safetensors, model.safetensors.index.json" in warning


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_weight_that_is_no_number(value, dtype, folder):
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["model.layers.0.mlp.up_proj.weight"][7, 3] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=rf"mlp\.up_proj\.weight holds {value} at \[7, 3\] \(1 of its"):
        load_model(folder)
    with pytest.raises(UserError, match=r"mlp\.up_proj\.weight holds"):
        our_logits(folder)


def test_large_weights_are_numbers(folder):
    """Their sum may be more than a float32 holds."""
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][:] = 3e38
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert load_model(folder)


def test_a_place_in_a_fused_tensor_is_the_files(make_checkpoint):
    folder = make_checkpoint("phi3", num_hidden_layers=1)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.gate_up_proj.weight"][300, 5] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"gate_up_proj\.weight holds nan at \[300, 5\]"):
        load_model(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"torch_dtype": "auto"},
        {"torch_dtype": "bf16"},
        {"dtype": "nonsense"},
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": "flash_attention_3"},
        {"eos_token_id": [1, None]},
        {"eos_token_id": None},
        {"text_config": None},
        {"vision_config": None},
        {"quantization_config": None},
        {"pad_token_id": 512},
        {"pad_token_id": -1},
        {"pad_token_id": 10**9},
        {"pad_token_id": [0]},
        {"rope_scaling": None},
        {"sliding_window": None},
        {"num_key_value_heads": 2, "head_dim": 32},
        {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}},
    ],
)
def test_odd_but_harmless_values_work(changes, folder, plain, tmp_path):
    edit(folder, **changes)
    edit(folder, "generation_config.json", eos_token_id=1)
    assert acquired(folder, tmp_path / "out")
    assert planned(folder)
    assert torch.equal(our_logits(folder), our_logits(plain))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": "512"}, r'vocab_size="512", expected a positive integer'),
        ({"vocab_size": 0}, "vocab_size=0, expected"),
        ({"hidden_size": -1}, "hidden_size=-1, expected"),
        ({"hidden_size": 10**12}, "hidden_size=1000000000000, which is more"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000, which is more"),
        ({"num_hidden_layers": True}, "num_hidden_layers=true, expected"),
        ({"num_hidden_layers": 1.5}, r"num_hidden_layers=1\.5, expected"),
        (
            {"num_attention_heads": 3, "num_key_value_heads": None, "head_dim": None},
            "hidden_size=128, which num_attention_heads=3 does not divide",
        ),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3, which does not divide"),
        ({"num_key_value_heads": 0}, "num_key_value_heads=0, expected"),
        ({"head_dim": "x"}, 'head_dim="x", expected'),
        ({"sliding_window": 0}, "sliding_window=0, expected a positive integer or null"),
        ({"sliding_window": -1}, "sliding_window=-1, expected"),
        ({"layer_types": ["full_attention"] * 0}, r"layer_types=\[\], expected a list of 1"),
        ({"layer_types": "full"}, 'layer_types="full", expected a list'),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=NaN, expected a number above 0"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps="),
        ({"rope_parameters": {"rope_theta": 0.0}}, "rope_theta=0.0, expected a number above 0"),
        ({"rope_theta": -1}, "rope_theta=-1, expected"),
        ({"tie_word_embeddings": "yes"}, 'tie_word_embeddings="yes", expected true or false'),
        ({"eos_token_id": 512}, "eos_token_id=512, and the model's tokens are 0 to 511"),
        ({"eos_token_id": [1, 9999]}, r"eos_token_id=\[1, 9999\], and the model's tokens"),
        ({"eos_token_id": "</s>"}, 'eos_token_id="</s>", and the model'),
        ({"bos_token_id": -7}, "bos_token_id=-7, and the model"),
        ({"text_config": "x"}, 'text_config="x", expected an object'),
        ({"text_config": {}}, "=None, expected a positive integer"),
        ({"num_labels": 10**9}, "num_labels=1000000000, expected an integer up to"),
        ({"id2label": ["a"]}, r'id2label=\["a"\], expected an object'),
        ({"rope_parameters": 7}, "rope_parameters=7, expected an object or null"),
        ({"rope_scaling": {"type": "linear", "factor": 0.0}}, r"rope_scaling\.factor=0\.0, expected a number above 0"),
        ({"rope_scaling": {"type": "linear", "factor": -2}}, r"rope_scaling\.factor=-2, expected"),
        ({"rope_scaling": {"type": "dynamic", "factor": "2"}}, r'rope_scaling\.factor="2", expected'),
        (
            {"rope_parameters": {"rope_type": "longrope", "long_factor": [1, 0]}},
            r"long_factor=\[1, 0\], expected numbers",
        ),
        ({"rope_parameters": {"full_attention": {"rope_theta": 0}}}, r"rope_parameters\.full_attention\.rope_theta=0"),
        (
            {"rope_parameters": {"rope_type": "llama3", "low_freq_factor": 4, "high_freq_factor": 4}},
            r"high_freq_factor=4, expected more than low_freq_factor=4",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 2.0}}, r"partial_rotary_factor=2\.0, expected at most 1"),
        (
            {"model_type": "qwen3", "layer_types": ["linear_attention"]},
            'has a layer of kind "linear_attention" in layer_types, which this version cannot export',
        ),
        (
            {"transformers_weights": "other.safetensors"},
            'transformers_weights="other.safetensors", and weights are read',
        ),
        ({"configuration_files": ["config.4.0.0.json"]}, "configuration_files=.*another file holds the config"),
        ({"quantization_config": {"quant_method": ["gptq"]}}, r"quant_method=\['gptq'\], which cannot be read"),
        ({"quantization_config": {"quant_method": "awq", "bits": [4]}}, r"bits=\[4\], which cannot be read"),
        (
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "format": "pack-quantized",
                    "config_groups": {"a": {"weights": 5}},
                }
            },
            "with .*config_groups.*which cannot be read",
        ),
        ({"vision_config": {"hidden_size": 8}}, r"describes a model that sees or hears \(vision_config\)"),
    ],
)
def test_values_that_no_model_has_are_refused_at_the_door(changes, message, folder, tmp_path):
    refused(edit(folder, **changes), tmp_path / "out", message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "nonsense"}, "hidden_act="),
        ({"rope_parameters": {"rope_type": "nonsense"}}, "rope_parameters|rope_type|nonsense"),
        ({"decoder": 3}, "decoder=3: llama has no such part"),
        ({"attention_bias": "maybe"}, "attention_bias"),
        ({"model_type": "nonsense"}, "model_type='nonsense'"),
        ({"model_type": None}, "model_type=None"),
        ({"model_type": "vit"}, "config.json"),
        ({"model_type": "t5"}, "config.json"),
    ],
)
def test_what_transformers_raises_becomes_one_sentence(changes, message, folder, tmp_path):
    edit(folder, **changes)
    with pytest.raises(UserError, match=message) as caught:
        acquired(folder, tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe{}", b'"x"', b"[" * 100_000])
def test_a_config_that_is_none(content, folder, tmp_path):
    (folder / "config.json").write_bytes(content)
    refused(folder, tmp_path / "out", r"config\.json (is not valid JSON|holds a)")


def test_generation_config_is_checked_too(folder, tmp_path):
    edit(folder, "generation_config.json", eos_token_id=[1, 600])
    with pytest.raises(UserError, match=r"generation_config\.json has eos_token_id=\[1, 600\]"):
        acquired(folder, tmp_path / "out")


def add_token(folder, content, number):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    token = {"id": number, "content": content, "special": True, "normalized": False}
    tokenizer["added_tokens"].append(token | {"single_word": False, "lstrip": False, "rstrip": False})
    path.write_text(json.dumps(tokenizer))


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_token_of_the_tokenizer_that_the_model_does_not_have(folder, tmp_path):
    """Gemma 3's <image_soft_token> is its vocab_size; the chat does not use it."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary |= {f"[{number}]": number for number in range(len(vocabulary), 512)}
    path.write_text(json.dumps(tokenizer))
    add_token(folder, "<image_soft_token>", 512)
    acquired(folder, tmp_path / "out")
    shipped = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert "<image_soft_token>" not in [token["content"] for token in shipped["added_tokens"]]
    add_token(folder, "<|im_start|>", 513)
    (folder / "chat_template.jinja").write_text(CHATML)
    with pytest.raises(
        UserError, match=r"gives '<\|im_start\|>' of the chat template the id 513, but .*vocab_size is 512"
    ):
        acquired(folder, tmp_path / "again")


@pytest.mark.parametrize("prefix", ["model.vision_tower.", "vision_tower."])
def test_a_model_that_sees_says_what_is_not_supported(prefix, folder, tmp_path):
    config = Folder(folder).config
    tensors = load_file(folder / "model.safetensors") | {f"{prefix}embeddings.weight": torch.zeros(2, 2)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    nested = {"model_type": "gemma3", "text_config": config, "vision_config": {"hidden_size": 8}}
    (folder / "config.json").write_text(json.dumps(nested))
    refused(folder, tmp_path / "out", "sees or hears, and none of its tensors is named")


def test_an_adapter_beside_a_full_model_is_said(folder, tmp_path):
    save_file({"base_model.model.x.lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    (warning,) = acquired(folder, tmp_path / "out").warnings
    assert "adapter_config.json, adapter_model.safetensors beside the model, and nothing of that is used" in warning
    assert f"model.adapter={folder} merges the adapter into the model" in warning


def test_files_and_keys_that_nobody_knows_are_named(folder, tmp_path):
    (folder / "modeling_other.py").write_text("")
    (folder / "README.md").write_text("")
    (folder / "vocab.json").write_text("{}")
    edit(folder, alibi=True, rms_norm_epsilon=1e-5, _name_or_path="x", use_cache=False)
    files, keys = acquired(folder, tmp_path / "out").warnings
    assert "holds modeling_other.py beside the model" in files
    assert "config.json has alibi, rms_norm_epsilon, which transformers' llama does not know" in keys


def test_a_rotary_setting_that_nobody_knows_is_named(folder, tmp_path):
    edit(folder, rope_parameters={"rope_type": "linear", "factor": 2.0, "factr": 4.0, "rope_theta": 1e4})
    (keys,) = acquired(folder, tmp_path / "out").warnings
    assert "config.json has rope_parameters.factr, which transformers' llama does not know" in keys


SLIDING = {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]}


@pytest.mark.parametrize(
    ("family", "changes", "dropped", "windows"),
    [
        ("llama", SLIDING, (), (None, None)),
        ("gemma", SLIDING, (), (None, None)),
        ("phi3", SLIDING, (), (8, 8)),
        ("mistral", SLIDING, (), (None, 8)),  # transformers takes it for a Ministral
        ("mistral", {}, ("sliding_window",), (4096, 4096)),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 0}, ("layer_types",), (None, None)),
        ("qwen2", {**SLIDING, "use_sliding_window": True}, (), (None, 8)),
        (
            "qwen3",
            {"use_sliding_window": True, "max_window_layers": 1},
            ("layer_types", "sliding_window"),
            (None, 4096),
        ),
    ],
)
def test_a_window_is_the_families_and_not_the_keys(family, changes, dropped, windows, make_checkpoint, tmp_path):
    """Kept in facts, planned, and the same in the program, as in transformers' own model."""
    folder = edit(make_checkpoint(family), drop=dropped, **changes)
    assert planned(folder).windows == windows
    acquired(folder, tmp_path / "out")
    assert Facts.read(tmp_path / "out").windows == windows
    decoder = Decoder(load_model(folder), FORM).eval()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model(IDS, use_cache=False).logits[:, -1]
        for start in (0, 10, 20):
            found = decoder(IDS[:, start : start + 10], torch.tensor([start]))
    torch.testing.assert_close(found.reshape(1, -1), expected, rtol=1e-4, atol=1e-4)


def test_a_number_that_float32_does_not_have_is_refused(folder):
    tensors = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert load_model(folder)
    tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = 1e300
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"up_proj\.weight holds 1e\+300 at \[3, 4\]"):
        load_model(folder)


def test_an_adapter_beside_a_full_model_is_not_the_witnesses(folder, plain, monkeypatch):
    """With peft installed, transformers would load it, and the base that it names."""
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/else"}))
    load, places = AutoModelForCausalLM.from_pretrained, []

    def seen(place, **settings):
        places.append(sorted(path.name for path in place.iterdir()))
        return load(place, **settings)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", seen)
    model, whose = witness.load_original(folder)
    assert (places, whose.name) == ([sorted(path.name for path in plain.iterdir())], "transformers")
    torch.testing.assert_close(model(IDS).logits, transformers_logits(plain), rtol=1e-4, atol=1e-4)


def test_families_have_no_unknown_keys(make_checkpoint, tmp_path):
    """Transformers' own files say nothing."""
    for family in ("llama", "qwen3", "gemma2", "mistral"):
        assert acquired(make_checkpoint(family), tmp_path / family).warnings == []


BESIDE = (
    "sliding_window",
    "use_sliding_window",
    "layer_types",
    "attn_logit_softcapping",
    "use_bidirectional_attention",
    "rope_scaling",
    "quantization_config",
    "num_labels",
    "id2label",
    "text_config",
    "decoder",
    "transformers_weights",
    "max_window_layers",
    "auto_map",
)


@pytest.mark.parametrize("value", [None, "", -1, 0, 10**9, "x", [], {}, True, float("nan"), 0.5, [None], {"a": 1}])
def test_no_value_of_any_key_ends_in_a_traceback(value, folder):
    """One key at a time: a sentence, or a model."""
    config = json.loads((folder / "config.json").read_text())
    assert len(config) > 20
    for key in (*config, *BESIDE):
        edit(folder, drop=BESIDE, **config)
        edit(folder, **{key: value})
        for ask in (planned, load_model, lambda folder: read_facts(Folder(folder))):
            with suppress(UserError):
                ask(folder)


def test_put_right_leaves_the_rest_alone(plain):
    config = json.loads((plain / "config.json").read_text())
    kept = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    assert put_right(config, "x") == kept
    assert read_architecture(put_right(config, "x"), "x").layers == 1


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("tokenizer_config.json", {"chat_template": [1]}, r"list of chat templates, none of them called default"),
        (
            "tokenizer_config.json",
            {"chat_template": [{"name": "tool_use", "template": "x"}]},
            r"\(there are tool_use\)",
        ),
        ("tokenizer_config.json", {"chat_template": [{"name": "default"}]}, r"\(there are none\)"),
        (
            "tokenizer_config.json",
            {"chat_template": [{"name": "default", "template": 5}]},
            "of type int, expected a text",
        ),
        ("tokenizer_config.json", {"bos_token": 5}, "bos_token=5, expected a text"),
        ("tokenizer_config.json", {"eos_token": {"content": ["a"]}}, "eos_token=.*expected a text"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "added_tokens_decoder that is no object"),
        ("generation_config.json", {"do_sample": True, "temperature": -1}, "temperature=-1: input should be greater"),
        (
            "generation_config.json",
            {"do_sample": True, "temperature": "hot"},
            "temperature='hot': input should be a valid",
        ),
        ("generation_config.json", {"do_sample": True, "top_p": 7}, "top_p=7: input should be less than or equal to 1"),
        ("generation_config.json", {"do_sample": True, "top_k": 1.5}, r"top_k=1\.5: input should be a valid integer"),
    ],
)
def test_values_of_small_files_are_checked_before_anything_heavy(file, changes, message, folder, tmp_path):
    with pytest.raises(UserError, match=rf"{file} has .*{message}") as caught:
        acquired(edit(folder, file, **changes), tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (258, {}, None),
        (258, {"rstrip": True}, "'<x>' has rstrip=True"),
        (258, {"normalized": True}, "'<x>' has normalized=True"),
        (258, {"content": "<y>"}, "'<y>' is token 258"),
        (259, {}, "'<x>' is token 259"),
    ],
)
def test_tokens_of_tokenizer_config_are_those_of_the_tokenizer(number, change, message, folder, tmp_path):
    """AutoTokenizer lets the former change the latter, which is all that phones read."""
    add_token(folder, "<x>", 258)
    token = {"content": "<x>", "special": True, "normalized": False, "single_word": False, "lstrip": False}
    edit(folder, "tokenizer_config.json", added_tokens_decoder={str(number): token | {"rstrip": False} | change})
    edit(folder, "generation_config.json", eos_token_id=1)
    if message is None:
        acquired(folder, tmp_path / "out")
    else:
        with pytest.raises(
            UserError, match=rf"tokenizer_config\.json says that {message}, and tokenizer\.json does not"
        ):
            acquired(folder, tmp_path / "out")


def test_settings_of_answers_that_are_not_used_are_said(folder, tmp_path):
    edit(folder, "generation_config.json", eos_token_id=1, typical_p=0.9, no_repeat_ngram_size=0, num_beams=1)
    (warning,) = acquired(folder, tmp_path / "out").warnings
    assert warning.endswith("generation_config.json has typical_p=0.9, and answers are made without that")


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("transformers").setLevel(logging.ERROR)


def test_an_alternate_end_that_only_generation_config_knows(folder):
    edit(folder, eos_token_id=1)
    edit(folder, "generation_config.json", eos_token_id=[1, 7])
    assert read_facts(Folder(folder)).eos_ids == (1, 7)


def test_the_templates_end_counts_where_no_list_has_it(folder):
    add_token(folder, "<|im_end|>", 258)
    (folder / "chat_template.jinja").write_text(CHATML)
    edit(folder, "generation_config.json", eos_token_id=1)
    assert read_facts(Folder(folder)).eos_ids == (1, 258)


def test_heads_that_do_not_divide_but_have_a_size_are_what_transformers_says(folder, tmp_path):
    edit(folder, hidden_size=112, num_attention_heads=6, num_key_value_heads=2, head_dim=32)
    with pytest.raises(UserError, match=r"num_attention_heads=6|hidden_size=112|not a multiple"):
        acquired(folder, tmp_path / "out")


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight"])
def test_a_tensor_that_is_missing_is_named_and_not_made_up(name, folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=rf"{name.replace('.', '[.]')}|none of the embeddings"):
        acquired(folder, tmp_path / "out")


def test_a_library_in_rust_that_panics_is_one_sentence(folder, tmp_path):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        acquired(folder, tmp_path / "out")


NESTED, DIGITS = '{"a":' * 100_000 + "1" + "}" * 100_000, '{"temperature": ' + "9" * 5000 + "}"
SMALL_FILES = ("tokenizer_config.json", "generation_config.json", "special_tokens_map.json")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, content) for name in SMALL_FILES for content in (NESTED, DIGITS)),
        ("tokenizer_config.json", '{"bos_token": "\\ud83d"}'),
    ],
    ids=lambda value: value[:24],
)
def test_small_files_that_python_does_not_read_are_one_sentence(name, content, folder, tmp_path):
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        acquired(folder, tmp_path / "out")


def test_a_decoder_that_attends_to_later_tokens_is_refused(folder, tmp_path):
    refused(edit(folder, is_causal=False), tmp_path / "out", "is_causal=false: it attends to later tokens too")

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from et_pipeline.checkpoints.swappable import CONFIG, WEIGHTS, fit, read_lora
from et_pipeline.errors import UserError

RANKS = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "up_proj"]}


@pytest.fixture
def make_adapter(tiny_llama, tmp_path):
    def make(**settings):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
        tuned = get_peft_model(model, LoraConfig(init_lora_weights=False, **{**RANKS, **settings}))
        tuned.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter", tuned

    return make


def shapes(rank):
    """Of a program for the model of `tiny_llama`."""
    found = {}
    for layer in range(2):
        for linear, inputs, outputs in (("self_attn.q_proj", 128, 128), ("mlp.up_proj", 128, 256)):
            name = f"model.model.layers.{layer}.{linear}"
            found |= {f"{name}.lora_a": (rank, inputs), f"{name}.lora_b": (outputs, rank)}
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7}, "alpha_pattern": {"up_proj": 3}},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.0.*": 9}, "use_rslora": True},
    ],
)
def test_the_products_are_those_of_peft(make_adapter, settings):
    folder, tuned = make_adapter(**settings)
    lora = read_lora(folder)
    fitted = fit(lora, shapes(8))
    assert len(lora.linears) == 4
    for linear in lora.linears:
        expected = tuned.get_submodule(f"base_model.model.{linear}").get_delta_weight("default")
        name = f"model.{linear}"
        assert fitted[f"{name}.lora_a"].shape[0] == 8
        assert torch.allclose(fitted[f"{name}.lora_b"] @ fitted[f"{name}.lora_a"], expected, atol=1e-6)


def test_rows_of_a_linear_that_was_split_go_where_they_belong(make_adapter):
    folder, tuned = make_adapter(target_modules=["q_proj"])
    parts = {"first": 96, "second": 32}
    split = {}
    for name, shape in shapes(4).items():
        linear, _, part = name.rpartition(".")
        for own, rows in parts.items():
            split[f"{linear}.{own}.{part}"] = shape if part == "lora_a" else (rows, 4)
    fitted = fit(read_lora(folder), split)
    name = "model.layers.1.self_attn.q_proj"
    found = torch.cat([fitted[f"model.{name}.{own}.lora_b"] @ fitted[f"model.{name}.{own}.lora_a"] for own in parts])
    expected = tuned.get_submodule(f"base_model.model.{name}").get_delta_weight("default")
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save="),
        ({"trainable_token_indices": [3]}, "trainable_token_indices="),
        ({"bias": "all"}, "bias='all'"),
        ({"target_modules": ["embed_tokens"]}, "holds .*embed_tokens"),
    ],
)
def test_what_is_more_than_a_product_is_refused(make_adapter, settings, sentence):
    folder, _ = make_adapter(**settings)
    with pytest.raises(UserError, match=sentence) as error:
        read_lora(folder)
    assert "merge it into the model" in str(error.value)


def test_an_adapter_that_does_not_fit_is_refused(make_adapter):
    lora = read_lora(make_adapter()[0])
    with pytest.raises(UserError, match=r"of rank 4 and the program takes 3 at most; .*model\.adapter_rank=4"):
        fit(lora, shapes(3))
    with pytest.raises(UserError, match=r"another base: its .*up_proj has 128 inputs and 256 outputs, .* 64 and 256"):
        fit(lora, {name: (s[0], 64) if name.endswith("lora_a") else s for name, s in shapes(4).items()})
    with pytest.raises(UserError, match=r"up_proj, for which the program has no place"):
        fit(lora, {name: shape for name, shape in shapes(4).items() if "up_proj" not in name})


def test_a_folder_that_is_no_adapter_is_refused(make_adapter, tmp_path):
    folder, _ = make_adapter()
    with pytest.raises(UserError, match=f"no {CONFIG}"):
        read_lora(tmp_path)
    whole = load_file(folder / WEIGHTS)
    one = next(name for name in whole if "lora_A" in name)
    save_file({name: tensor for name, tensor in whole.items() if name != one}, folder / WEIGHTS)
    with pytest.raises(UserError, match="lacks one of lora_A and lora_B"):
        read_lora(folder)
    save_file(whole | {one: whole[one] * float("nan")}, folder / WEIGHTS)
    with pytest.raises(UserError, match="not finite"):
        read_lora(folder)
    (folder / WEIGHTS).write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(UserError, match="cannot be read"):
        read_lora(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match=f"no {WEIGHTS}"):
        read_lora(folder)
    for content, sentence in (("{", "no configuration"), (json.dumps({"peft_type": "IA3"}), "'IA3'")):
        (folder / CONFIG).write_text(content)
        with pytest.raises(UserError, match=sentence):
            read_lora(folder)
    shutil.rmtree(folder)

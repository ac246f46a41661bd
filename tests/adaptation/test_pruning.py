"""Smaller checkpoints of every family, which transformers itself says are right."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from et_pipeline.adaptation.checkpoint import parameters
from et_pipeline.adaptation.pruning import Width, cut_inputs, narrower, prune_depth, prune_width
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.errors import UserError

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "phi3", "gemma3_text")
# Of four groups, which leave head counts that all families take.
WIDE = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16}


def ignore(*_):
    pass


def counted(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return sum(each.numel() for each in model.parameters())


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.arange(2, 34)[None]).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrower_checkpoint_is_one_of_its_family(family, make_checkpoint, texts, tmp_path):
    folder = make_checkpoint(family, **WIDE, tie_word_embeddings=family != "phi3")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    before = counted(folder)
    found = prune_width(folder, tmp_path, 0.66, texts, ignore)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["intermediate_size"], config["num_attention_heads"], config["num_key_value_heads"]) != (256, 8, 4)
    assert config["num_attention_heads"] == 2 * config["num_key_value_heads"] < 8
    assert config["intermediate_size"] % 32 == 0
    assert config["head_dim"] == 16
    assert (found.before, found.after) == (before, counted(tmp_path))
    assert 0.55 < found.after / before <= 0.66
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    # Our reader takes it for the same model as transformers does.
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.allclose(logits(theirs), logits(load_model(tmp_path)), atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma3_text"])
def test_what_does_nothing_is_cut_and_nothing_changes(family, make_checkpoint, texts, tmp_path):
    """Half of the channels and heads get output weights of zero: what is cut must be these, in each projection."""
    folder = make_checkpoint(family, **WIDE, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight[:, torch.randperm(256, generator=drawn)[:128]] = 0
            for group in torch.randperm(4, generator=drawn)[:2].tolist():
                layer.self_attn.o_proj.weight[:, 32 * group : 32 * (group + 1)] = 0
    model.save_pretrained(folder)
    size = parameters(_with(model.config, 128, 4, 2)) / parameters(model.config)
    assert narrower(model.config, size) == Width(128, 4, 2)
    prune_width(folder, tmp_path, size, texts, ignore)
    made = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert made.config.intermediate_size == 128
    assert torch.allclose(logits(made), logits(model), atol=1e-2)
    assert logits(model).abs().max() > 1


def _with(config, channels, heads, groups):
    content = {**config.to_dict(), "head_dim": 16}
    content.update(intermediate_size=channels, num_attention_heads=heads, num_key_value_heads=groups)
    return type(config).from_dict(content)


def test_the_others_make_up_for_a_channel_that_repeats_them():
    drawn = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1000, 4, generator=drawn), torch.randn(5, 4, generator=drawn)
    x[:, 2] = 0.4 * (x[:, 0] + x[:, 1])
    made, stays = cut_inputs(weight, x.T @ x, 4, 3)
    assert stays.tolist() == [0, 1, 3]
    plain = weight.clone()
    plain[:, 2] = 0
    whole = x @ weight.T
    lost, plainly = ((x @ each.T - whole).square().mean() / whole.square().mean() for each in (made, plain))
    assert lost < 1e-3
    assert plainly > 0.02


def test_what_remains_is_the_best_that_can_be_made_of_it():
    """Least squares by another solver gives the same weights."""
    drawn = torch.Generator().manual_seed(0)
    x, weight = torch.randn(500, 8, generator=drawn), torch.randn(3, 8, generator=drawn)
    x = x @ torch.randn(8, 8, generator=drawn)
    made, stays = cut_inputs(weight, x.T @ x, 4, 2)
    columns = [2 * each + at for each in stays.tolist() for at in (0, 1)]
    expected = torch.linalg.lstsq(x[:, columns], x @ weight.T).solution.T
    assert torch.allclose(made[:, columns], expected, atol=0.05)
    assert made.count_nonzero() == expected.numel()


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0.9, Width(192, 4, 2)), (0.999, Width(224, 4, 2)), (0.66, Width(160, 2, 1))],
)
def test_channels_go_first_and_heads_where_half_of_them_would_not_do(tiny_llama, size, expected):
    config = AutoConfig.from_pretrained(tiny_llama)
    assert narrower(config, size) == expected
    assert parameters(_with(config, *expected)) <= size * parameters(config)


def test_a_round_number_of_channels_is_taken_where_it_costs_little():
    config = AutoConfig.for_model("llama", intermediate_size=1536, hidden_size=576, num_attention_heads=9)
    config.num_key_value_heads, config.head_dim, config.vocab_size, config.num_hidden_layers = 3, 64, 64, 2
    channels = {narrower(config, size / 100).channels for size in range(60, 100)}
    assert all(each % 32 == 0 for each in channels)
    assert any(each % 128 == 0 for each in channels)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_shallower_checkpoint_is_one_of_its_family(family, make_checkpoint, texts, tmp_path):
    folder = make_checkpoint(family, num_hidden_layers=6, tie_word_embeddings=True)
    ticks = []
    found = prune_depth(folder, tmp_path, 0.6, texts, lambda *each: ticks.append(each))
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.num_hidden_layers == 3
    assert getattr(config, "layer_types", None) is None or len(config.layer_types) == 3
    assert found.after == counted(tmp_path) <= 0.6 * found.before
    assert ticks[-1] == (8, 8)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.allclose(logits(theirs), logits(load_model(tmp_path)), atol=1e-3)


def test_layers_that_do_nothing_are_dropped(make_checkpoint, texts, tmp_path):
    folder = make_checkpoint("llama", num_hidden_layers=5, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for number in (1, 3):
            model.model.layers[number].self_attn.o_proj.weight.zero_()
            model.model.layers[number].mlp.down_proj.weight.zero_()
    model.save_pretrained(folder)
    layer = sum(each.numel() for each in model.model.layers[0].parameters())
    found = prune_depth(folder, tmp_path, 1 - 2 * layer / parameters(model.config), texts, ignore)
    assert found.cut == "layers 1, 3 of 5"
    made = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.allclose(logits(made), logits(model), atol=1e-4)


def test_weights_keep_their_type_and_a_tied_head_stays_tied(make_checkpoint, texts, tmp_path):
    folder = make_checkpoint("llama", tie_word_embeddings=True)
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    prune_width(folder, tmp_path, 0.8, texts, ignore)
    weights = load_file(tmp_path / "model.safetensors")
    assert {each.dtype for each in weights.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in weights


@pytest.mark.parametrize("prune", [prune_width, prune_depth])
def test_what_cannot_be_reached_is_said_in_a_sentence(prune, tiny_llama, texts, tmp_path):
    with pytest.raises(UserError, match=r"size=0\.1 cannot be reached .* \d+% of the parameters"):
        prune(tiny_llama, tmp_path, 0.1, texts, ignore)


def test_a_family_with_other_layers_is_refused(make_checkpoint, texts, tmp_path):
    folder = make_checkpoint("phi", num_key_value_heads=4)  # without a gate
    with pytest.raises(UserError, match="is a phi, whose layers prune_width does not know"):
        prune_width(folder, tmp_path, 0.8, texts, ignore)

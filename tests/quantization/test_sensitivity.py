import torch
from torch import nn

from et_pipeline.checkpoints.reader import load_model
from et_pipeline.quantization.sensitivity import _first, measure, read, write
from et_pipeline.quantization.torchao_config import quantize_module, rounded_activations
from tests.make_prequantized import write_gptq
from tests.quantization.test_calibrated import recipe, texts  # noqa: F401  a fixture


def divergence(model, original, texts):  # noqa: F811
    total = 0.0
    with torch.no_grad():
        for text in texts:
            found, right = (each(torch.tensor([text])).logits[0].log_softmax(-1) for each in (model, original))
            total += (right.exp() * (right - found)).sum().item()
    return total / sum(map(len, texts))


def test_losses_are_what_each_linear_alone_costs(make_checkpoint, texts, tmp_path):  # noqa: F811
    folder = make_checkpoint("llama", initializer_range=0.1, tie_word_embeddings=True)
    q = recipe(32, scheme="int4_weight_only")
    losses = measure(folder, q, texts, tmp_path, lambda *_: None)
    write(losses, tmp_path)
    assert read(tmp_path) == losses
    original, model = load_model(folder), load_model(folder)
    linears = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    assert losses.keys() == linears.keys()
    for name, linear in linears.items():
        weight = linear.weight
        quantize_module(name, linear, q)
        measured = divergence(model, original, texts)
        linear.weight = weight
        found = losses[name]
        assert found.weights == weight.numel()
        assert 0.4 < found.rounded / measured < 2.5, (name, found, measured)
        with_rounded_inputs = linear.register_forward_pre_hook(
            lambda _, given: (rounded_activations(given[0].clone()),)
        )
        measured = divergence(model, original, texts)
        with_rounded_inputs.remove()
        assert 0.4 < found.activations / measured < 2.5, (name, found, measured)


def test_a_rotated_model_and_one_of_another_family_are_measured_too(make_checkpoint, texts, tmp_path):  # noqa: F811
    for family, changes in (("llama", {"transform": "rotation"}), ("gemma3_text", {}), ("qwen2", {"transform": "awq"})):
        folder = make_checkpoint(family, initializer_range=0.05)
        losses = measure(folder, recipe(32, **changes), texts, tmp_path, lambda *_: None)
        assert all(each.rounded > 0 and each.activations > 0 for each in losses.values()), family


def test_a_few_texts_are_enough():
    assert _first([[1] * 10, [2] * 10, [3] * 10], 15) == [[1] * 10, [2] * 10]
    assert _first([[1] * 10, [2] * 10], 20) == [[1] * 10, [2] * 10]
    assert _first([], 20) == []


def test_integers_that_scales_are_folded_into_do_not_stay(make_checkpoint, texts, tmp_path):  # noqa: F811
    """Nothing is lost where the checkpoint's steps are the recipe's, and all where they have to be made anew."""
    folder = write_gptq(make_checkpoint("llama", num_hidden_layers=1, initializer_range=0.05), tmp_path / "gptq")
    lost = {
        transform: sum(
            each.rounded
            for name, each in measure(folder, recipe(32, transform=transform), texts, tmp_path, lambda *_: None).items()
            if "proj" in name
        )
        for transform in ("none", "awq", "rotation")
    }
    assert lost["none"] < lost["awq"] / 10
    assert lost["none"] < lost["rotation"] / 10

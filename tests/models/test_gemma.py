"""Gemma 3n and Gemma 4 as transformers has them: shared caches, per-layer embeddings, AltUp, heads by kind of layer."""

from functools import partial

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from et_pipeline.checkpoints import witness
from et_pipeline.checkpoints.reader import load_model, stream_model
from et_pipeline.errors import UserError
from et_pipeline.evaluation.agreement import compare
from et_pipeline.models.decoder import Decoder, export_decoder
from et_pipeline.models.external_cache import ExternalCacheDecoder
from et_pipeline.models.static_decoder import StaticDecoder
from et_pipeline.quantization.calibrated import quantize_calibrated
from et_pipeline.quantization.torchao_config import load_quantized, quantize_checkpoint, quantize_module
from et_pipeline.runtime.program import Program
from et_pipeline.settings import ExportForm
from et_pipeline.states import KeysValues, Shared

SLIDES, SEES = "sliding_attention", "full_attention"
SHARE = {"num_hidden_layers": 6, "num_kv_shared_layers": 2, "layer_types": [SLIDES, SEES] * 3}
SMALL = {"vocab_size_per_layer_input": 512, "hidden_size_per_layer_input": 64, "sliding_window": 16}
GEMMAS = {
    "3n": ("gemma3n_text", {**SHARE, "activation_sparsity_pattern": [0.95, 0.5, 0.0, 0.0, 0.0, 0.0]}),
    # No shared caches; tokens that the table does not have; another version goes through the layers.
    "3n alone": (
        "gemma3n_text",
        {
            "num_hidden_layers": 5,
            "num_kv_shared_layers": 0,
            "vocab_size_per_layer_input": 500,
            "altup_active_idx": 1,
            "altup_num_inputs": 3,
        },
    ),
    "4": (
        "gemma4_text",
        {**SHARE, "use_double_wide_mlp": True, "global_head_dim": 64, "final_logit_softcapping": 30.0},
    ),
    # As the larger sizes: no table, keys that are values too, and fewer heads of them.
    "4 without table": (
        "gemma4_text",
        {
            "num_hidden_layers": 6,
            "hidden_size_per_layer_input": 0,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "global_head_dim": 64,
        },
    ),
}
LENGTH = 60
TOKENS = torch.randint(2, 512, (1, LENGTH), generator=torch.Generator().manual_seed(0))
WAYS = {"one piece": LENGTH, "chunks": 7, "token by token": 1}
FORM = ExportForm(max_context=64, prefill_chunk=LENGTH)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def gemma(make_checkpoint):
    """Name of a model above to its checkpoint."""
    made = {}

    def make(name):
        if name not in made:
            family, settings = GEMMAS[name]
            small = SMALL if family == "gemma4_text" else {**SMALL, "laurel_rank": 32}
            made[name] = make_checkpoint(family, **{**small, **settings})
        return made[name]

    return make


def reference(folder):
    """Logits of transformers' own model, in double precision: its own rounding is as large as what is looked for."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        return model(TOKENS).logits[0].float()


def feed(forward, chunk):
    rows, last = [], []
    with torch.no_grad():
        for start in range(0, LENGTH, chunk):
            piece = TOKENS[:, start : start + chunk]
            rows.append(forward(piece.contiguous(), torch.tensor([start])).reshape(-1))
            last.append(start + piece.shape[1] - 1)
    return torch.stack(rows), last


def errors(forward, expected):
    """The greatest error of each way, relative to the greatest logit."""
    found = {}
    for way, chunk in WAYS.items():
        rows, last = feed(forward, chunk)
        found[way] = float((rows - expected[last]).abs().max() / expected.abs().max())
    return found


@pytest.mark.parametrize("name", GEMMAS)
def test_decoder_and_program_equal_transformers(gemma, name):
    expected, decoder = reference(gemma(name)), Decoder(load_model(gemma(name)), FORM)
    for way, error in errors(decoder, expected).items():
        assert error <= 1e-5, way
    for way, error in errors(export_decoder(decoder).module(), expected).items():
        assert error <= 1e-5, f"program, {way}"
    with torch.no_grad():  # between calls it is transformers' own model
        torch.testing.assert_close(decoder.model(TOKENS).logits[0], expected, atol=1e-3, rtol=1e-3)


def test_layers_remember_what_the_config_says(gemma):
    decoder = Decoder(load_model(gemma("4")), FORM)
    slides, sees = KeysValues(heads=2, dim=32, window=16), KeysValues(heads=2, dim=64)
    assert decoder.states == ((slides,), (sees,), (slides,), (sees,), (Shared(layer=2),), (Shared(layer=3),))
    assert {name for name, _ in decoder.named_buffers(recurse=False) if name.startswith("k_cache")} == {
        f"k_cache_{layer}" for layer in range(4)
    }
    assert Decoder(load_model(gemma("4 without table")), FORM).states[-1] == (KeysValues(heads=1, dim=64),)


@pytest.mark.parametrize("name", ["3n", "4"])
def test_late_layers_get_the_last_token_only(gemma, name):
    decoder = Decoder(load_model(gemma(name)), FORM)
    seen = []
    for layer in decoder.model.get_decoder().layers:
        layer.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    with torch.no_grad():
        decoder(TOKENS[:, :9], torch.tensor([0]))
    assert seen == [9] * 4 + [1] * 2


@pytest.mark.parametrize("name", GEMMAS)
def test_the_program_is_delegated_around_the_caches_only(gemma, name):
    graph = export_decoder(Decoder(load_model(gemma(name)), FORM)).graph
    aten = torch.ops.aten
    assert not [node for node in graph.nodes if node.target is aten.mean.dim and node.meta["val"].dim() > 2]
    # A head's halves are turned by a product, and the active version is not cut out of all of them.
    assert not [n for n in graph.nodes if n.target is aten.slice.Tensor and n.args[1] in (-1, 3)]


@pytest.mark.parametrize("form", [StaticDecoder, ExternalCacheDecoder])
@pytest.mark.parametrize("name", ["3n", "4"])
def test_programs_of_static_shape_are_refused(gemma, name, form):
    with pytest.raises(UserError, match="programs of static shape cannot hold; use backend=xnnpack"):
        form(load_model(gemma(name)), FORM)


def test_a_mixture_of_experts_is_refused(make_checkpoint):
    experts = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
    folder = make_checkpoint("gemma4_text", **SMALL, **experts)
    with pytest.raises(UserError, match="mixture"):
        Decoder(load_model(folder), FORM)


@pytest.mark.parametrize("name", ["3n", "4"])
def test_calibration_is_refused(gemma, name, tmp_path, quantization):
    q = quantization.model_copy(update={"algorithm": "gptq"})
    with pytest.raises(UserError, match="calibration goes through a model layer by layer"):
        quantize_calibrated(gemma(name), q, [[1, 2, 3]], tmp_path, lambda done, count: None)


def test_quantized_weights_survive_a_file(gemma, tmp_path, quantization):
    q = quantization.model_copy(update={"embedding_bits": 4, "embedding_group_size": 32})
    quantize_checkpoint(gemma("3n"), q, tmp_path)
    again, model = load_quantized(gemma("3n"), tmp_path, q), load_model(gemma("3n"), partial(quantize_module, q=q))
    with torch.no_grad():
        torch.testing.assert_close(again(TOKENS).logits, model(TOKENS).logits)
    layer = again.model.layers[0]
    assert type(layer.altup.prediction_coefs.weight.data) is torch.Tensor  # rows of 4
    assert layer.laurel.linear_right.weight.block_size == (1, 32)  # one group is a row
    assert layer.laurel.linear_right.weight.scale.dtype == torch.float32


def test_a_checkpoint_may_have_keys_for_layers_that_read_other_layers(gemma, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "more"
    shutil.copytree(gemma("4"), folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.5.self_attn.k_proj.weight"] = torch.zeros(128, 128)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    expected = reference(gemma("4"))
    rows, last = feed(Decoder(load_model(folder), FORM), LENGTH)
    assert compare(rows, expected[last]).cosine > 0.99999


@pytest.mark.parametrize("name", ["3n", "4"])
def test_the_text_part_of_a_checkpoint_that_sees_and_hears(gemma, name, tmp_path):
    import json
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "whole"
    shutil.copytree(gemma(name), folder)
    weights = load_file(folder / "model.safetensors")
    weights = {key.replace("model.", "model.language_model.", 1): tensor for key, tensor in weights.items()}
    weights["model.vision_tower.patch.weight"] = torch.zeros(2, 2)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    text = json.loads((folder / "config.json").read_text())
    kind = text["model_type"].removesuffix("_text")
    whole = {"model_type": kind, "text_config": text, "vision_config": {"model_type": f"{kind}_vision"}}
    (folder / "config.json").write_text(json.dumps(whole | {"audio_config": {"model_type": f"{kind}_audio"}}))
    expected = reference(gemma(name))
    rows, last = feed(Decoder(load_model(folder), FORM), LENGTH)
    assert compare(rows, expected[last]).cosine > 0.99999


@pytest.mark.parametrize("name", ["3n", "4"])
def test_weights_are_read_as_they_are_needed(gemma, name, tmp_path):
    model = stream_model(gemma(name))
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS).logits[0], reference(gemma(name)), atol=1e-3, rtol=1e-3)
    assert model.model.embed_tokens_per_layer.weight.is_meta
    with pytest.raises(witness.NoWitness, match="read others' keys"):
        witness.load_sample(gemma(name), [0, 2, 5], tmp_path)


def rounding_floor(model, decoder, expected):
    """How far the quantized decoder is from itself when its linears' inputs change in their last bits.

    As in `test_families`: an activation on the edge between two steps of 8 bits goes either way.
    """
    generator = torch.Generator().manual_seed(1)

    def nudge(_, inputs):
        return (inputs[0] * (1 + 6e-7 * torch.randn(inputs[0].shape, generator=generator)),)

    hooks = [each.register_forward_pre_hook(nudge) for each in model.modules() if isinstance(each, nn.Linear)]
    runs = [compare(feed(decoder, 1)[0], expected) for _ in range(6)]
    for hook in hooks:
        hook.remove()
    return min(run.min_cosine for run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["fp32", "8da4w"])
@pytest.mark.parametrize("name", GEMMAS)
def test_lowered_program_agrees_with_eager(gemma, lower_checkpoint, name, scheme):
    folder = gemma(name)
    lowered = lower_checkpoint(folder, FORM, scheme=scheme, embedding_bits=4, embedding_group_size=32)
    model = load_model(folder, partial(quantize_module, q=lowered.quantization))
    decoder = Decoder(model, FORM)
    expected = feed(decoder, 1)[0]
    program = Program(lowered.pte, threads=1)
    figures = {}
    for way, chunk in WAYS.items():
        rows, last = feed(lambda tokens, start: program.forward(tokens, int(start)), chunk)
        figures[way] = compare(rows, expected[last])
    floor = 1.0 if scheme == "fp32" else rounding_floor(model, decoder, expected)
    shown = {way: f"{each.min_cosine:.7f}" for way, each in figures.items()}
    print(name, scheme, f"{lowered.delegation.delegates} delegates, minimum cosine {shown}, floor {floor:.6f}")
    for way, each in figures.items():
        assert 1 - each.min_cosine <= 1e-5 + 2 * (1 - floor), way


def test_adapters_change_the_linears_that_are_called_and_no_others(gemma, tmp_path):
    """AltUp's coefficients are read beside their linears, where an adapter would be passed over."""
    from et_pipeline.checkpoints.swappable import fit, read_lora
    from et_pipeline.models.adapted import is_adapter, make_adaptable
    from tests.make_adapter import peft_logits, write_adapter

    model = load_model(gemma("3n"))
    make_adaptable(model, 4)
    decoder = Decoder(model, FORM)
    room = {name: each for name, each in decoder.named_parameters() if is_adapter(name)}
    shapes = {name: tuple(each.shape) for name, each in room.items()}
    small = {"r": 4, "spread": 0.02}
    linears = write_adapter(gemma("3n"), tmp_path / "a", target_modules=["q_proj", "linear_left", "up_proj"], **small)
    for name, tensor in fit(read_lora(linears), shapes).items():
        room[name].data.copy_(tensor)
    expected = peft_logits(gemma("3n"), linears, TOKENS)[0, -1]
    with torch.no_grad():
        found = decoder(TOKENS, torch.tensor([0])).reshape(-1)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    coefficients = write_adapter(gemma("3n"), tmp_path / "b", target_modules=["prediction_coefs"], **small)
    with pytest.raises(UserError, match=r"altup.prediction_coefs, for which the program has no place"):
        fit(read_lora(coefficients), shapes)


def test_the_witness_of_gemma_3n_that_sees_needs_nothing_that_sees(gemma, tmp_path):
    import json
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(gemma("3n"), tmp_path / "whole")
    weights = load_file(folder / "model.safetensors")
    weights = {key.replace("model.", "model.language_model.", 1): tensor for key, tensor in weights.items()}
    save_file(weights | {"model.vision_tower.x": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
    text = json.loads((folder / "config.json").read_text())
    whole = {"model_type": "gemma3n", "text_config": text, "vision_config": {"model_type": "gemma3n_vision"}}
    (folder / "config.json").write_text(json.dumps(whole | {"audio_config": {"model_type": "gemma3n_audio"}}))
    model, whose = witness.load_original(folder)
    assert (type(model).__name__, whose.name) == ("Gemma3nForCausalLM", "transformers")
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS).logits[0], reference(gemma("3n")), atol=1e-3, rtol=1e-3)

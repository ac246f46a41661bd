from functools import partial

import pytest
import torch
from torch import nn

from et_pipeline.architecture import STEP
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.errors import UserError
from et_pipeline.evaluation.agreement import compare
from et_pipeline.models.attention import Stored, attend, see, store
from et_pipeline.models.decoder import PROGRAM, WEIGHTS, Decoder, export_decoder, load_program, metadata, save_program
from et_pipeline.models.rewrites import delegate_friendly, infer_symbolic
from et_pipeline.quantization.torchao_config import quantize_module
from et_pipeline.runtime.program import Program
from et_pipeline.settings import ExportForm

FORM = ExportForm(max_context=100, prefill_chunk=16)  # more than one step of what attention reads
TOKENS = torch.randint(2, 512, (1, 90), generator=torch.Generator().manual_seed(0))
FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "phi3", "gemma3_text"]
SETTINGS = {
    "mistral": {"sliding_window": None},
    "phi3": {"sliding_window": None},
    "gemma3_text": {"sliding_window": 4096, "query_pre_attn_scalar": 32},
}


@pytest.fixture(scope="module")
def family_checkpoint(make_checkpoint):
    made = {}

    def make(family):
        if family not in made:
            made[family] = make_checkpoint(family, **SETTINGS.get(family, {}))
        return made[family]

    return make


def reference(model):
    with torch.no_grad():
        return model(TOKENS).logits[0]


def feed(forward, chunk):
    """Logits after each piece, and the pieces' last positions."""
    positions, rows = [], []
    with torch.no_grad():
        for start in range(0, TOKENS.shape[1], chunk):
            piece = TOKENS[:, start : start + chunk]
            rows.append(forward(piece, start).reshape(-1))
            positions.append(start + piece.shape[1] - 1)
    return torch.stack(rows), positions


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize(("start", "end"), [(0, 6), (4, 6), (5, 6), (0, 1), (62, 65), (STEP, STEP + 1), (199, 200)])
def test_attention_equals_torch(start, end, group):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, end, 8, generator=generator) for heads in (2 * group, 2, 2))
    caches = torch.full((2, 200, 1, 8), 9.0), torch.full((2, 200, 1, 8), 9.0)
    for cache, new in zip(caches, (key, value), strict=True):
        store(Stored(cache), new, 0)
    seen = see(torch.arange(start, end), group, 200)
    assert seen.used == min(200, (end - 1) // STEP * STEP + STEP)
    found = attend(query[:, :, start:], *map(Stored, caches), seen, 0.3)
    mask = torch.ones(end, end, dtype=torch.bool).tril()
    expected = nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True)
    assert torch.allclose(found, expected[:, :, start:].transpose(1, 2), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [16, 7, 1])
def test_decoder_equals_transformers(family_checkpoint, family, chunk):
    model = load_model(family_checkpoint(family))
    expected = reference(model)
    decoder = Decoder(model, FORM)
    found, positions = feed(lambda tokens, start: decoder(tokens, torch.tensor([start])), chunk)
    assert torch.allclose(found, expected[positions], atol=2e-4, rtol=1e-4)
    # The model itself still has its own attention and cache.
    assert torch.equal(reference(model), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_rewrites_compute_the_same_and_leave_nothing(family_checkpoint, family):
    model = load_model(family_checkpoint(family))
    expected = reference(model)
    modules = [name for name, _ in model.named_modules()]
    with delegate_friendly(model):
        found = reference(model)
        assert any("forward" in vars(module) for module in model.modules())
    assert not torch.equal(found, expected)  # other operators round otherwise
    assert torch.allclose(found, expected, atol=2e-4, rtol=1e-4)
    assert torch.equal(reference(model), expected)
    assert [name for name, _ in model.named_modules()] == modules


def test_a_norm_of_another_kind_is_left_alone(tiny_llama):
    model = load_model(tiny_llama)

    class StrangeRMSNorm(type(model.model.norm)):
        def forward(self, x):
            return super().forward(x) * 2

    model.model.norm.__class__ = StrangeRMSNorm
    expected = reference(model)
    with delegate_friendly(model):
        assert torch.allclose(reference(model), expected, atol=2e-4, rtol=1e-4)


def test_reset_empties_the_cache(tiny_llama):
    decoder = Decoder(load_model(tiny_llama), FORM)
    decoder(TOKENS[:, :8], torch.tensor([0]))
    assert decoder.k_cache_0.any()
    decoder.reset()
    assert not any(buffer.any() for name, buffer in decoder.named_buffers() if "_cache_" in name)


def test_metadata(tiny_llama):
    found = metadata(Decoder(load_model(tiny_llama), FORM), 0, (1, 5))
    assert found["get_max_seq_len"] == 16
    assert found["get_max_context_len"] == 100
    assert found["get_eos_ids"] == [1, 5]
    assert found["get_n_layers"] == 2


@pytest.mark.parametrize(
    ("family", "settings", "form", "message"),
    [
        ("llama", {}, (512, 16), r"model\.max_context=512 exceeds the 256 positions"),
        ("llama", {}, (16, 32), r"model\.prefill_chunk=32 is more than model\.max_context=16"),
        ("gemma3_text", {"use_bidirectional_attention": True}, (64, 16), "attends to later tokens"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            (520, 16),
            r"model\.max_context=520 exceeds the 512 positions",
        ),
    ],
)
def test_what_cannot_be_exported(make_checkpoint, family, settings, form, message):
    model = load_model(make_checkpoint(family, **settings))
    with pytest.raises(UserError, match=message):
        export_decoder(Decoder(model, ExportForm(max_context=form[0], prefill_chunk=form[1])))


def test_symbolic_size_becomes_minus_one():
    assert infer_symbolic([1, "s", 4]) == [1, -1, 4]
    assert infer_symbolic([1, "s", -1]) == [1, "s", -1]
    assert infer_symbolic(["s", "t"]) == ["s", "t"]
    assert infer_symbolic([1, 2]) == [1, 2]


def test_program_survives_a_file(tiny_llama, tmp_path):
    decoder = Decoder(load_model(tiny_llama), FORM)
    program = export_decoder(decoder)
    arguments = TOKENS[:, :16], torch.tensor([0])
    expected, weights = program.module()(*arguments), dict(program.state_dict)
    save_program(program, tmp_path)
    again = load_program(tmp_path)
    # Bit equality would be luck: where a file's weights land in memory changes the order BLAS adds in.
    torch.testing.assert_close(again.module()(*arguments), expected)
    assert again.state_dict.keys() == weights.keys()
    assert all(torch.equal(again.state_dict[name], value) for name, value in weights.items())


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_not_a_program(tmp_path, content):
    (tmp_path / PROGRAM).write_bytes(content)
    with pytest.raises(UserError, match="is not an exported program"):
        load_program(tmp_path)


def test_weights_that_are_cut_off(tiny_llama, tmp_path):
    save_program(export_decoder(Decoder(load_model(tiny_llama), FORM)), tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"weights\.pt is not a file of weights"):
        load_program(tmp_path)


def check_program(checkpoint, lowered):
    q = lowered.quantization
    expected = reference(load_model(checkpoint, partial(quantize_module, q=q)))
    program = Program(lowered.pte, threads=1)
    figures = {}
    for way, chunk in (("one piece", 16), ("chunks", 7), ("token by token", 1)):
        found, positions = feed(program.forward, chunk)
        figures[way] = compare(found, expected[positions])
    print(checkpoint.name, q.scheme, q.group_size, lowered.delegation.delegates, figures)
    assert all(agreement.min_cosine >= 0.999 for agreement in figures.values()), figures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "group_size"),
    [("fp32", 0), ("8da4w", 32), ("8da4w", 0), ("8da8w", 0), ("int4_weight_only", 0), ("int8_weight_only", 0)],
)
def test_every_scheme_agrees_with_transformers(tiny_llama, lower_checkpoint, scheme, group_size):
    check_program(tiny_llama, lower_checkpoint(tiny_llama, FORM, scheme=scheme, group_size=group_size))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES[1:])
def test_every_family_agrees_with_transformers(family_checkpoint, lower_checkpoint, family):
    check_program(family_checkpoint(family), lower_checkpoint(family_checkpoint(family), FORM))


@pytest.mark.slow
def test_biases_in_a_weight_only_model(family_checkpoint, lower_checkpoint):
    checkpoint = family_checkpoint("qwen2")
    check_program(checkpoint, lower_checkpoint(checkpoint, FORM, scheme="int4_weight_only", group_size=0))


@pytest.mark.slow
def test_one_token_per_call(tiny_llama, lower_checkpoint):
    lowered = lower_checkpoint(tiny_llama, ExportForm(max_context=100, prefill_chunk=1))
    expected = reference(load_model(tiny_llama, partial(quantize_module, q=lowered.quantization)))
    found, positions = feed(Program(lowered.pte, threads=1).forward, 1)
    assert compare(found, expected[positions]).min_cosine >= 0.999

"""Every family in use, scaled down: each way of feeding, past the window, against transformers' unmodified model."""

from functools import partial

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from et_pipeline.checkpoints.reader import load_model
from et_pipeline.evaluation.agreement import compare
from et_pipeline.models.attention import Stored, attend, ring_slots, see, store
from et_pipeline.models.decoder import Decoder, export_decoder
from et_pipeline.models.fused import FusedLinear
from et_pipeline.models.rope import freeze_rope
from et_pipeline.quantization.torchao_config import load_quantized, quantize_checkpoint, quantize_module
from et_pipeline.runtime.program import Program
from et_pipeline.settings import ExportForm

FORM = ExportForm(max_context=64, prefill_chunk=8)
WINDOW = 16
WAYS = {"one piece": 8, "chunks": 5, "token by token": 1}
FED = 60
# As long as the context: rotary frequencies that depend on the length are those of the whole context.
TOKENS = torch.randint(2, 512, (1, 64), generator=torch.Generator().manual_seed(0))


def longrope(pairs):
    return {
        "rope_type": "longrope",
        "short_factor": [1.0 + 0.05 * n for n in range(pairs)],
        "long_factor": [1.0 + 0.5 * n for n in range(pairs)],
    }


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama_dynamic": (
        "llama",
        {
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
            "max_position_embeddings": 32,
        },
    ),
    "smollm2": ("llama", {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4, "tie_word_embeddings": True}),
    "mistral_v01": ("mistral", {"sliding_window": WINDOW}),
    "mistral_v03": (
        "mistral",
        {"sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ),
    "phi3_4k": ("phi3", {"sliding_window": WINDOW}),
    "phi3_128k_short": (
        "phi3",
        {"sliding_window": WINDOW, "original_max_position_embeddings": 64, "rope_scaling": longrope(16)},
    ),
    "phi3_128k_long": (
        "phi3",
        {"sliding_window": None, "original_max_position_embeddings": 32, "rope_scaling": longrope(16)},
    ),
    "phi4_mini": (
        "phi3",
        {
            "sliding_window": 4096,
            "original_max_position_embeddings": 32,
            "rope_scaling": longrope(12),
            "partial_rotary_factor": 0.75,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "arcee": ("arcee", {}),  # squares what passes through a ReLU
    "gemma2": (
        "gemma2",
        {
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 5.0,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "num_hidden_layers": 6,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 20,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
}
RINGS = {"mistral_v01": 2, "phi3_4k": 2, "phi3_128k_short": 2, "gemma2": 1, "gemma3": 5}
EXPORTED = ["mistral_v01", "phi4_mini", "gemma2", "gemma3", "arcee"]  # between them everything that is special


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These models are so small that waiting for a second thread is most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def family(make_checkpoint):
    """Name of a family above to its checkpoint."""
    made = {}

    def make(name):
        if name not in made:
            kind, settings = FAMILIES[name]
            made[name] = make_checkpoint(kind, **settings)
        return made[name]

    return make


def reference(folder, **changes):
    """Logits of transformers' own model with its own attention; keywords go into its config."""
    config = AutoConfig.from_pretrained(folder)
    for name, value in changes.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(TOKENS).logits[0]


def feed(forward, chunk):
    """Logits after each piece, and the pieces' last positions."""
    positions, rows = [], []
    with torch.no_grad():
        for start in range(0, FED, chunk):
            piece = TOKENS[:, start : min(start + chunk, FED)]
            rows.append(forward(piece, start).reshape(-1))
            positions.append(start + piece.shape[1] - 1)
    return torch.stack(rows), positions


def agreements(forward, expected):
    figures = {}
    for way, chunk in WAYS.items():  # one after the other in the same cache: each starts again at 0
        found, positions = feed(forward, chunk)
        figures[way] = compare(found, expected[positions])
    return figures


def check(forward, expected):
    for way, figures in agreements(forward, expected).items():
        assert figures.min_cosine >= 0.99999, way
        assert figures.max_abs_diff < 1e-3 * expected.abs().max(), way


def call(module):
    return lambda tokens, start: module(tokens, torch.tensor([start]))


@pytest.mark.parametrize("name", FAMILIES)
def test_decoder_equals_transformers(family, name):
    expected = reference(family(name))
    decoder = Decoder(load_model(family(name)), FORM)
    assert len(decoder.rings) == RINGS.get(name, 0)
    assert all(decoder.get_buffer(f"k_cache_{layer}").shape[1] == WINDOW + 16 for layer in decoder.rings)
    check(call(decoder), expected)
    with torch.no_grad():
        torch.testing.assert_close(decoder.model(TOKENS).logits[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", EXPORTED)
def test_program_equals_transformers(family, name):
    program = export_decoder(Decoder(load_model(family(name)), FORM))
    check(call(program.module()), reference(family(name)))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mistral_v01", {"sliding_window": None}),
        ("phi3_4k", {"sliding_window": None}),
        ("gemma2", {"attn_logit_softcapping": None}),
        ("gemma2", {"final_logit_softcapping": None}),
        ("gemma2", {"query_pre_attn_scalar": 32}),
        ("gemma2", {"layer_types": ["full_attention"] * 2}),
        ("gemma3", {"layer_types": ["sliding_attention"] * 6}),
        ("smollm3", {"no_rope_layers": [1] * 4}),
        ("llama3", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    ],
)
def test_the_small_models_are_sensitive(family, name, changes):
    assert compare(reference(family(name), **changes), reference(family(name))).cosine < 0.999


def test_the_context_decides_between_long_and_short_factors(family):
    folder = family("phi3_128k_long")
    model = load_model(folder)
    with torch.no_grad():
        short = model(TOKENS[:, :32]).logits[0]
        freeze_rope(model, 33)
        long = model(TOKENS[:, :32]).logits[0]
        assert compare(long, short).cosine < 0.999
        torch.testing.assert_close(model(TOKENS).logits[0], reference(folder))
        assert model.model.rotary_emb.attention_scaling > 1
        freeze_rope(model, 32)
        assert torch.equal(model(TOKENS[:, :32]).logits[0], short)


def test_rope_that_does_not_change_is_left_alone(family):
    model = load_model(family("llama3"))
    freeze_rope(model, 64)
    assert model.model.rotary_emb.rope_type == "llama3"


def fused(model):
    return [module for module in model.modules() if isinstance(module, FusedLinear)]


def test_fused_linears_are_read_in_parts(family):
    folder = family("phi3_4k")
    model = load_model(folder)
    own = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert len(fused(model)) == 4
    for index, layer in enumerate(model.model.layers):
        parts = [part.weight for part in layer.self_attn.qkv_proj.children()]
        assert [len(part) for part in parts] == [128, 64, 64]
        assert torch.equal(torch.cat(parts), own.model.layers[index].self_attn.qkv_proj.weight)
        # XNNPACK's lowering writes a weight from the beginning of its storage.
        assert all(part.untyped_storage().nbytes() == 4 * part.numel() for part in parts)
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS).logits, own.eval()(TOKENS).logits, atol=1e-5, rtol=1e-5)


def test_fused_linears_survive_quantization_and_a_file(family, tmp_path, quantization):
    folder = family("phi3_4k")
    quantize_checkpoint(folder, quantization, tmp_path)
    again = load_quantized(folder, tmp_path, quantization)
    model = load_model(folder, partial(quantize_module, q=quantization))
    assert len(fused(again)) == 4
    with torch.no_grad():
        torch.testing.assert_close(again(TOKENS).logits, model(TOKENS).logits)


def test_fused_linears_are_apart_in_the_program(family):
    graph = export_decoder(Decoder(load_model(family("phi3_4k")), FORM)).graph
    aten = torch.ops.aten
    joined = [node for node in graph.nodes if node.target is aten.cat.default]
    # Rotary angles, and the positions of the rows of scores, once for all layers; and the heads of each layer.
    assert len(joined) == 2 + 2
    assert not [node for node in graph.nodes if node.target in (aten.chunk.default, aten.split.Tensor)]


def test_partial_rotary_embedding_cuts_nothing_apart(family):
    graph = export_decoder(Decoder(load_model(family("phi4_mini")), FORM)).graph
    aten = torch.ops.aten
    slices = [n for n in graph.nodes if n.target is aten.slice.Tensor and n.meta["val"].dim() == 4]
    assert {n.args[2] for n in slices} == {-1}  # the last token's angles, of its query in the last layer
    assert len([n for n in graph.nodes if n.target is aten.pad.default]) == 2  # cosine and sine, once for all layers


def test_a_fused_linear_needs_all_its_rows():
    with pytest.raises(ValueError, match="do not make up 6 outputs"):
        FusedLinear({"a": 2, "b": 3}, nn.Linear(4, 6))


def naive(query, key, value, window, scale, softcap=None):
    """Attention of every token over the last `window` tokens, [1, heads, S, dim]."""
    key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], 1) for each in (key, value))
    scores = query @ key.transpose(2, 3) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    seen = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).tril().triu(1 - window)
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value


@pytest.mark.parametrize(("window", "chunk", "length"), [(5, 3, 203), (130, 100, 1000), (512, 640, 3000)])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_ring_after_many_wraps(window, chunk, length, softcap):
    kv_heads, generator = 2, torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, length, 8, generator=generator) for heads in (4, kv_heads, kv_heads))
    expected = naive(query, key, value, window, 0.5, softcap)
    ring = window + chunk
    caches = torch.full((kv_heads, ring, 1, 8), 9.0), torch.full((kv_heads, ring, 1, 8), 9.0)
    start = 0
    for size in [chunk, 1, max(1, chunk - 1)] * length:
        end = min(start + size, length)
        if start == end:
            break
        positions = torch.arange(start, end)
        for cache, new in zip(caches, (key, value), strict=True):
            store(Stored(cache), new[:, :, start:end], start, ring_slots(positions, ring, kv_heads))
        seen = see(positions, 2, ring, window)
        found = attend(query[:, :, start:end], *map(Stored, caches), seen, 0.5, softcap)
        torch.testing.assert_close(found, expected[:, :, start:end].transpose(1, 2), atol=1e-5, rtol=1e-5)
        start = end


@pytest.mark.parametrize(("chunk", "back"), [(1, 16), (20, 20)])
def test_a_few_tokens_can_be_taken_back(family, chunk, back):
    expected = reference(family("mistral_v01"))
    decoder = Decoder(load_model(family("mistral_v01")), ExportForm(max_context=64, prefill_chunk=chunk))
    with torch.no_grad():
        for start in range(0, FED, chunk):
            decoder(TOKENS[:, start : start + chunk], torch.tensor([start]))
        found = decoder(TOKENS[:, FED - back : FED - back + 1], torch.tensor([FED - back])).reshape(1, -1)
    assert compare(found, expected[FED - back : FED - back + 1]).cosine > 0.99999


def test_a_window_as_long_as_the_context_needs_no_ring(make_checkpoint):
    model = load_model(make_checkpoint("mistral", sliding_window=64))
    assert not Decoder(model, FORM).rings
    almost = Decoder(load_model(make_checkpoint("mistral", sliding_window=60)), FORM)
    assert almost.get_buffer("k_cache_0").shape[1] == 64  # never more than the context, in whole steps


def rounding_floor(model, expected):
    """How far the eager model is from itself when its linears' inputs change in their last bit.

    Activations are rounded to 8 bits at run time: a value on the edge between two steps goes either way, and what
    follows differs visibly. Kernels that add in another order do the same, so nothing can agree better than this. The
    attention of torch and that of XNNPACK are each 6e-7 of its size away from the exact one.
    """
    generator = torch.Generator().manual_seed(1)

    def nudge(module, inputs):
        return (inputs[0] * (1 + 6e-7 * torch.randn(inputs[0].shape, generator=generator)),)

    hooks = [each.register_forward_pre_hook(nudge) for each in model.modules() if isinstance(each, nn.Linear)]
    with torch.no_grad():
        runs = [compare(model(TOKENS).logits[0], expected) for _ in range(12)]
    for hook in hooks:
        hook.remove()
    return min(run.min_cosine for run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["fp32", "8da4w"])
@pytest.mark.parametrize("name", FAMILIES)
def test_lowered_program_agrees_with_transformers(family, lower_checkpoint, name, scheme):
    folder = family(name)
    lowered = lower_checkpoint(folder, FORM, scheme=scheme)
    model = load_model(folder, partial(quantize_module, q=lowered.quantization))
    freeze_rope(model, FORM.max_context)
    with torch.no_grad():
        expected = model(TOKENS).logits[0]
    figures = agreements(Program(lowered.pte, threads=1).forward, expected)
    floor = 1.0 if scheme == "fp32" else rounding_floor(model, expected)
    shown = {way: f"{each.min_cosine:.6f} {each.cosine:.6f}" for way, each in figures.items()}
    print(name, scheme, f"{lowered.delegation.delegates} delegates, minimum and mean cosine {shown}, floor {floor:.6f}")
    for way, each in figures.items():
        assert 1 - each.min_cosine <= 1e-5 + 2 * (1 - floor), way

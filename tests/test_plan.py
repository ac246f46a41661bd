import pytest

from et_pipeline.plan import kv_cache_bytes, tensor_bytes
from et_pipeline.settings import Quantization


def quantization(**changes):
    base = {
        "scheme": "8da4w",
        "group_size": 32,
        "mapping": "symmetric",
        "embedding_bits": 8,
        "embedding_group_size": 0,
    }
    return Quantization(**base | changes)


@pytest.mark.parametrize(
    ("name", "q", "expected"),
    [
        ("model.layers.0.mlp.up_proj.weight", quantization(), 64 * 128 // 2 + 64 * 128 // 32 * 2),
        ("model.layers.0.mlp.up_proj.weight", quantization(group_size=0), 64 * 128 // 2 + 64 * 4),
        ("model.layers.0.mlp.up_proj.weight", quantization(scheme="int8_weight_only", group_size=0), 64 * 128 + 64 * 4),
        ("model.layers.0.mlp.up_proj.weight", quantization(scheme="fp32"), 64 * 128 * 4),
        ("model.embed_tokens.weight", quantization(), 64 * 128 + 64 * 4),
        ("model.embed_tokens.weight", quantization(embedding_bits=32), 64 * 128 * 4),
    ],
)
def test_tensor_bytes_counts_integers_and_scales(name, q, expected):
    assert tensor_bytes(name, (64, 128), q) == expected


def test_norms_stay_in_fp32():
    assert tensor_bytes("model.norm.weight", (128,), quantization()) == 512


def test_kv_cache_bytes():
    assert kv_cache_bytes(layers=2, kv_heads=2, head_dim=32, context=100) == 2 * 2 * 2 * 32 * 100 * 4


def test_the_forecast_of_the_program_is_close_to_the_real_one(tiny_program, tiny_llama):
    """One layer, 8da4w: the real file has graph and metadata on top."""
    from et_pipeline.models.checkpoint import read_layout

    layout = read_layout(tiny_program.checkpoint)
    forecast = sum(tensor_bytes(name, info.shape, tiny_program.quantization) for name, info in layout.items())
    forecast += tensor_bytes("lm_head.weight", layout["model.embed_tokens.weight"].shape, tiny_program.quantization)
    real = tiny_program.pte.stat().st_size
    assert forecast < real < forecast + 150_000

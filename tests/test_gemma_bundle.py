"""Gemma 3n through all stages: a bundle that says what of it stays in the file."""

import pytest
from hydra import compose, initialize_config_dir

from et_pipeline import CONF, manifest
from et_pipeline.pipeline import run
from et_pipeline.report.progress import Silent
from et_pipeline.settings import load_settings

SMALL = {
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
    "vocab_size_per_layer_input": 512,
    "hidden_size_per_layer_input": 64,
    "laurel_rank": 32,
    "sliding_window": 16,
}


@pytest.mark.slow
def test_a_bundle_of_gemma_3n(make_checkpoint, tmp_path):
    checkpoint = make_checkpoint("gemma3n_text", **SMALL)
    overrides = [
        "model=custom",
        f"model.source={checkpoint}",
        "model.max_context=64",
        "model.prefill_chunk=32",
        "task=chat",
        "recipe=8da4w",
        "recipe.embedding_bits=4",
        "recipe.embedding_group_size=64",
        "verify.sequences=4",
        "measure.prompt_tokens=8",
        "measure.decode_tokens=4",
        "measure.rounds=1",
        f"paths.cache={tmp_path / 'cache'}",
        f"paths.bundles={tmp_path / 'bundles'}",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = load_settings(compose("config", overrides=overrides))
    made = manifest.read(run([settings], Silent(), tmp_path).bundle)
    weights = 512 * 4 * 64
    assert made.memory.table_bytes == weights // 2 + weights // 64 * 4
    of_token = 2 * 2 * 32 * 4
    assert made.memory.states == {"ring": 48 * of_token, "keys_values": 64 * of_token}  # the others read these
    checks = {check.name: check.value for check in made.quality.gate.checks}
    print(checks)
    # Random weights: where activations go to another of 256 steps, what is likeliest changes at once.
    assert all(value > 0.99 for name, value in checks.items() if name.startswith("cosine to quantized eager")), checks
    assert made.quality.witness.name == "transformers"

"""What `bench.families` has to be told of families: tiny sizes, and models that people know."""

from __future__ import annotations

from typing import Any

VOCABULARY = 128
WINDOW = 16
TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    # Ten times the usual spread: attention is peaked, so that a wrong mask or cache shows in the logits.
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
# What a class's own sizes do not say.
OVERRIDES: dict[str, dict[str, Any]] = {}
EXAMPLES: dict[str, str] = {}

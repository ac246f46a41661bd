"""Fixtures for the tests of models."""

import pytest

from et_pipeline.settings import Quantization


@pytest.fixture
def quantization():
    """4-bit weights in groups of 32 with 8-bit activations, and 8-bit embeddings."""
    return Quantization(
        scheme="8da4w",
        group_size=32,
        mapping="symmetric_no_clipping_error",
        embedding_bits=8,
        embedding_group_size=0,
    )

"""The form whose cache the caller holds: each way of feeding against transformers' model, past each window."""

import pytest
import torch

from et_pipeline.evaluation.agreement import compare
from et_pipeline.models.checkpoint import load_model
from et_pipeline.models.external_cache import CacheDriver, ExternalCacheDecoder, export_external, external_metadata
from tests.models.test_families import FAMILIES, FORM, TOKENS, WAYS, family, one_thread, reference  # noqa: F401

IDS = TOKENS[0].tolist()


def check(call, methods, expected):
    """One way after the other with the same caches: each starts again at 0. The last chunk is a padded one."""
    driver = CacheDriver(call, methods)
    for way, chunk in {"whole chunks": FORM.prefill_chunk, **WAYS}.items():
        with torch.no_grad():
            found = driver.feed(IDS, chunk=chunk)
        assert compare(found, expected).min_cosine >= 1 - 1e-9, way


@pytest.mark.parametrize("name", FAMILIES)
def test_decoder_equals_transformers(family, name):  # noqa: F811
    decoder = ExternalCacheDecoder(load_model(family(name)), FORM)
    check(lambda method, inputs: decoder(*inputs), external_metadata(decoder, 0, [1]), reference(family(name)))

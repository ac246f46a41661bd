"""The form whose cache the caller holds: each way of feeding against transformers' model, past each window."""

import pytest
import torch

from et_pipeline.checkpoints.reader import load_model
from et_pipeline.evaluation.agreement import compare
from et_pipeline.models.external_cache import (
    DECODE,
    METHODS,
    PREFILL,
    CacheDriver,
    ExternalCacheDecoder,
    export_external,
    external_metadata,
    load_programs,
    save_programs,
)
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


@pytest.mark.parametrize("name", ["gemma3", "phi4_mini", "mistral_v01"])
def test_programs_read_back_equal_transformers(family, name, tmp_path):  # noqa: F811
    decoder = ExternalCacheDecoder(load_model(family(name)), FORM)
    methods = external_metadata(decoder, 0, [1])
    save_programs(export_external(decoder, methods), tmp_path)
    assert len({(tmp_path / method / "weights.pt").stat().st_ino for method in METHODS}) == 1  # kept once
    programs = load_programs(tmp_path)
    modules = {method: program.module() for method, program in programs.items()}
    check(lambda method, inputs: modules[method](*inputs), methods, reference(family(name)))
    names = [[(node.op, node.name) for node in program.graph.nodes] for program in programs.values()]
    assert names[0] == names[1]  # by which the one graph takes the ranges of the other


def driver(windows):
    methods = {"get_max_context_len": 6, "get_max_seq_len": 3, "get_n_layers": 2, "get_n_kv_heads": 1}
    return CacheDriver(lambda *_: (), methods | {"get_head_dim": 4, "get_windows": windows})


def test_a_padded_chunk_sees_what_is_before_it():
    tokens, mask, positions, *caches = driver([6, 2]).inputs(PREFILL, [7, 8], 4)
    assert (tokens.tolist(), positions.tolist()) == ([[7, 8, 0]], [[4, 5, 5]])
    seen = (mask == 0).int().tolist()
    assert seen[0][:2] == [[1, 1, 1, 1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 0, 0, 1, 1, 0]]
    assert seen[1][:2] == [[0, 0, 0, 1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1, 0]]
    assert [cache.shape for cache in caches] == [(1, 1, 6, 4)] * 4


def test_only_single_tokens_go_through_decode():
    called = []

    def call(method, inputs):
        size = inputs[0].shape[1]
        called.append((method, inputs[0].tolist(), inputs[2].tolist()))
        return [torch.zeros(1, size, 5), *(torch.full((1, 1, size, 4), float(size)) for _ in range(4))]

    fed = driver([6])
    fed.call = call
    assert fed.feed([5, 6, 7, 8], start=1).shape == (4, 5)
    assert called == [(PREFILL, [[5, 6, 7]], [[1, 2, 3]]), (DECODE, [[8]], [[4]])]
    assert fed.caches[0][0, 0, :, 0].tolist() == [0, 3, 3, 3, 1, 0]

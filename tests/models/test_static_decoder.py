"""The form with one token per call: against transformers' unmodified model, past each window."""

from types import SimpleNamespace

import pytest
import torch

from et_pipeline.checkpoints.reader import load_model
from et_pipeline.evaluation.agreement import compare
from et_pipeline.forms import static_decoder
from et_pipeline.models.static_decoder import StaticDecoder, export_static
from et_pipeline.settings import ExportForm
from tests.models.test_families import FAMILIES, FED, TOKENS, family, one_thread, reference  # noqa: F401  fixtures

FORM = ExportForm(max_context=64, prefill_chunk=1)


def fed(call):
    with torch.no_grad():
        return torch.stack([call(TOKENS[:, at : at + 1], torch.tensor([at])).reshape(-1) for at in range(FED)])


@pytest.mark.parametrize("name", FAMILIES)
def test_static_decoder_equals_transformers(family, name):  # noqa: F811
    folder = family(name)
    expected = reference(folder)[:FED]
    decoder = StaticDecoder(load_model(folder), FORM)
    assert compare(fed(decoder), expected).min_cosine >= 1 - 1e-9


@pytest.mark.parametrize(("backend", "width"), [("vulkan", 4), ("qnn", 2)])
def test_its_cache_is_as_large_as_its_form_says(family, backend, width):  # noqa: F811
    form = ExportForm(max_context=33, prefill_chunk=1)
    decoder = StaticDecoder(load_model(family("mistral_v01")), form)
    config = decoder.config
    numbers = sum(buffer.numel() for name, buffer in decoder.named_buffers() if "_cache" in name)
    facts = SimpleNamespace(
        layers=config.num_hidden_layers, kv_heads=config.num_key_value_heads, head_dim=config.head_dim
    )
    assert static_decoder.FORM.state_bytes(facts, form, backend) == {"keys_values": numbers * width}


@pytest.mark.parametrize("name", ["gemma3", "phi4_mini", "mistral_v01"])
def test_the_exported_program_equals_the_decoder(family, name):  # noqa: F811
    decoder = StaticDecoder(load_model(family(name)), FORM)
    expected = fed(decoder)
    decoder.reset()
    program = export_static(decoder)
    assert compare(fed(program.module()), expected).min_cosine >= 1 - 1e-9
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.rms_norm.default" in operators
    assert not operators & {"aten.cos.default", "aten.sin.default", "aten.pow.Tensor_Scalar"}


@pytest.mark.parametrize("name", ["gemma3", "mistral_v01"])
def test_a_cache_in_memory_that_nobody_cleared_is_read_as_zeros(family, name):  # noqa: F811
    folder = family(name)
    decoder = StaticDecoder(load_model(folder), FORM, unclean=True)
    program = export_static(decoder).module()
    with torch.no_grad():
        for buffer_name, buffer in program.named_buffers():
            if "_cache_" in buffer_name:
                buffer.fill_(float("nan"))
    assert compare(fed(program), reference(folder)[:FED]).min_cosine >= 1 - 1e-9

"""The padded form of encoders: against transformers' unmodified models, at every length."""

import pytest
import torch

from et_pipeline.architecture import ENCODERS
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.pooling import read_pooling
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.models.encoder import embed_batch
from et_pipeline.models.pooling import Pooling
from et_pipeline.models.static_encoder import StaticEncoder, export_static_encoder, static_encoder_metadata
from et_pipeline.runtime.embedding import padded
from tests.make_embedder import EMBEDDERS, make_embedder

LONGEST, LENGTHS = 48, (1, 2, 7, 31, 48)


def texts():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 250, (length,), generator=generator).tolist() for length in LENGTHS]


@pytest.mark.parametrize("mode", ["mean", "cls"])
@pytest.mark.parametrize("family", ENCODERS)
def test_every_family_computes_the_same(family, mode, make_checkpoint):
    model = load_model(make_checkpoint(family, num_hidden_layers=2, pad_token_id=1, embedding_size=128))
    pooling = Pooling(mode=mode)
    expected = embed_batch(model, texts(), pooling)
    encoder = StaticEncoder(model, pooling, LONGEST)
    with torch.no_grad():
        found = torch.cat([encoder(*padded(text, LONGEST, 1)) for text in texts()])
    assert torch.allclose(found, expected, atol=1e-5)
    program = export_static_encoder(encoder)
    module = program.module()
    # Whatever the padding is, the mask hides it.
    exported = torch.cat([module(*padded(text, LONGEST, 200)) for text in texts()])
    assert torch.allclose(exported, expected, atol=1e-5)
    assert model.config._attn_implementation != "et_pipeline_padded_text"
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not operators & {"aten.cumsum.default", "aten.ne.Scalar", "aten.where.self", "aten.log.default"}


@pytest.mark.parametrize("name", EMBEDDERS)
def test_windows_causal_masks_and_linear_layers_of_the_padded_form(name, tmp_path):
    folder = make_embedder(tmp_path, name)
    model, pooling = load_model(folder), read_pooling(Folder(folder))
    expected = embed_batch(model, texts(), pooling)
    encoder = StaticEncoder(model, pooling, LONGEST)
    with torch.no_grad():
        found = torch.cat([encoder(*padded(text, LONGEST, 200)) for text in texts()])
    assert torch.allclose(found, expected, atol=1e-5)
    module = export_static_encoder(encoder).module()
    exported = torch.cat([module(*padded(text, LONGEST, 200)) for text in texts()])
    assert torch.allclose(exported, expected, atol=1e-5)
    assert model.config._attn_implementation != "et_pipeline_padded_text"


def test_a_program_says_that_it_wants_padding(make_checkpoint):
    encoder = StaticEncoder(load_model(make_checkpoint("bert", num_hidden_layers=1)), Pooling(), LONGEST)
    methods = static_encoder_metadata(encoder)
    assert (methods["get_pad_id"], methods["get_max_seq_len"], methods["enable_dynamic_shape"]) == (0, LONGEST, False)

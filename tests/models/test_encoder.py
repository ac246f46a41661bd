"""Encoders: pooling against transformers' own model, and real programs against the quantized eager model."""

import pytest
import torch

from et_pipeline.architecture import ENCODERS
from et_pipeline.backends import get_backend
from et_pipeline.checkpoints.facts import read_facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.reader import load_model, stream_model
from et_pipeline.errors import UserError
from et_pipeline.models.encoder import Encoder, embed_batch, export_encoder, metadata, pool
from et_pipeline.models.pooling import Pooling
from et_pipeline.models.rewrites import delegate_friendly
from et_pipeline.quantization.torchao_config import load_quantized, quantize_checkpoint
from et_pipeline.runtime.embedding import embed
from et_pipeline.runtime.program import Program
from et_pipeline.settings import Quantization

LONGEST = 48
LENGTHS = (1, 2, 7, 31, LONGEST)
SCHEMES = {
    "fp32": {"scheme": "fp32", "group_size": 0, "embedding_bits": 32},
    "8da4w": {"scheme": "8da4w", "group_size": 32},
    "8da8w": {"scheme": "8da8w", "group_size": 0},
    "int4_weight_only": {"scheme": "int4_weight_only", "group_size": 0},
    "int8_weight_only": {"scheme": "int8_weight_only", "group_size": 0},
}


def texts(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 250, (length,), generator=generator).tolist() for length in lengths]


def quantization(**changes):
    usual = {"mapping": "symmetric_no_clipping_error", "embedding_bits": 8, "embedding_group_size": 0}
    return Quantization(**{**usual, **changes})


@pytest.fixture(scope="module")
def bert(make_checkpoint):
    return make_checkpoint("bert", num_hidden_layers=1, max_position_embeddings=64)


@pytest.fixture(scope="module")
def lowered(bert, tmp_path_factory):
    """The program of a recipe and its quantized eager model, each made once."""
    made = {}

    def lower(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            q = quantization(**SCHEMES[name])
            quantize_checkpoint(bert, q, folder)
            encoder = Encoder(load_quantized(bert, folder, q), Pooling(), LONGEST)
            delegation = get_backend("xnnpack").lower(export_encoder(encoder), metadata(encoder), folder / "model.pte")
            made[name] = Program(folder / "model.pte", threads=1), load_quantized(bert, folder, q), delegation
        return made[name]

    return lower


def test_what_a_checkpoint_says(bert):
    facts = read_facts(Folder(bert))
    assert facts.pooling == Pooling(mode="mean", normalised=True)
    assert (facts.eos_ids, facts.hidden_size, facts.max_position) == ((), 128, 64)
    weights = sum(parameter.numel() for parameter in load_model(bert).parameters())
    assert facts.parameters == weights  # without the pooler, which the checkpoint holds


def test_a_decoder_of_an_encoders_family_is_refused(make_checkpoint):
    folder = make_checkpoint("bert", num_hidden_layers=1, is_decoder=True)
    with pytest.raises(UserError, match="is_decoder=true"):
        read_facts(Folder(folder))


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_padding_changes_nothing_and_is_what_transformers_gives(bert, mode):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(bert)
    expected = []
    for text in texts():
        vectors = model(input_ids=torch.tensor([text])).last_hidden_state[0]
        one = vectors.mean(0) if mode == "mean" else vectors[0]
        expected.append(one / one.norm())
    found = embed_batch(stream_model(bert), texts(), Pooling(mode=mode))
    assert torch.allclose(found, torch.stack(expected), atol=1e-5)


def test_the_mask_counts_only_tokens():
    vectors = torch.tensor([[[2.0, 0.0], [4.0, 6.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert pool(vectors, mask, Pooling(normalised=False)).tolist() == [[3.0, 3.0]]
    assert pool(vectors, mask, Pooling(mode="cls", normalised=False)).tolist() == [[2.0, 0.0]]
    assert pool(vectors, mask, Pooling()).tolist() == [[pytest.approx(0.5**0.5)] * 2]
    assert pool(vectors[:, :2], None, Pooling(normalised=False)).tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize("family", ENCODERS)
def test_every_family_in_export_form_computes_the_same(family, make_checkpoint):
    folder = make_checkpoint(family, num_hidden_layers=2, pad_token_id=1, embedding_size=128)
    model = load_model(folder)
    expected = embed_batch(model, texts(), Pooling())
    encoder = Encoder(model, Pooling(), LONGEST)
    with torch.no_grad(), delegate_friendly(model):
        found = torch.cat([encoder(torch.tensor([text])) for text in texts()])
    assert torch.allclose(found, expected, atol=1e-5)
    assert model.config._attn_implementation != "et_pipeline_one_text"
    module = export_encoder(encoder).module()
    exported = torch.cat([module(torch.tensor([text])) for text in texts()])
    assert torch.allclose(exported, expected, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["fp32", "8da4w", *(pytest.param(s, marks=pytest.mark.slow) for s in SCHEMES if s not in ("fp32", "8da4w"))]
)
def test_program_gives_what_the_quantized_model_gives(name, lowered):
    program, eager, _ = lowered(name)
    expected = embed_batch(eager, texts(), Pooling())
    found = torch.stack([embed(program, text) for text in texts()])
    similar = torch.cosine_similarity(found, expected)
    assert similar.min() >= 0.9999
    assert torch.allclose(found.norm(dim=-1), torch.ones(len(found)), atol=1e-5)
    if name == "fp32":
        assert torch.allclose(found, expected, atol=1e-5)
    # The texts differ, so a program that always says the same would not pass.
    assert torch.cosine_similarity(found[:1], expected[1:]).max() < 0.99


def test_little_runs_beside_the_delegate(lowered):
    _, _, delegation = lowered("8da4w")
    assert delegation.delegated_operators["aten.linear"] == 6 + 2 * 3  # the layer's own, and two for each norm
    assert delegation.delegated_operators["aten.bmm"] == 2
    assert not [name for name in delegation.fallback_operators if "norm" in name or "bmm" in name or "mm" in name]


def test_a_text_that_is_too_long_or_empty_is_refused(lowered):
    program, _, _ = lowered("8da4w")
    for text in ([], [5] * (LONGEST + 1)):
        with pytest.raises(UserError, match=rf"a text has {len(text)} tokens, and the program takes 1 to {LONGEST}"):
            embed(program, text)


def test_a_program_says_what_it_is(lowered):
    program, _, _ = lowered("8da4w")
    assert program.metadata["get_embedding_dim"] == 128
    assert program.metadata["get_max_seq_len"] == LONGEST
    assert program.metadata["get_vocab_size"] == 512

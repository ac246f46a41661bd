"""Models of today that embed texts: their masks, pooling and prompts, held against sentence-transformers itself."""

import json
from functools import cache

import numpy as np
import pytest
import torch

from et_pipeline import manifest
from et_pipeline.backends import get_backend
from et_pipeline.checkpoints.facts import read_facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.reader import load_model, stream_model
from et_pipeline.errors import UserError
from et_pipeline.models.encoder import ONE_TEXT, Encoder, embed_batch, export_encoder, metadata
from et_pipeline.models.pooling import Pooling
from et_pipeline.models.reach import Reach, find_reaches, unseen
from et_pipeline.quantization.torchao_config import load_quantized, quantize_checkpoint
from et_pipeline.runtime.embedding import embed, for_one_text, shorten, with_prompt
from et_pipeline.runtime.program import Program
from tests.make_embedder import EMBEDDERS, make_embedder

LONGEST = 160
# One token to more than any window; the last is cut, and keeps the special token at its end.
TEXTS = ("", "a", "Hello there", "The quick brown fox jumps over the lazy dog.", "x y z! " * 60)
SIZES = (32, 8)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    """Each model, made once."""
    made = {}

    def make(name, **changes):
        key = json.dumps([name, changes], sort_keys=True)
        if key not in made:
            made[key] = make_embedder(tmp_path_factory.mktemp(name), name, **changes)
        return made[key]

    return make


@cache
def sentence_transformer(folder):
    loaded = pytest.importorskip("sentence_transformers").SentenceTransformer
    model = loaded(str(folder), device="cpu", model_kwargs={"attn_implementation": "eager"})
    model.max_seq_length = LONGEST
    return model


def theirs(folder, prompt, size=None):
    """What sentence-transformers itself makes of the texts."""
    model = sentence_transformer(folder)
    given = {"prompt": ""} if prompt == "" else {"prompt_name": prompt}
    return torch.tensor(model.encode(list(TEXTS), **given, truncate_dim=size, normalize_embeddings=True))


def described(facts, sizes=SIZES):
    """The part of the manifest that says how texts are embedded."""
    dimension = facts.pooling.dimension(facts.hidden_size)
    return manifest.Embedding(
        dimension=dimension,
        dimensions=[size for size in sizes if size < dimension],
        prompts=facts.prompts,
        default_prompt=facts.default_prompt,
        pooling=facts.pooling.mode,
        normalised=facts.pooling.normalised,
        max_tokens=LONGEST,
    )


def token_ids(folder, prompt):
    tokenizer = for_one_text(Folder(folder).tokenizer, LONGEST)
    texts = with_prompt(described(read_facts(Folder(folder))), TEXTS, prompt)
    return [ids for ids in (tokenizer.encode(text).ids for text in texts) if ids]


@pytest.mark.parametrize("prompt", [None, "", "query", "document"])
@pytest.mark.parametrize("name", EMBEDDERS)
def test_our_reading_is_that_of_sentence_transformers(name, prompt, embedder):
    folder = embedder(name)
    facts, expected = read_facts(Folder(folder)), theirs(folder, prompt)
    ids = token_ids(folder, prompt)
    found = embed_batch(stream_model(folder), ids, facts.pooling)
    assert torch.allclose(found, expected, atol=1e-5)
    assert len(ids[-1]) == LONGEST
    assert len({len(each) for each in ids}) >= 4


def test_a_checkpoint_says_how_it_embeds(embedder):
    facts = read_facts(Folder(embedder("embeddinggemma")))
    assert (facts.windows, facts.eos_ids) == ((9, 9, None), ())
    assert [layer.outputs for layer in facts.pooling.dense] == [128, 64]
    assert facts.prompts["query"] == "task: search result | query: "
    model = load_model(embedder("embeddinggemma"))
    assert sum(parameter.numel() for parameter in model.parameters()) == facts.parameters
    qwen = read_facts(Folder(embedder("qwen3_embedding")))
    assert (qwen.pooling.mode, qwen.pooling.dense, qwen.default_prompt) == ("lasttoken", (), None)
    assert qwen.tied_head  # it has none
    assert read_facts(Folder(embedder("modernbert_embed"))).default_prompt == "document"


def test_names_with_and_without_the_model_around_are_the_same_model(embedder):
    """Qwen3-Embedding's class is one that answers, and its files have another's names."""
    pair = [embedder("qwen3_embedding", answers=answers) for answers in (True, False)]
    stored = [Folder(folder).layout for folder in pair]
    assert "model.norm.weight" in stored[0]
    assert "norm.weight" in stored[1]
    first, second = (load_model(folder).state_dict() for folder in pair)
    assert first.keys() == second.keys()
    assert not [name for name in first if "lm_head" in name]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bend", ["Tanh", "GELU"])
def test_linear_layers_that_bend_are_sentence_transformers_own(bend, bias, embedder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = make_embedder(tmp_path, "qwen3_embedding", dense=(32,))
    config = json.loads((folder / "2_Dense" / "config.json").read_text())
    config |= {"activation_function": f"torch.nn.modules.activation.{bend}", "bias": bias}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "2_Dense" / "model.safetensors")
    if bias:
        save_file({**weights, "linear.bias": torch.randn(32)}, folder / "2_Dense" / "model.safetensors")
    found = embed_batch(stream_model(folder), token_ids(folder, "query"), read_facts(Folder(folder)).pooling)
    assert torch.allclose(found, theirs(folder, "query"), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "settings", "reaches"),
    [
        ("bert", {}, {Reach()}),
        ("llama", {}, {Reach(None, 0)}),
        ("mistral", {"sliding_window": 8, "num_key_value_heads": 2}, {Reach(7, 0)}),
        ("mistral", {"sliding_window": 48, "num_key_value_heads": 2}, {Reach(None, 0)}),
        ("modernbert", {"local_attention": 8}, {Reach(), Reach(4, 4)}),
        ("gemma3_text", {"sliding_window": 8}, {Reach(None, 0), Reach(7, 0)}),
        ("gemma3_text", {"sliding_window": 8, "use_bidirectional_attention": True}, {Reach(), Reach(4, 4)}),
    ],
)
def test_how_far_a_token_sees_is_found_in_the_familys_own_masks(family, settings, reaches):
    from transformers import AutoConfig, AutoModel

    from tests.make_embedder import SHAPE

    config = AutoConfig.for_model(family, **{**SHAPE, "hidden_size": 32, **settings})
    model = AutoModel.from_config(config)
    usual = model.config._attn_implementation
    assert {*find_reaches(model, ONE_TEXT, 48)} == reaches
    assert model.config._attn_implementation == usual


@pytest.mark.parametrize("reach", [Reach(None, 0), Reach(3, 0), Reach(3, 3), Reach(2, 5), Reach(None, 1)])
def test_a_mask_hides_what_is_out_of_reach(reach):
    found = unseen(reach, 9)
    for row in range(9):
        for column in range(9):
            seen = (reach.back is None or row - column <= reach.back) and column - row <= reach.ahead
            assert (found[row, column] == 0) == seen
            assert seen or found[row, column] <= -1e29


def test_a_mask_that_is_no_band_is_refused(embedder):
    """Chunks of Llama 4: a token at a chunk's end sees more than one at its begin."""
    from transformers import AutoModel
    from transformers.models.llama4 import Llama4TextConfig

    from tests.make_embedder import SHAPE

    sizes = {**SHAPE, "num_local_experts": 1, "num_hidden_layers": 1, "attention_chunk_size": 8, "head_dim": 16}
    config = Llama4TextConfig(**{**sizes, "layer_types": ["chunked_attention"], "intermediate_size_mlp": 32})
    with pytest.raises(UserError, match="llama4_text hides tokens from each other in a way"):
        find_reaches(AutoModel.from_config(config), ONE_TEXT, 48)


def lower(folder, out, q):
    """The program of a recipe in the real runtime, and its quantized eager model."""
    quantize_checkpoint(folder, q, out)
    pooling = read_facts(Folder(folder)).pooling
    encoder = Encoder(load_quantized(folder, out, q), pooling, LONGEST)
    get_backend("xnnpack").lower(export_encoder(encoder), metadata(encoder), out / "model.pte")
    return Program(out / "model.pte", threads=1), load_quantized(folder, out, q)


# Fast enough for every run: the one with everything.
@pytest.mark.parametrize(
    "name", ["embeddinggemma", *(pytest.param(n, marks=pytest.mark.slow) for n in EMBEDDERS if n != "embeddinggemma")]
)
def test_a_program_embeds_as_sentence_transformers_does(name, embedder, tmp_path, quantization):
    folder = embedder(name)
    plain = quantization.model_copy(update={"scheme": "fp32", "group_size": 0, "embedding_bits": 32})
    program, _ = lower(folder, tmp_path, plain)
    embedding = described(read_facts(Folder(folder)))
    assert program.metadata["get_embedding_dim"] == embedding.dimension
    for prompt in (None, "", "query", "document"):
        found = np.stack([embed(program, ids).numpy() for ids in token_ids(folder, prompt)])
        for size in (None, *SIZES):
            short = torch.tensor(shorten(embedding, found, size))
            expected = theirs(folder, prompt, size)
            assert short.shape == expected.shape
            assert torch.cosine_similarity(short, expected).min() > 0.99999
            assert torch.allclose(short.norm(dim=-1), torch.ones(len(short)), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["8da4w", "8da8w"])
@pytest.mark.parametrize("name", EMBEDDERS)
def test_a_quantized_program_embeds_as_the_quantized_model_does(name, scheme, embedder, tmp_path, quantization):
    folder = embedder(name)
    q = quantization.model_copy(update={"scheme": scheme, "group_size": 32 if scheme == "8da4w" else 0})
    program, eager = lower(folder, tmp_path, q)
    pooling = read_facts(Folder(folder)).pooling
    ids = token_ids(folder, "query")
    found = torch.stack([embed(program, each) for each in ids])
    # One by one: rounding a token's activations to 8 bits is the same for a text alone and beside others.
    expected = embed_batch(eager, ids, pooling)
    assert torch.cosine_similarity(found, expected).min() > 0.9999
    assert torch.cosine_similarity(found[:1], expected[1:]).max() < 0.9999


def test_what_changes_with_the_length_of_a_text_is_refused(embedder, make_checkpoint):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    folder = embedder("qwen3_embedding", config={**EMBEDDERS["qwen3_embedding"]["config"], "rope_parameters": rope})
    with pytest.raises(UserError, match="rotary frequencies of type dynamic, which change with the length of a text"):
        Encoder(load_model(folder), Pooling(mode="lasttoken"), LONGEST)

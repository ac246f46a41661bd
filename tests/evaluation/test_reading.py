"""The witness in a run: our reading equals it over families and stored forms, and each mistake of ours is noticed."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from et_pipeline.architecture import ENCODERS
from et_pipeline.checkpoints import prequantized, reader, witness
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.pooling import read_pooling
from et_pipeline.checkpoints.reader import load_model, stream_model
from et_pipeline.evaluation.gate import witness_checks
from et_pipeline.evaluation.reading import ALLOWED, examine
from et_pipeline.models import fused
from et_pipeline.models.encoder import embed_batch
from et_pipeline.models.pooling import Pooling
from tests.checkpoints.test_prequantized import FORMS
from tests.models.test_families import FAMILIES, LLAMA3

GENERATOR = torch.Generator().manual_seed(0)
SEQUENCES = [torch.randint(2, 512, (count,), generator=GENERATOR).tolist() for count in (20, 30, 7)]
FAR = torch.randint(2, 512, (64,), generator=GENERATOR).tolist()
CONTEXT = 64


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint):
    made = {}

    def make(family, **settings):
        key = (family, json.dumps(settings, sort_keys=True))
        if key not in made:
            made[key] = make_checkpoint(family, **settings)
        return made[key]

    return make


def read(folder, whole=True, layers=2):
    original = witness.load_original(folder) if whole else None
    return examine(folder, None, original, layers, SEQUENCES, FAR, CONTEXT)


@pytest.mark.parametrize("name", FAMILIES)
def test_our_reading_is_transformers_own(name, checkpoint):
    family, settings = FAMILIES[name]
    folder = checkpoint(family, **settings)
    reading = read(folder)
    assert (reading.witness.name, reading.witness.layers) == ("transformers", None)
    assert reading.witness.difference < ALLOWED / 10
    assert reading.witness.for_manifest().agreement.positions == sum(map(len, SEQUENCES)) + 16
    with torch.no_grad():
        own = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(torch.tensor([SEQUENCES[2]])).logits
    if "rope_type" not in str(settings):  # such frequencies are chosen for the context, not for the text
        torch.testing.assert_close(reading.logits[2], own[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_tensor_is_transformers_own(name, checkpoint):
    family, settings = FAMILIES[name]
    folder = checkpoint(family, **settings)
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    model = load_model(folder)
    found = model.state_dict()
    parts = {}
    for target, whole, start, end in fused.fused_rows(model):
        parts.setdefault(whole, []).append((start, end, found.pop(target)))
    for whole, rows in parts.items():
        found[whole] = torch.cat([weight for _, _, weight in sorted(rows, key=lambda row: row[0])])
    assert found.keys() == expected.keys()
    for key, weight in expected.items():
        assert torch.equal(found[key], weight), key


@pytest.mark.parametrize("name", FAMILIES)
def test_where_it_does_not_fit_layers_are_compared(name, checkpoint):
    family, settings = FAMILIES[name]
    count = settings.get("num_hidden_layers", 2)
    found = read(checkpoint(family, **settings), whole=False, layers=count).witness
    assert (found.name, found.layers) == ("transformers", witness.sample_layers(count))
    assert found.difference < ALLOWED / 10


def test_the_logits_are_of_the_whole_model_where_layers_are_compared(checkpoint):
    folder = checkpoint("llama", num_hidden_layers=4)
    sampled, whole = read(folder, whole=False, layers=4), read(folder)
    assert len(sampled.logits) == len(SEQUENCES)
    for ours, theirs in zip(sampled.logits, whole.logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", ["nf4 nested", "int8", "torchao int4", "compressed", "compressed int8", "gptq", "awq"])
def test_quantized_checkpoints_have_their_tools_as_witness_where_these_are_installed(name, whole, checkpoint, tmp_path):
    folder = FORMS[name](checkpoint("llama", tie_word_embeddings=True), tmp_path / "made")
    found = read(folder, whole).witness
    if name in ("gptq", "awq"):  # what reads them is not among the dependencies of tests
        assert (found.name, found.difference) == ("et_pipeline", None)
        assert " requires " in found.note
    elif name == "torchao int4" and not whole:  # its forms stand in the files' headers, under the layers' names
        assert (found.name, found.difference) == ("et_pipeline", None)
    else:
        assert (found.name, found.note) == ("transformers", None)
        assert found.difference < ALLOWED / 10


# Mistakes of a reader. Each is a change of what it makes, on a checkpoint where that matters.
GEMMA2 = FAMILIES["gemma2"][1]
PHI3, LONGROPE = FAMILIES["phi3_4k"][1], FAMILIES["phi3_128k_long"][1]


def key(**changes):
    """Keys of config.json that are not read, or read as something else; a None leaves one out."""

    @contextmanager
    def mutate(monkeypatch, tmp_path):
        build = reader.build_skeleton

        def other(folder, *arguments, **settings):
            copy = Path(shutil.copytree(folder.path, tmp_path / "other", dirs_exist_ok=True))
            config = json.loads((copy / "config.json").read_text()) | changes
            left = {name: value for name, value in config.items() if changes.get(name, ...) is not None}
            (copy / "config.json").write_text(json.dumps(left))
            return build(Folder(copy), *arguments, **settings)

        monkeypatch.setattr(reader, "build_skeleton", other)
        yield

    return mutate


def tensor(change):
    """Tensors that are read wrongly: `change` takes the module, the name in it and the tensor."""

    @contextmanager
    def mutate(monkeypatch, tmp_path):
        set_tensor = reader._set_tensor
        monkeypatch.setattr(reader, "_set_tensor", lambda m, n, t: set_tensor(m, n, change(m, n, t)))
        yield

    return mutate


def is_square(module, weight):
    return isinstance(module, torch.nn.Linear) and weight.dim() == 2 and weight.shape[0] == weight.shape[1]


def permuted(weight):
    """Rows as llama.cpp orders those of queries and keys: halves of a head interleaved."""
    return weight.reshape(4, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


@contextmanager
def fused_order(monkeypatch, tmp_path):
    """Gate and up, stored as one, the wrong way round."""
    rows = fused.fused_rows

    def other(model):
        for target, whole, start, end in rows(model):
            if "gate_up" in whole:
                half = end - start
                start, end = (start + half, end + half) if start == 0 else (start - half, end - half)
            yield target, whole, start, end

    monkeypatch.setattr(fused, "fused_rows", other)
    yield


@contextmanager
def layers_swapped(monkeypatch, tmp_path):
    open_ = reader.prepare

    def other(folder):
        made = open_(folder)
        swap = {"model.layers.0.": "model.layers.1.", "model.layers.1.": "model.layers.0."}

        def fill(name, module, **settings):
            for one, another in swap.items():
                if name.startswith(one) and "mlp" in name:
                    return made.fill(another + name.removeprefix(one), module, **settings)
            return made.fill(name, module, **settings)

        return made._replace(fill=fill)

    monkeypatch.setattr(reader, "prepare", other)
    yield


PLAIN = {"rope_type": "default", "rope_theta": 500000.0}
FAR_BASE = {"rope_parameters": {"rope_type": "default", "rope_theta": 999999.0}}
SCALED = {"rope_parameters": LLAMA3}
WINDOW = {"sliding_window": 16}
MUTATIONS = {
    "rope_theta ignored": ("llama", FAR_BASE, key(rope_parameters=None)),
    "rope scaling ignored": ("llama", SCALED, key(rope_parameters=PLAIN)),
    "a number of a rope scaling ignored": ("llama", SCALED, key(rope_parameters={**LLAMA3, "low_freq_factor": 2.0})),
    "norm epsilon ignored": ("llama", {"rms_norm_eps": 1e-2}, key(rms_norm_eps=None)),
    "activation ignored": ("llama", {"hidden_act": "gelu"}, key(hidden_act=None)),
    "window ignored": ("mistral", WINDOW, key(sliding_window=100)),
    "window one too long": ("mistral", WINDOW, key(sliding_window=17)),
    "kinds of layers ignored": ("gemma3_text", FAMILIES["gemma3"][1], key(layer_types=["full_attention"] * 6)),
    "attention softcap ignored": ("gemma2", GEMMA2, key(attn_logit_softcapping=1e9)),
    "final softcap ignored": ("gemma2", GEMMA2, key(final_logit_softcapping=1e9)),
    "attention scale ignored": ("gemma2", GEMMA2, key(query_pre_attn_scalar=256)),
    "short factors for long ones": ("phi3", LONGROPE, key(original_max_position_embeddings=64)),
    "layers without rope ignored": ("smollm3", FAMILIES["smollm3"][1], key(no_rope_layers=[1, 1, 1, 1])),
    "norms left at one": ("llama", {}, tensor(lambda m, n, t: torch.ones_like(t) if t.dim() == 1 else t)),
    "norms scaled": ("llama", {}, tensor(lambda m, n, t: 1.01 * t if t.dim() == 1 else t)),
    "biases left out": ("qwen2", {}, tensor(lambda m, n, t: torch.zeros_like(t) if n == "bias" else t)),
    "square weights transposed": ("llama", {}, tensor(lambda m, n, t: t.T.contiguous() if is_square(m, t) else t)),
    "rows in another order": ("llama", {}, tensor(lambda m, n, t: permuted(t) if is_square(m, t) else t)),
    "the last row lost": ("llama", {}, tensor(lambda m, n, t: torch.cat([t[:-1], t[:1]]) if is_square(m, t) else t)),
    "rounded to bf16": ("llama", {}, tensor(lambda m, n, t: t.bfloat16().float())),
    "fused halves swapped": ("phi3", PHI3, fused_order),
    "layers swapped": ("llama", {}, layers_swapped),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_of_the_reader_fails_the_verdict(name, checkpoint, monkeypatch, tmp_path):
    family, settings, mutate = MUTATIONS[name]
    folder = checkpoint(family, **settings)
    original = witness.load_original(folder)
    with mutate(monkeypatch, tmp_path):
        found = examine(folder, None, original, 2, SEQUENCES, FAR, CONTEXT).witness
    (check,) = witness_checks(found)
    assert not check.passed, f"{check.value:.2g}"


def test_a_head_that_is_tied_against_the_file_fails_the_verdict(checkpoint, monkeypatch, tmp_path):
    folder = Path(shutil.copytree(checkpoint("llama", tie_word_embeddings=False), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    assert read(folder).witness.difference < ALLOWED / 10
    monkeypatch.setattr(prequantized, "has_copied_head", lambda *_: True)
    (check,) = witness_checks(read(folder).witness)
    assert not check.passed


def as_sentence_transformer(folder, out, mode, normalised):
    from sentence_transformers import SentenceTransformer, models

    source = Path(shutil.copytree(folder, out.with_name("source")))
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    body = models.Transformer(str(source))
    steps = [body, models.Pooling(body.get_embedding_dimension(), mode), *([models.Normalize()] if normalised else [])]
    SentenceTransformer(modules=steps, device="cpu").save(str(out))
    return out


def embedded(folder, pooling=None):
    embed, whose = witness.load_encoder(folder)
    ids = [[number % 500 + 2 for number in sequence] for sequence in SEQUENCES]
    ours = embed_batch(stream_model(folder), ids, pooling or read_pooling(Folder(folder)))
    theirs = embed(ids)
    return whose, (ours - theirs).abs().max().item() / theirs.abs().max().item()


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize(("mode", "normalised"), [("mean", True), ("cls", False)])
def test_our_reading_of_an_encoder_is_sentence_transformers_own(family, mode, normalised, checkpoint, tmp_path):
    folder = checkpoint(family, max_position_embeddings=80, pad_token_id=1)
    whose, difference = embedded(as_sentence_transformer(folder, tmp_path / "made", mode, normalised))
    assert whose.name == "sentence-transformers"
    assert difference < ALLOWED / 10
    plain, difference = embedded(folder, Pooling())
    assert plain.name == "transformers"
    assert difference < ALLOWED / 10


@pytest.mark.parametrize("pooling", [Pooling(mode="cls", normalised=True), Pooling(mode="mean", normalised=False)])
def test_a_wrong_pooling_fails_the_verdict(pooling, checkpoint, tmp_path):
    folder = checkpoint("bert", max_position_embeddings=80)
    assert embedded(as_sentence_transformer(folder, tmp_path / "made", "mean", True), pooling)[1] > 100 * ALLOWED


def test_what_sentence_transformers_does_not_load_has_transformers_as_witness(checkpoint, tmp_path):
    folder = as_sentence_transformer(checkpoint("bert", max_position_embeddings=80), tmp_path / "made", "mean", True)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "NoSuchTokenizer"}')
    (folder / "tokenizer.json").unlink()
    whose, difference = embedded(folder)
    assert (whose.name, difference < ALLOWED / 10) == ("transformers", True)
    assert "the pooling is our own reading" in whose.note

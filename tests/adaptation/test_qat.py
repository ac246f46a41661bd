import pytest
import torch
from torchao.quantization import IntxUnpackedToInt8Tensor

from et_pipeline.adaptation import qat
from et_pipeline.adaptation.qat import make_trainable, write
from et_pipeline.adaptation.training import Schedule
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.errors import UserError
from et_pipeline.evaluation.agreement import compare
from et_pipeline.quantization.torchao_config import load_quantized
from tests.quantization.test_calibrated import logits, quantize, recipe, texts  # noqa: F401  a fixture

RECIPES = {
    "groups": {"group_size": 32},
    "channels": {},
    "rotated": {"group_size": 32, "transform": "rotation"},
    "mixed": {"group_size": 32, "mixed_bits": 6.0},
    "rotated_mixed": {"group_size": 32, "transform": "rotation", "mixed_bits": 6.0},
    "weight_only": {"scheme": "int4_weight_only", "embedding_bits": 4},
    "asymmetric": {"group_size": 32, "algorithm": "rtn", "mapping": "asymmetric"},
}
FAMILIES = {
    "llama": {"tie_word_embeddings": True},
    "phi3": {},
    "qwen2": {},
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.fixture
def made(make_checkpoint, texts, tmp_path):  # noqa: F811
    """A checkpoint and what the quantize stage makes of it."""

    def make(family="llama", config=None, **changes):
        folder = make_checkpoint(family, **({"initializer_range": 0.05} | (config or FAMILIES[family])))
        q = recipe(**changes)
        (tmp_path / "quantized").mkdir()
        quantize(folder, q, texts, tmp_path / "quantized")
        return folder, tmp_path / "quantized", q

    return make


def trained_a_bit(folder, quantized, q):
    """A model after a few updates of which many are large enough for an integer to change."""
    model = make_trainable(load_quantized(folder, quantized, q))
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], 0.04, weight_decay=0)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.arange(2, 130).reshape(2, 64)).logits.square().mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_begins_and_ends_as_a_quantized_model(made, tmp_path, changes):
    """Before training it computes what was read, bit for bit, and after training what is written."""
    folder, quantized, q = made(**changes)
    model = load_quantized(folder, quantized, q)
    reference = logits(model)
    make_trainable(model)
    assert torch.equal(logits(model), reference)

    model, out = trained_a_bit(folder, quantized, q), tmp_path / "out"
    out.mkdir()
    assert write(model, quantized, out) > 0.01
    found = logits(load_quantized(folder, out, q))
    assert torch.equal(found, logits(model))
    assert not torch.allclose(found, reference)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["groups", "channels", "rotated_mixed"])
def test_the_program_computes_what_was_trained(made, tmp_path, name):
    from et_pipeline.backends import get_backend
    from et_pipeline.models.decoder import Decoder, export_decoder, metadata
    from et_pipeline.runtime.program import Program
    from et_pipeline.settings import ExportForm

    folder, quantized, q = made(config={"num_hidden_layers": 1, "tie_word_embeddings": True}, **RECIPES[name])
    model, out = trained_a_bit(folder, quantized, q), tmp_path / "out"
    out.mkdir()
    write(model, quantized, out)
    tokens = torch.arange(2, 18).unsqueeze(0)
    with torch.no_grad():
        expected = model(tokens).logits[0, -1]
        before = load_quantized(folder, quantized, q)(tokens).logits[0, -1]
    decoder = Decoder(load_quantized(folder, out, q), ExportForm(max_context=64, prefill_chunk=16))
    get_backend("xnnpack").lower(export_decoder(decoder), metadata(decoder, 0, [1]), tmp_path / "model.pte")
    found = Program(tmp_path / "model.pte").forward(tokens, 0).flatten()
    near, far = (torch.nn.functional.cosine_similarity(each, expected, dim=0) for each in (found, before))
    assert near > 0.9999
    assert far < 0.999


@pytest.mark.parametrize("family", FAMILIES)
def test_families_keep_the_form_of_their_weights(made, tmp_path, family):
    folder, quantized, q = made(family, group_size=32)
    out = tmp_path / "out"
    out.mkdir()
    write(trained_a_bit(folder, quantized, q), quantized, out)
    before, after = (torch.load(path / "quantized-00000.pt", weights_only=True) for path in (quantized, out))
    assert list(before) == list(after)
    for name, was in before.items():
        now = after[name]
        if not isinstance(was, IntxUnpackedToInt8Tensor):
            assert now.dtype == was.dtype == torch.float32
            assert now.shape == was.shape
            continue
        assert [getattr(now, each) for each in now.tensor_attribute_names] == [
            getattr(was, each) for each in was.tensor_attribute_names
        ]
        assert now.qdata.dtype == torch.int8
        assert now.scale.dtype == was.scale.dtype
        assert torch.equal(now.zero_point, was.zero_point)
        if "embed" in name:
            assert torch.equal(now.qdata, was.qdata)
            assert torch.equal(now.scale, was.scale)
        else:
            assert now.scale.dtype == torch.bfloat16
            assert now.qdata.min() >= -8
            assert now.qdata.max() <= 7
            assert not torch.equal(now.qdata, was.qdata)
            assert not torch.equal(now.scale, was.scale)


def test_one_table_of_8_bits_stays_one(made, tmp_path):
    """A tied head that has the embedding's numbers lies in the program once."""
    folder, quantized, q = made(**RECIPES["mixed"])
    out = tmp_path / "out"
    out.mkdir()
    write(trained_a_bit(folder, quantized, q), quantized, out)
    weights = torch.load(out / "quantized-00000.pt", weights_only=True)
    assert torch.equal(weights["lm_head.weight"].qdata, weights["model.embed_tokens.weight"].qdata)


def test_untrained_weights_give_the_same_bytes(made, tmp_path):
    folder, quantized, q = made(group_size=32)
    model = make_trainable(load_quantized(folder, quantized, q))
    (tmp_path / "out").mkdir()
    assert write(model, quantized, tmp_path / "out") == 0
    first, again = ((tmp_path / name / "quantized-00000.pt").read_bytes() for name in ("quantized", "out"))
    assert first == again


def test_gradients_pass_the_rounding():
    steps = (torch.tensor([[-8.6, -8.6, 7.6, 7.6, 3.4, 0.6, 1.6, -8.0]]) / qat.UNIT).requires_grad_()
    scale, zero = torch.tensor([[2.0, 0.5]], requires_grad=True), torch.tensor([[0.0, 1.0]])
    found = qat._RoundedSteps.apply(steps, scale, zero)
    assert found.tolist() == [[-16, -16, 14, 14, 1, 0, 0.5, -4.5]]
    found.backward(torch.tensor([[1.0, -1, 1, -1, -1, 1, 1, 1]]))
    # Nothing goes on beyond the last integers; what is beyond them comes back.
    assert (steps.grad / qat.UNIT).tolist() == [[0, -2, 2, 0, -0.5, 0.5, 0.5, 0.5]]
    assert scale.grad.tolist() == [[0, -10]]


SCHEDULE = Schedule(steps=60, sequences=8, learning_rate=0.002)
SMALL = {"hidden_size": 32, "intermediate_size": 64, "head_dim": 16, "num_attention_heads": 2, "num_key_value_heads": 1}


def train(made, folder, schedule=SCHEDULE, tick=lambda *_: None):
    checkpoint, quantized, q, learned = made
    out, work = folder / "trained", folder / "work"
    for each in (out, work):
        each.mkdir(parents=True, exist_ok=True)
    return qat.train(checkpoint, quantized, q, checkpoint, learned, out, work, schedule, tick), out


@pytest.fixture
def toy(made):
    """A small model, plainly rounded, and texts for it."""
    generator = torch.Generator().manual_seed(1)
    learned = torch.randint(2, 256, (160, 32), generator=generator).tolist()
    return *made(config=SMALL | {"initializer_range": 0.2}, algorithm="rtn"), learned


def test_training_brings_a_model_nearer_to_its_original(toy, tmp_path):
    checkpoint, quantized, q, _ = toy
    ticks = []
    figures, out = train(toy, tmp_path, tick=lambda *at: ticks.append(at))
    assert [each[:2] for each in ticks] == sorted(each[:2] for each in ticks)
    assert ticks[-1][:2] == (160, 160)
    assert figures.after < figures.before
    assert figures.changed > 0
    assert figures.trained.steps == 60
    tokens = torch.randint(2, 256, (16, 32), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        original, before, after = (
            model(tokens).logits.flatten(0, 1)
            for model in (
                load_model(checkpoint),
                load_quantized(checkpoint, quantized, q),
                load_quantized(checkpoint, out, q),
            )
        )
    assert compare(after, original).kl < 0.85 * compare(before, original).kl


def test_a_killed_training_ends_with_the_same_bytes(toy, tmp_path):
    figures, whole = train(toy, tmp_path / "whole")
    assert figures.changed > 0

    class Killed(Exception):
        pass

    def kill(done, *_):
        if done == 100 + 41:
            raise Killed

    with pytest.raises(Killed):
        train(toy, tmp_path / "killed", tick=kill)
    again = []
    _, resumed = train(toy, tmp_path / "killed", tick=lambda *at: again.append(at[0]))
    assert again[0] > 130
    first, second = (path.joinpath("quantized-00000.pt").read_bytes() for path in (whole, resumed))
    assert first == second


def test_what_gets_worse_is_not_written(toy, tmp_path):
    figures, out = train(toy, tmp_path, Schedule(steps=4, sequences=8, learning_rate=0.8))
    assert (figures.before, figures.changed) == (figures.after, 0)
    read, written = (path.joinpath("quantized-00000.pt").read_bytes() for path in (toy[1], out))
    assert read == written


def test_mistakes(toy, tmp_path):
    checkpoint, quantized, q, learned = toy
    with pytest.raises(UserError, match=r"recipe.scheme=8da8w has no 4-bit weights to train; choose 8da4w or"):
        train((checkpoint, quantized, recipe(scheme="8da8w", algorithm="rtn"), learned), tmp_path)
    with pytest.raises(UserError, match="4 texts are too few to train with, as 4 are kept back; give more"):
        train((checkpoint, quantized, q, learned[:4]), tmp_path)

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

    def make(family="llama", **changes):
        folder = make_checkpoint(family, initializer_range=0.05, **FAMILIES[family])
        q = recipe(**changes)
        (tmp_path / "quantized").mkdir()
        quantize(folder, q, texts, tmp_path / "quantized")
        return folder, tmp_path / "quantized", q

    return make


def trained_a_bit(folder, quantized, q):
    """A model after a few updates of which many are large enough for an integer to change."""
    model = load_quantized(folder, quantized, q)
    make_trainable(model)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], 0.3, weight_decay=0)
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
        for each in ("scale", "zero_point"):
            assert getattr(now, each).dtype == getattr(was, each).dtype
            assert torch.equal(getattr(now, each), getattr(was, each))
        if "embed" in name:
            assert torch.equal(now.qdata, was.qdata)
        else:
            assert now.qdata.min() >= -8
            assert now.qdata.max() <= 7
            assert not torch.equal(now.qdata, was.qdata)


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
    model = load_quantized(folder, quantized, q)
    make_trainable(model)
    (tmp_path / "out").mkdir()
    assert write(model, quantized, tmp_path / "out") == 0
    first, again = ((tmp_path / name / "quantized-00000.pt").read_bytes() for name in ("quantized", "out"))
    assert first == again


def test_numbers_stay_where_they_can_come_back_from():
    steps = torch.tensor([[-8.6, -8.6, 7.6, 7.6, 7.4, 0.5, 1.5, -8.4]], requires_grad=True)
    scale, zero = torch.tensor([[2.0]]), torch.zeros(1, 1)
    found = qat._RoundedSteps.apply(steps, scale, zero)
    assert found.tolist() == [[-16, -16, 14, 14, 14, 0, 4, -16]]
    found.backward(torch.tensor([[1.0, -1, 1, -1, -1, 1, 1, 1]]))
    assert steps.grad.tolist() == [[0, -2, 2, 0, 0, 2, 2, 0]]


SCHEDULE = Schedule(steps=30, sequences=8, learning_rate=0.03)


def train(made, folder, schedule=SCHEDULE, tick=lambda *_: None):  # noqa: F811
    checkpoint, quantized, q, learned = made
    out, work = folder / "trained", folder / "work"
    for each in (out, work):
        each.mkdir(parents=True, exist_ok=True)
    return qat.train(checkpoint, quantized, q, learned, out, work, schedule, tick), out


@pytest.fixture
def toy(made):
    """A model whose own answers are its texts: it is random, and so are they."""
    generator = torch.Generator().manual_seed(1)
    return *made(group_size=0), torch.randint(2, 256, (64, 32), generator=generator).tolist()


def test_training_brings_a_model_nearer_to_its_original(toy, tmp_path):
    checkpoint, quantized, q, _ = toy
    ticks = []
    figures, out = train(toy, tmp_path, tick=lambda *at: ticks.append(at))
    assert ticks == sorted(ticks)
    assert ticks[-1] == (130, 130)
    assert figures.after < figures.before
    assert figures.changed > 0
    assert figures.trained.steps == 30
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
    assert compare(after, original).kl < 0.9 * compare(before, original).kl


def test_a_killed_training_ends_with_the_same_bytes(toy, tmp_path):
    _, whole = train(toy, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(done, steps):
        if done == 100 + 17:
            raise Killed

    with pytest.raises(Killed):
        train(toy, tmp_path / "killed", tick=kill)
    again = []
    _, resumed = train(toy, tmp_path / "killed", tick=lambda *at: again.append(at[0]))
    assert again[0] > 110
    first, second = (path.joinpath("quantized-00000.pt").read_bytes() for path in (whole, resumed))
    assert first == second


def test_what_gets_worse_is_not_written(toy, tmp_path):
    figures, out = train(toy, tmp_path, Schedule(steps=4, sequences=8, learning_rate=8.0))
    assert (figures.before, figures.changed) == (figures.after, 0)
    read, written = (path.joinpath("quantized-00000.pt").read_bytes() for path in (toy[1], out))
    assert read == written


def test_mistakes(toy, tmp_path):
    checkpoint, quantized, q, learned = toy
    with pytest.raises(UserError, match=r"recipe.scheme=8da8w has no 4-bit weights to train; choose 8da4w or"):
        train((checkpoint, quantized, recipe(scheme="8da8w", algorithm="rtn"), learned), tmp_path)
    with pytest.raises(UserError, match="4 texts are too few to train with, as 4 are kept back; give more"):
        train((checkpoint, quantized, q, learned[:4]), tmp_path)

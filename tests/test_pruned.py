"""What pruning leaves, by config.json alone: the tensors of the checkpoint that is made, and what fits a device."""

import pytest

from et_pipeline.adaptation.pruning import prune_depth, prune_width
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.errors import UserError
from et_pipeline.forecast import architecture_of, forecast, read_model
from et_pipeline.pruned import pruned_config
from et_pipeline.survey import read_adapted, sized
from tests.test_forecast import settings


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "phi3", "gemma3_text"])
@pytest.mark.parametrize(("kind", "prune"), [("prune_depth", prune_depth), ("prune_width", prune_width)])
@pytest.mark.parametrize("size", [0.9, 0.7])
def test_the_forecast_is_of_the_checkpoint_that_pruning_makes(family, kind, prune, size, make_checkpoint, tmp_path):
    folder = make_checkpoint(family, num_hidden_layers=6, tie_word_embeddings=True)
    texts = [list(range(3, 35))] * 2
    prune(folder, tmp_path, size, texts, lambda *_: None)
    where = str(folder)
    (tmp_path / "plan").mkdir()
    expected = architecture_of(Folder(tmp_path))
    config = pruned_config(Folder(folder).config, where, [kind], size)
    found = architecture_of_config(config)
    assert found.shapes == expected.shapes
    assert found.windows == expected.windows or kind == "prune_depth"  # which layers go is not known before
    assert (found.kv_heads, found.head_dim, found.layers) == (expected.kv_heads, expected.head_dim, expected.layers)


def architecture_of_config(config):
    from et_pipeline.architecture import read_architecture

    return read_architecture(config, "here")


def test_a_plan_is_of_the_model_that_is_left():
    whole, cut = settings("model=smollm3_3b"), settings("model=smollm3_3b", "adapt=[prune_depth,prune_width]")
    left = read_adapted(cut).parameters / read_model(whole.model).parameters
    assert 0.7 < left <= 0.75
    assert read_adapted(whole) == read_model(whole.model)


def fitting(*overrides):
    made = settings("adapt.size=device", *overrides)
    config = dict(made.model.architecture)
    return made, sized(made, config, "model.architecture")


PHONE = ("model=llama2_7b", "device=phone_6gb", "model.max_context=512")


@pytest.mark.parametrize("chain", ["prune_width", "prune_depth", "[prune_depth,prune_width]"])
def test_the_largest_share_that_fits_a_device(chain):
    made, adapt = fitting(f"adapt={chain}", *PHONE)
    assert 0 < adapt.size < 1
    plans = []
    for size in (adapt.size, adapt.size + 0.01):
        one = made.model_copy(update={"adapt": adapt.model_copy(update={"size": size})})
        plans.append(forecast(one, read_adapted(one), one.recipe, one.device))
    assert plans[0].fits
    assert not plans[1].fits


def test_a_model_that_fits_or_never_will_is_told_so():
    with pytest.raises(UserError, match=r"adapt\.size=device: the whole model fits .*; leave prune_width out of adapt"):
        fitting("adapt=prune_width", "model=smollm2_135m", "device=phone_6gb")
    with pytest.raises(UserError, match=r"device: the least that prune_width can leave takes .* GB, more than 4"):
        fitting("adapt=prune_width", "model=llama2_7b", "device=phone_4gb")
    made = settings("adapt.size=device", "model=smollm2_135m")  # nothing is pruned
    assert sized(made, {}, "nowhere") is made.adapt

"""Which model an adapter is for, and what is refused before anything is computed."""

import json

import pytest

from et_pipeline.checkpoints import adapter
from et_pipeline.checkpoints.place import Place
from et_pipeline.errors import UserError
from et_pipeline.settings import Checkpoint
from tests.make_adapter import write_adapter


@pytest.fixture
def base(make_checkpoint):
    return make_checkpoint("llama", num_hidden_layers=1)


def prepare(tmp_path, source, given=None):
    return adapter.prepare(Checkpoint(source=str(source), adapter=given and str(given)), 0, Place(tmp_path, tmp_path))


def change(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_an_adapter_beside_a_model_alone_and_in_one_folder_with_it(base, tmp_path):
    made = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    for found in (prepare(tmp_path, base, made), prepare(tmp_path, made), prepare(tmp_path, made, made)):
        assert (found.folder, found.adapter.path) == (base, made)
        assert found.checkpoint.source == str(base)
        assert found.checkpoint.adapter == str(made)
        assert "model.safetensors" in found.files
        assert found.adapter.hashes().keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert prepare(tmp_path, base).adapter is None
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (base / name).write_bytes((made / name).read_bytes())
    assert prepare(tmp_path, base).adapter is None  # a whole model: the adapter is asked for or not used
    assert prepare(tmp_path, base, base).adapter.path == base


def test_a_base_beside_the_adapter(base, tmp_path):
    made = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    (tmp_path / "model").symlink_to(base)
    change(made, base_model_name_or_path="model")
    assert prepare(tmp_path, made).folder.resolve() == base


def test_a_base_that_is_not_to_be_had(base, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    change(made, base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(UserError, match=rf"names .*gone as its base.*model\.adapter={made}"):
        prepare(tmp_path, made)
    change(made, base_model_name_or_path=None)
    with pytest.raises(UserError, match=r"does not name its base model; say it: model\.source="):
        prepare(tmp_path, made)
    assert prepare(tmp_path, base, made).folder == base


def test_two_adapters(base, tmp_path):
    one, other = (write_adapter(base, tmp_path / name, target_modules=["q_proj"]) for name in ("one", "other"))
    with pytest.raises(UserError, match=r"model\.source=.*one is an adapter, and model\.adapter=.*other another"):
        prepare(tmp_path, one, other)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "peft_type='PREFIX_TUNING'; adapters of LORA are merged"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    ],
)
def test_other_kinds(changes, sentence, base, tmp_path):
    made = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    change(made, **changes)
    for arguments in ((base, made), (made,)):
        with pytest.raises(UserError, match=sentence):
            prepare(tmp_path, *arguments)


def test_what_is_no_adapter(base, tmp_path):
    made = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    for given, sentence in ((base, "holds no adapter_config.json"), (tmp_path / "gone", "neither a folder, nor a")):
        with pytest.raises(UserError, match=sentence):
            prepare(tmp_path, base, given)
    weights = made / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(UserError, match="truncated"):
        prepare(tmp_path, base, made)
    weights.rename(made / "adapter_model.bin")
    with pytest.raises(UserError, match=r"adapter_model\.bin, a pickle, which can run any code"):
        prepare(tmp_path, base, made)
    (made / "adapter_model.bin").unlink()
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        prepare(tmp_path, base, made)
    (made / "adapter_config.json").write_text("[]")
    with pytest.raises(UserError, match="expected a JSON object"):
        prepare(tmp_path, base, made)


def test_an_adapter_from_the_hub(base, tmp_path, monkeypatch):
    """In the layout of the hub's cache, which is all that is needed offline."""
    from huggingface_hub import constants

    made = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    store = tmp_path / "hub" / "models--user--tuned"
    snapshot = store / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    made.rename(snapshot)
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert prepare(tmp_path, base, "user/tuned").adapter.path == snapshot.resolve()
    with pytest.raises(UserError, match=r"model\.adapter=user/other"):
        prepare(tmp_path, base, "user/other")

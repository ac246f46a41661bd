"""What lies in a checkpoint's folder, read once for all who ask."""

import copy
import json
import shutil
from pathlib import Path

import pytest

from et_pipeline import tiny_assistant
from et_pipeline.checkpoints import folder as folder_module
from et_pipeline.checkpoints import prequantized
from et_pipeline.checkpoints.facts import read_facts
from et_pipeline.checkpoints.files import unused_files
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.reader import prepare
from et_pipeline.checkpoints.skeleton import config_warnings
from et_pipeline.errors import UserError


def test_headers_and_files_are_read_once_whoever_asks(monkeypatch):
    seen = []

    def count(holder, name):
        does = getattr(holder, name)
        monkeypatch.setattr(holder, name, lambda *given: (seen.append(name), does(*given))[1])

    count(folder_module, "read_layout")
    count(folder_module, "put_right")
    count(prequantized, "find")
    folder = Folder(tiny_assistant.CHECKPOINT)
    assert read_facts(folder).parameters
    assert prepare(folder).modules
    assert unused_files(folder) == config_warnings(folder) == []
    assert sorted(seen) == ["find", "put_right", "read_layout"]
    assert folder.tokenizer is folder.tokenizer


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_who_builds_a_model_of_the_config_leaves_it_as_it_is(make_checkpoint, family):
    folder = Folder(make_checkpoint(family, num_hidden_layers=1))
    before = copy.deepcopy(folder.config)
    prepare(folder)
    config_warnings(folder)
    assert folder.config == before
    assert set(folder.contents.layout) == set(folder.layout)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(("text", "sentence"), [("{", "is not valid JSON"), ("[1]", "holds a list, expected a JSON")])
def test_a_broken_file_is_one_sentence(name, text, sentence, tmp_path):
    folder = Path(shutil.copytree(tiny_assistant.CHECKPOINT, tmp_path / "model"))
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=f"{name} {sentence}") as caught:
        read_facts(Folder(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (None, None),
        ("", None),
        ("license: mit\n", None),
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlanguage: en\nlicense:  apache-2.0 \n", "apache-2.0"),
        ("---\nlanguage: en\n---\nlicense: mit\n", None),
    ],
)
def test_the_licence_is_the_model_cards(card, licence, tmp_path):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert Folder(tmp_path).licence == licence


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json: point model\.source at a checkpoint folder"):
        _ = Folder(tmp_path).config
    (tmp_path / "config.json").write_text(json.dumps(None))
    with pytest.raises(UserError, match=r"config\.json holds a NoneType, expected a JSON object"):
        _ = Folder(tmp_path).config

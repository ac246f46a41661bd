"""What sentence-transformers' files say about pooling."""

import json

import pytest

from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.pooling import check_case, prompt_warnings, read_max_tokens, read_pooling
from et_pipeline.errors import UserError
from et_pipeline.models.pooling import Pooling

MINILM = {
    "word_embedding_dimension": 384,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
}


def modules(*kinds):
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    return [
        {"idx": number, "name": str(number), "path": paths.get(kind, f"{number}_{kind}"), "type": f"models.{kind}"}
        for number, kind in enumerate(kinds)
    ]


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path

    return write


def test_all_minilm(write):
    write("modules.json", modules("Transformer", "Pooling", "Normalize"))
    write("1_Pooling/config.json", MINILM)
    folder = write("sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False})
    assert read_pooling(Folder(folder)) == Pooling(mode="mean", normalised=True)
    assert read_max_tokens(Folder(folder)) == 256


def test_without_files_it_is_the_mean(tmp_path):
    assert read_pooling(Folder(tmp_path)) == Pooling(mode="mean", normalised=True)
    assert read_max_tokens(Folder(tmp_path)) is None


def test_first_token_without_length_1(write):
    write("modules.json", modules("Transformer", "Pooling"))
    changed = {**MINILM, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    assert read_pooling(Folder(write("1_Pooling/config.json", changed))) == Pooling(mode="cls", normalised=False)


def test_newer_files_name_the_mode(write):
    assert read_pooling(Folder(write("1_Pooling/config.json", {"pooling_mode": "cls"}))).mode == "cls"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("1_Pooling/config.json", {**MINILM, "pooling_mode_max_tokens": True}, "mean and pooling_mode_max_tokens"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "asks for lasttoken; mean and cls are supported"),
        ("1_Pooling/config.json", {}, "asks for no pooling"),
        ("1_Pooling/config.json", [], "holds a list"),
        ("1_Pooling/config.json", "{", "is not valid JSON"),
        ("modules.json", modules("Transformer", "Pooling", "Dense", "Normalize"), "lists Transformer, Pooling, Dense"),
        ("modules.json", modules("WordEmbeddings"), "lists WordEmbeddings; Transformer, Pooling, Normalize"),
        ("modules.json", [{**each, "path": "x"} for each in modules("Transformer", "Pooling")], "its pooling in 'x'"),
        ("modules.json", {"a": 1}, "is not a list of sentence-transformers modules"),
        ("modules.json", [], "lists nothing"),
    ],
)
def test_what_is_not_supported_is_one_sentence(write, name, content, sentence):
    folder = write(name, content)
    with pytest.raises(UserError, match=sentence) as caught:
        read_pooling(Folder(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("longest", [0, "256", True])
def test_a_wrong_longest_text(write, longest):
    folder = write("sentence_bert_config.json", {"max_seq_length": longest})
    with pytest.raises(UserError, match="max_seq_length"):
        read_max_tokens(Folder(folder))


@pytest.mark.parametrize(
    "normalizer",
    [
        {"type": "Lowercase"},
        {"type": "BertNormalizer", "lowercase": True},
        {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
    ],
)
def test_a_text_that_is_to_be_lowercased_is_by_its_tokenizer(normalizer, write):
    folder = write("sentence_bert_config.json", {"do_lower_case": True})
    check_case(Folder(folder), normalizer)
    for other in (None, {"type": "NFC"}, {"type": "BertNormalizer", "lowercase": False}):
        with pytest.raises(UserError, match=r"has do_lower_case=True, and the normalizer of tokenizer\.json does not"):
            check_case(Folder(folder), other)
    check_case(Folder(write("sentence_bert_config.json", {"do_lower_case": False})), None)


def test_prompts_are_said(write):
    folder = write("config_sentence_transformers.json", {"prompts": {"query": "query: ", "document": ""}})
    (warning,) = prompt_warnings(Folder(folder))
    assert "has prompts (query: 'query: '); whoever wants one puts it before the text" in warning
    write("config_sentence_transformers.json", {"prompts": {"query": "q: "}, "default_prompt_name": "query"})
    (warning,) = prompt_warnings(Folder(folder))
    assert "of which sentence-transformers puts 'query' before each text; here the caller does" in warning
    write("1_Pooling/config.json", {**MINILM, "include_prompt": False})
    with pytest.raises(UserError, match="include_prompt=false: to leave a prompt's tokens out"):
        read_pooling(Folder(folder))
    write("config_sentence_transformers.json", {"prompts": {"query": ""}, "default_prompt_name": None})
    assert prompt_warnings(Folder(folder)) == []
    assert read_pooling(Folder(folder)).mode == "mean"


def test_where_sentence_transformers_says_nothing_the_tokenizer_names_the_longest_text(write):
    folder = write("tokenizer_config.json", {"model_max_length": 16})
    assert read_max_tokens(Folder(folder)) == 16
    assert read_max_tokens(Folder(write("tokenizer_config.json", {"model_max_length": 10**30}))) is None
    assert read_max_tokens(Folder(write("sentence_bert_config.json", {"max_seq_length": 32}))) == 32


def test_a_part_of_the_numbers_is_refused(write):
    with pytest.raises(UserError, match="truncate_dim=8: to give a part of the numbers only is not supported"):
        prompt_warnings(Folder(write("config_sentence_transformers.json", {"truncate_dim": 8})))

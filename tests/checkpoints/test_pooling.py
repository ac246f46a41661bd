"""What sentence-transformers' files say about pooling."""

import json

import pytest

from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.pooling import check_case, read_max_tokens, read_pooling, read_usage
from et_pipeline.errors import UserError
from et_pipeline.models.pooling import Dense, Pooling

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
    assert read_pooling(Folder(write("1_Pooling/config.json", {"pooling_mode": "lasttoken"}))).mode == "lasttoken"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("1_Pooling/config.json", {**MINILM, "pooling_mode_max_tokens": True}, "mean and pooling_mode_max_tokens"),
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "asks for max; mean, cls and lasttoken are supported"),
        ("1_Pooling/config.json", {}, "asks for no pooling"),
        ("1_Pooling/config.json", [], "holds a list"),
        ("1_Pooling/config.json", "{", "is not valid JSON"),
        ("modules.json", modules("Transformer", "Pooling", "Normalize", "Dense"), "lists Transformer, Pooling, Norm"),
        ("modules.json", modules("Transformer", "Pooling", "LayerNorm"), "lists Transformer, Pooling, LayerNorm; "),
        ("modules.json", modules("WordEmbeddings"), "lists WordEmbeddings; Transformer, Pooling, any number of Dense"),
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


CONFIG = {"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 12, "vocab_size": 9}


@pytest.fixture
def bert(write):
    return write("config.json", {**CONFIG, "max_position_embeddings": 64})


def test_prompts_are_read(write, bert):
    write("config_sentence_transformers.json", {"prompts": {"query": "query: ", "document": ""}})
    assert read_usage(Folder(bert)) == ({"query": "query: ", "document": ""}, None, ())
    write("config_sentence_transformers.json", {"prompts": {"query": "q: "}, "default_prompt_name": "query"})
    assert read_usage(Folder(bert)).default == "query"
    write("1_Pooling/config.json", {**MINILM, "include_prompt": False})
    with pytest.raises(UserError, match="include_prompt=false: to leave a prompt's tokens out"):
        read_usage(Folder(bert))
    write("config_sentence_transformers.json", {"prompts": {"query": ""}, "default_prompt_name": None})
    assert read_usage(Folder(bert)).prompts == {"query": ""}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"prompts": ["query: "]}, r"has prompts=\['query: '\], expected texts by name"),
        ({"prompts": {"query": 1}}, "expected texts by name"),
        ({"prompts": {"query": "q: "}, "default_prompt_name": "ask"}, "default_prompt_name='ask', and its prompts"),
        ({"truncate_dim": "all"}, "has truncate_dim='all', expected sizes of at most 384"),
        ({"truncate_dim": 385}, "has truncate_dim=385, expected sizes of at most 384"),
    ],
)
def test_what_is_wrong_with_prompts_is_one_sentence(content, sentence, write, bert):
    write("config_sentence_transformers.json", content)
    with pytest.raises(UserError, match=sentence):
        read_usage(Folder(bert))


def test_shorter_lengths_are_read_where_a_file_says_them(write, bert):
    assert read_usage(Folder(bert)).dimensions == ()
    write("config_sentence_transformers.json", {"truncate_dim": 8})
    assert read_usage(Folder(bert)).dimensions == (8,)
    write("config.json", {**CONFIG, "max_position_embeddings": 64, "matryoshka_dimensions": [64, 128, 384]})
    assert read_usage(Folder(bert)).dimensions == (128, 64, 8)


IDENTITY = "torch.nn.modules.linear.Identity"
DENSE = {"in_features": 384, "out_features": 96, "bias": False, "activation_function": IDENTITY}


def test_linear_layers_behind_the_pooling(write):
    folder = write("modules.json", modules("Transformer", "Pooling", "Dense", "Dense", "Normalize"))
    write("2_Dense/config.json", DENSE)
    write("3_Dense/config.json", {"in_features": 96, "out_features": 32})
    pooling = read_pooling(Folder(folder))
    first = Dense(folder="2_Dense", inputs=384, outputs=96, bias=False, activation="identity")
    assert pooling.dense == (first, Dense(folder="3_Dense", inputs=96, outputs=32, bias=True, activation="tanh"))
    assert (pooling.dimension(384), pooling.normalised) == (32, True)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"activation_function": "os.system"}, "has activation_function='os.system'; identity, tanh"),
        ({"use_residual": True}, "has use_residual=True, and only False is supported"),
        ({"module_input_name": "token_embeddings"}, "has module_input_name='token_embeddings', and only"),
        ({"module_output_name": "other"}, "has module_output_name='other'"),
        ({"in_features": None}, "does not describe a linear layer: Input should be a valid integer"),
    ],
)
def test_a_linear_layer_of_another_kind_is_one_sentence(changes, sentence, write):
    folder = write("modules.json", modules("Transformer", "Pooling", "Dense"))
    write("2_Dense/config.json", DENSE | changes)
    with pytest.raises(UserError, match=sentence) as caught:
        read_pooling(Folder(folder))
    assert "\n" not in str(caught.value)


def test_where_sentence_transformers_says_nothing_the_tokenizer_names_the_longest_text(write):
    folder = write("tokenizer_config.json", {"model_max_length": 16})
    assert read_max_tokens(Folder(folder)) == 16
    assert read_max_tokens(Folder(write("tokenizer_config.json", {"model_max_length": 10**30}))) is None
    assert read_max_tokens(Folder(write("sentence_bert_config.json", {"max_seq_length": 32}))) == 32

import itertools

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from et_pipeline import tiny_assistant
from et_pipeline.checkpoints.facts import read_facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.errors import UserError
from et_pipeline.evaluation import own_text
from et_pipeline.evaluation.calibration import sequences
from et_pipeline.models.pooling import Pooling
from et_pipeline.settings import Calibration


def calibration(source="builtin:tiny_assistant", tokens=100):
    return Calibration(source=str(source), tokens=tokens)


@pytest.fixture(scope="module")
def model():
    return read_facts(Folder(tiny_assistant.CHECKPOINT)), Folder(tiny_assistant.CHECKPOINT).tokenizer


def test_the_budget_is_kept_and_the_text_is_always_the_same(model):
    found = sequences(calibration(tokens=250), None, *model, longest=40)
    assert sum(map(len, found)) == 250
    assert max(map(len, found)) <= 40
    assert found == sequences(calibration(tokens=250), None, *model, longest=40)


def test_paragraphs_of_a_file_are_texts(model, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("One short note.\n\n\n  Another one, with Umläute.  \n")
    facts, tokenizer = model
    texts = ["One short note.", "Another one, with Umläute."]
    expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    total = sum(map(len, expected))
    assert sequences(calibration(path, total), path, facts, tokenizer, longest=64) == expected
    cut = sequences(calibration(path, total - 1), path, facts, tokenizer, longest=64)
    assert list(itertools.chain(*cut)) == list(itertools.chain(*expected))[:-1]


def test_an_encoder_gets_special_tokens_and_texts_of_every_length(model):
    facts, tokenizer = model
    ids = [tokenizer.token_to_id(name) for name in ("<|begin|>", "<|end|>")]
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A <|end|>", special_tokens=[("<|begin|>", ids[0]), ("<|end|>", ids[1])]
    )
    encoder = facts.model_copy(update={"pooling": Pooling()})
    *texts, empty, longest = sequences(calibration(tokens=250), None, encoder, tokenizer, longest=600)
    assert sum(map(len, texts)) == 250
    assert {text[0] for text in texts} == {ids[0]}
    assert empty == ids
    assert (len(longest), longest[0], longest[-1]) == (600, *ids)


def test_too_little_text_is_refused(model, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("One short note.")
    with pytest.raises(UserError, match=r"has \d+ tokens, and recipe.calibration.tokens=100 asks for more"):
        sequences(calibration(path), path, *model, longest=64)


def test_a_long_text_goes_on_in_the_next_sequence(model, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("The train to Lyon leaves from platform four. " * 30)
    facts, tokenizer = model
    whole = tokenizer.encode(path.read_text().strip(), add_special_tokens=False).ids
    found = sequences(calibration(path, len(whole)), path, facts, tokenizer, longest=64)
    assert {len(ids) for ids in found[:-1]} == {64}
    assert list(itertools.chain(*found)) == whole


def test_rows_of_a_data_set_are_texts(model, tmp_path):
    from pyarrow import parquet, table

    facts, tokenizer = model
    parquet.write_table(
        table({"text": ["", "One row, which is long enough.", None, "Another\n\nof two parts."]}),
        tmp_path / "test.parquet",
    )
    expected = [
        tokenizer.encode(text, add_special_tokens=False).ids
        for text in ("One row, which is long enough.", "Another", "of two parts.")
    ]
    asked = calibration("hub:someone/texts", sum(map(len, expected)))
    assert sequences(asked, tmp_path, facts, tokenizer, longest=64) == expected
    parquet.write_table(table({"words": ["One row, which is long enough."]}), tmp_path / "test.parquet")
    with pytest.raises(UserError, match="hub:someone/texts has no column 'text', only words"):
        sequences(asked, tmp_path, facts, tokenizer, longest=64)
    (tmp_path / "test.parquet").write_text("no Parquet")
    with pytest.raises(UserError, match=r"test.parquet is not a readable Parquet file"):
        sequences(asked, tmp_path, facts, tokenizer, longest=64)


def test_the_models_own_answers_make_sequences_of_one_length(model, tmp_path):
    answers = [list(range(10)), list(range(20, 60)), list(range(70, 80))]
    own_text.write([own_text.Conversation(ids, 4) for ids in answers], tmp_path)
    ids = list(itertools.chain(*answers))
    assert sequences(calibration("own", 100), tmp_path, *model, longest=25) == [ids[:25], ids[25:50]]
    assert sequences(calibration("own", 30), tmp_path, *model, longest=25) == [ids[:25]]
    assert sequences(calibration("own", 30), tmp_path, *model, longest=512) == [ids[:30]]


def test_an_encoder_calibrates_with_what_others_would_be_asked(model):
    facts, tokenizer = model
    encoder = facts.model_copy(update={"pooling": Pooling()})
    found = sequences(calibration("own", 1024), None, encoder, Tokenizer.from_str(tokenizer.to_str()), longest=128)
    assert sum(map(len, found)) >= 1024
    assert max(map(len, found)) > 60

import itertools

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from et_pipeline import tiny_assistant
from et_pipeline.errors import UserError
from et_pipeline.evaluation.calibration import check_source, sequences
from et_pipeline.models.facts import read_facts, read_tokenizer
from et_pipeline.models.pooling import Pooling
from et_pipeline.settings import Calibration


def calibration(source="builtin:tiny_assistant", tokens=100):
    return Calibration(source=str(source), tokens=tokens)


@pytest.fixture(scope="module")
def model():
    return read_facts(tiny_assistant.CHECKPOINT), read_tokenizer(tiny_assistant.CHECKPOINT)


def test_the_budget_is_kept_and_the_text_is_always_the_same(model):
    found = sequences(calibration(tokens=250), *model, longest=40)
    assert sum(map(len, found)) == 250
    assert max(map(len, found)) <= 40
    assert found == sequences(calibration(tokens=250), *model, longest=40)


def test_paragraphs_of_a_file_are_texts(model, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("One short note.\n\n\n  Another one, with Umläute.  \n")
    facts, tokenizer = model
    texts = ["One short note.", "Another one, with Umläute."]
    expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    total = sum(map(len, expected))
    assert sequences(calibration(path, total), facts, tokenizer, longest=64) == expected
    cut = sequences(calibration(path, total - 1), facts, tokenizer, longest=64)
    assert list(itertools.chain(*cut)) == list(itertools.chain(*expected))[:-1]


def test_an_encoder_gets_special_tokens_and_texts_of_every_length(model):
    facts, tokenizer = model
    ids = [tokenizer.token_to_id(name) for name in ("<|begin|>", "<|end|>")]
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A <|end|>", special_tokens=[("<|begin|>", ids[0]), ("<|end|>", ids[1])]
    )
    encoder = facts.model_copy(update={"pooling": Pooling()})
    *texts, empty, longest = sequences(calibration(tokens=250), encoder, tokenizer, longest=600)
    assert sum(map(len, texts)) == 250
    assert {text[0] for text in texts} == {ids[0]}
    assert empty == ids
    assert (len(longest), longest[0], longest[-1]) == (600, *ids)


def test_too_little_text_is_refused(model, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("One short note.")
    with pytest.raises(UserError, match=r"has \d+ tokens, and recipe.calibration.tokens=100 asks for more"):
        sequences(calibration(path), *model, longest=64)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "is empty"), (b" \n\n \n", "is empty"), (b"\xff\xfe\x00", "not a text file"), (b"a\0b", "binary file")],
)
def test_what_is_no_text_is_refused(tmp_path, content, sentence):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        check_source(calibration(path))


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        check_source(calibration(tmp_path / "none.txt"))
    with pytest.raises(UserError, match="builtin:other does not exist; choose from tiny_assistant"):
        check_source(calibration("builtin:other"))

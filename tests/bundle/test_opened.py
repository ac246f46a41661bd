"""The model of an opened bundle at work, on a program that stands in for the runtime's."""

import logging

import numpy as np
import pytest
from made_bundle import CHATML, EchoProgram, EmbeddingProgram, byte_tokenizer, make_bundle, make_embedding_manifest
from made_bundle import write_files as write_bundle_files

import et_pipeline
from et_pipeline import manifest
from et_pipeline.bundle import write_zip
from et_pipeline.chat_template import Thinking
from et_pipeline.runtime import program

TALK = (
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Who are you?"},
)


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "Program", EchoProgram)
    return et_pipeline.open_bundle(make_bundle(tmp_path / "tiny"))


@pytest.fixture
def vectors(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "Program", EmbeddingProgram)
    write_bundle_files(tmp_path / "vectors")
    manifest.write(make_embedding_manifest(manifest.describe_files(tmp_path / "vectors")), tmp_path / "vectors")
    return et_pipeline.open_bundle(tmp_path / "vectors")


def fed(bundle):
    return byte_tokenizer().decode(bundle.program.prefilled[-1], skip_special_tokens=False)


def test_a_message_is_answered_with_the_bundles_own_system_prompt(bundle):
    assert bundle.chat("Hi") == "".join(bundle.stream("Hi")).strip()
    assert bundle.chat("Hi").startswith("I read ")
    assert "Be brief." in fed(bundle)


def test_a_conversation_is_fed_as_its_template_says(bundle):
    bundle.chat(TALK)
    assert fed(bundle) == CHATML.render(TALK)


def test_a_model_thinks_or_not_where_its_template_has_a_switch(bundle):
    with pytest.raises(et_pipeline.UserError, match="has no switch for thinking"):
        bundle.session(thinking=False)
    other = CHATML.model_copy(update={"user_to_assistant": CHATML.user_to_assistant + "<think></think>"})
    switch = bundle.manifest.chat.model_copy(update={"thinking": Thinking(default=True, other=other)})
    bundle.manifest = bundle.manifest.model_copy(update={"chat": switch})
    for thinks, expected in ((None, CHATML), (True, CHATML), (False, other)):
        "".join(bundle.session(thinking=thinks, system="Be kind.").ask("Hi"))
        assert fed(bundle) == expected.render([TALK[0], TALK[1]])


def test_a_longest_answer_is_kept_to(bundle):
    assert len(bundle.chat("Hi", max_new_tokens=3)) == 3


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([], "take turns"),
        (TALK[:3], "take turns and the user comes last, got user, assistant"),
        ([TALK[1], TALK[3]], "take turns"),
        (" ", "blank"),
        ("x" * 600, "too long for the model"),
    ],
)
def test_what_cannot_be_answered(bundle, messages, sentence):
    with pytest.raises(et_pipeline.UserError, match=sentence):
        bundle.chat(messages)


def test_a_conversation_ends_when_another_one_takes_the_program(bundle):
    session = bundle.session()
    first = "".join(session.ask("Hi"))
    bundle.chat("Something else")
    with pytest.raises(et_pipeline.UserError, match="give its history"):
        next(session.ask("And now?"))
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": first}]
    assert "".join(bundle.session(history=history).ask("And now?")).startswith("I read ")
    assert first in fed(bundle)


def test_texts_become_an_array_and_a_cut_is_told(vectors, caplog):
    with caplog.at_level(logging.WARNING):
        found = vectors.embed(["a", "bb", "c" * 100])
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 1], [2, 1], [64, 1]]
    assert caplog.messages == ["Text 3 has 100 tokens, and what follows the first 64 was left out."]


@pytest.fixture
def prompted(vectors):
    """The same with prompts, one of which goes before a text of which nothing is said, and a shorter length."""
    usage = {"prompts": {"query": "ask: ", "document": ""}, "default_prompt": "query", "dimensions": [1]}
    embedding = vectors.manifest.embedding.model_copy(update=usage)
    vectors.manifest = vectors.manifest.model_copy(update={"embedding": embedding})
    return vectors


def test_a_prompt_goes_before_each_text(prompted):
    assert prompted.embed(["a"]).tolist() == [[6, 1]]
    assert prompted.embed(["a"], prompt="query").tolist() == [[6, 1]]
    assert prompted.embed(["a"], prompt="document").tolist() == [[1, 1]]
    assert prompted.embed(["a"], prompt="").tolist() == [[1, 1]]
    with pytest.raises(et_pipeline.UserError, match=r"has no prompt 'title': it has query, document\."):
        prompted.embed(["a"], prompt="title")


def test_a_shorter_vector_is_given_length_1_again(prompted):
    assert prompted.embed(["aaa"], dimension=1).tolist() == [[1]]
    assert prompted.embed(["aaa"], prompt="", dimension=2).tolist() == [[3, 1]]
    with pytest.raises(et_pipeline.UserError, match=r"have 2, 1 numbers, and not 3\."):
        prompted.embed(["a"], dimension=3)


def test_a_bundle_without_prompts_and_lengths_says_so(vectors):
    assert vectors.embed(["a"], prompt="").tolist() == [[1, 1]]
    with pytest.raises(et_pipeline.UserError, match=r"has no prompt 'query': it has none\."):
        vectors.embed(["a"], prompt="query")
    with pytest.raises(et_pipeline.UserError, match=r"have 2 numbers, and not 1\."):
        vectors.embed(["a"], dimension=1)


def test_each_kind_of_bundle_refuses_the_others_work(bundle, vectors):
    with pytest.raises(et_pipeline.UserError, match="does not embed"):
        bundle.embed(["a"])
    with pytest.raises(et_pipeline.UserError, match="cannot chat"):
        vectors.chat("Hi")


def test_verification_says_what_failed(bundle, tmp_path):
    assert bundle.verify().passed
    wrong = [sample.model_copy(update={"answer": "No."}) for sample in bundle.manifest.samples]
    found = et_pipeline.open_bundle(make_bundle(tmp_path / "wrong", samples=wrong)).verify()
    assert [check.name for check in found.failed] == ["sample answers of model.pte"]


def test_a_zip_is_there_until_it_is_closed(bundle, tmp_path):
    write_zip(bundle.folder, tmp_path / "tiny.zip")
    with et_pipeline.open_bundle(str(tmp_path / "tiny.zip")) as opened:
        assert opened.chat("Hi") == bundle.chat("Hi")
        assert opened.folder.is_dir()
    assert not opened.folder.exists()

"""The phone's tokenizer against Hugging Face's over the corpus: real tokenizers as a bundle has them, and each mend."""

import json
import unicodedata

import pytest
import real
from pytorch_tokenizers import CppHFTokenizer
from tokenizers import Tokenizer

from et_pipeline import tiny_assistant
from et_pipeline.checkpoints.tokenizer import FORMS, mend, normalize, piece, save
from et_pipeline.checkpoints.tokenizer_corpus import corpus
from et_pipeline.errors import UserError
from et_pipeline.runtime.chat import shown

BUILT_IN = tiny_assistant.CHECKPOINT / "tokenizer.json"
METASPACE = {"type": "Metaspace", "replacement": "▁", "split": False}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
SPACES = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
LLAMA = {"type": "Sequence", "decoders": [SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}, STRIP]}


def test_the_corpus_has_what_it_promises():
    texts = corpus()
    assert len(texts) == len(set(texts)) >= 500
    assert "" in texts
    assert max(map(len, texts)) == 10_000
    letters = {unicodedata.name(char).split()[0] for text in texts for char in text if char.isalpha()}
    assert len(letters) >= 30, letters
    assert any(text != unicodedata.normalize("NFC", text) for text in texts)
    assert any(text != unicodedata.normalize("NFD", text) for text in texts)
    assert any("\u200d" in text and "👩" in text for text in texts)
    assert all(any(chr(code) in text for text in texts) for code in range(32))
    assert any("a<|im_start|>b" in text for text in texts)
    assert {" " * 7, "\n" * 3, "\t" * 5} <= set(texts)


def differing(path, mended, tmp_path):
    """Texts of the corpus of which a bundle's file in the phone's tokenizer makes something else, and how many."""
    file = tmp_path / "shipped.json"
    save(mended.content, file)
    phone, original = CppHFTokenizer(), Tokenizer.from_file(str(path))
    phone.load(str(file))
    original.no_truncation()
    original.no_padding()
    wrong = []
    for text in corpus():
        ids = original.encode(text, add_special_tokens=False).ids
        found = list(phone.encode(normalize(text, mended.normalization), 0, 0))
        said = b"".join(piece(phone, token) for token in found).decode()
        given = (original.decode(ids, skip_special_tokens=False), normalize(text, mended.normalization))
        if found != ids or said.lstrip(" ") not in [each.lstrip(" ") for each in given]:
            wrong.append(text)
    return wrong


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "normalization", "mended"),
    [
        ("llama2", None, ["first space stays"]),
        ("llama3_1", None, []),
        ("gemma3", None, ["tokens of several spaces or lines come from merges"]),
        ("qwen3", "NFC", ["NFC is left to the caller"]),
        ("gptoss", None, []),
    ],
)
def test_published_tokenizers_are_the_same_on_phones(name, normalization, mended, tmp_path):
    path = real.tokenizer(name) / "tokenizer.json"
    found = mend(path, 1 << 20, tmp_path)
    assert found.normalization == normalization
    assert len(found.sentences) == len(mended)
    assert all(part in sentence for part, sentence in zip(mended, found.sentences, strict=True))
    assert found.strings == len(corpus())
    assert differing(path, found, tmp_path) == []


@pytest.mark.real
@pytest.mark.slow
def test_as_they_are_two_of_them_are_not(tmp_path):
    """What the mends are for; once upstream is right they can go."""
    for name, least in (("gemma3", 100), ("qwen3", 100)):
        path = real.tokenizer(name) / "tokenizer.json"
        phone, original = CppHFTokenizer(), Tokenizer.from_file(str(path))
        phone.load(str(path))
        wrong = [t for t in corpus() if list(phone.encode(t, 0, 0)) != original.encode(t, add_special_tokens=False).ids]
        assert len(wrong) > least


def test_the_built_in_tokenizer_is_left_alone(tmp_path):
    found = mend(BUILT_IN, 2048, tmp_path)
    assert (found.normalization, found.sentences) == (None, [])
    assert differing(BUILT_IN, found, tmp_path) == []


def changed(path, out, **parts):
    content = json.loads(path.read_text(encoding="utf-8")) | parts
    file = out / "original.json"
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return file


CUT = {"direction": "Right", "max_length": 24, "strategy": "LongestFirst", "stride": 0}
FILL = {"strategy": {"Fixed": 32}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}


@pytest.mark.parametrize("blocks", [{"truncation": CUT}, {"padding": FILL | {"pad_token": "<pad>"}}])
def test_truncation_and_padding_are_cleared(blocks, tmp_path):
    path = changed(BUILT_IN, tmp_path, **blocks)
    found = mend(path, 2048, tmp_path)
    assert (found.content["truncation"], found.content["padding"]) == (None, None)
    assert str(*blocks) in found.sentences[0]
    save(found.content, tmp_path / "shipped.json")
    again = Tokenizer.from_file(str(tmp_path / "shipped.json"))
    assert len(again.encode("one word after another " * 20).ids) > 40
    assert len(again.encode("a").ids) == 1


@pytest.mark.parametrize("form", FORMS)
def test_a_normalizer_is_left_to_the_caller(form, tmp_path):
    path = changed(BUILT_IN, tmp_path, normalizer={"type": form})
    found = mend(path, 2048, tmp_path)
    assert found.normalization == form
    assert found.content["normalizer"] is None
    assert differing(path, found, tmp_path) == []


@pytest.mark.real
@pytest.mark.parametrize("decoder", [LLAMA, METASPACE | {"prepend_scheme": "always"}])
@pytest.mark.parametrize("scheme", ["always", "never"])
def test_metaspace_is_written_as_llama_2_has_it(scheme, decoder, tmp_path):
    llama2 = real.tokenizer("llama2") / "tokenizer.json"
    split = METASPACE | {"prepend_scheme": scheme}
    path = changed(llama2, tmp_path, normalizer=None, pre_tokenizer=split, decoder=decoder)
    with pytest.raises(RuntimeError):
        CppHFTokenizer().load(str(path))
    found = mend(path, 32000, tmp_path)
    assert any("not by Metaspace" in sentence for sentence in found.sentences)
    assert differing(path, found, tmp_path) == []


@pytest.mark.real
def test_a_mark_before_the_first_text_only(tmp_path):
    """Mistral's way: behind the special token that each conversation begins with there is none."""
    llama2 = real.tokenizer("llama2") / "tokenizer.json"
    split = METASPACE | {"prepend_scheme": "first"}
    path = changed(llama2, tmp_path, normalizer=None, pre_tokenizer=split, decoder=LLAMA)
    original = Tokenizer.from_file(str(path))
    for lead in ("<s>[INST] ", ""):
        found = mend(path, 32000, tmp_path, lead)
        save(found.content, tmp_path / "shipped.json")
        phone = CppHFTokenizer()
        phone.load(str(tmp_path / "shipped.json"))
        for text in ("Hello there", "  two  ", "déjà vu\n\n  x"):
            expected = original.encode(lead + text, add_special_tokens=False).ids
            assert list(phone.encode(lead + text, 0, 0)) == expected


def test_a_token_that_the_model_does_not_have_is_text(tmp_path):
    content = json.loads(BUILT_IN.read_text(encoding="utf-8"))
    token = {"id": 2048, "content": "<image>", "special": True, "normalized": False}
    token |= {"single_word": False, "lstrip": False, "rstrip": False}
    path = changed(BUILT_IN, tmp_path, added_tokens=[*content["added_tokens"], token])
    found = mend(path, 2048, tmp_path)
    assert "<image>, which the model does not have" in found.sentences[0]
    save(found.content, tmp_path / "shipped.json")
    phone = CppHFTokenizer()
    phone.load(str(tmp_path / "shipped.json"))
    assert max(phone.encode("a <image> b", 0, 0)) < 2048


@pytest.mark.real
@pytest.mark.parametrize("text", ["é", "模", "🙂", "e\u0301"])
def test_bytes_of_a_character_are_put_together(text, tmp_path):
    """Tokens that stand for bytes, which a model says one by one: whole characters, in both libraries."""
    metaspace = METASPACE | {"prepend_scheme": "always"}
    decoder = {"type": "Sequence", "decoders": [metaspace, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    path = changed(real.tokenizer("llama2") / "tokenizer.json", tmp_path, decoder=decoder)
    found = mend(path, 32000, tmp_path)
    assert found.sentences == ["bytes of a character are put together after all else"]
    save(found.content, tmp_path / "shipped.json")
    phone, again = CppHFTokenizer(), Tokenizer.from_file(str(tmp_path / "shipped.json"))
    phone.load(str(tmp_path / "shipped.json"))
    ids = [again.token_to_id(f"<0x{byte:02X}>") for byte in text.encode()]
    assert b"".join(piece(phone, token) for token in ids).decode() == again.decode(ids) == text
    seen = [shown(again.decode(ids[: count + 1]), ())[0] for count in range(len(ids))]
    assert seen[-1] == text
    assert "\ufffd" not in "".join(seen)


def test_bytes_that_the_last_step_takes_for_characters_are_refused(tmp_path):
    """The runtime ends with `invalid character` at the first of them."""
    content = json.loads(BUILT_IN.read_text(encoding="utf-8"))
    size = len(content["model"]["vocab"])
    vocabulary = content["model"]["vocab"] | {f"<0x{byte:02X}>": size + byte for byte in range(256)}
    decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, content["decoder"]]}
    path = changed(BUILT_IN, tmp_path, model=content["model"] | {"vocab": vocabulary}, decoder=decoder)
    phone = CppHFTokenizer()
    phone.load(str(path))
    with pytest.raises(ValueError, match="invalid character"):
        phone.decode(size + 0xC3)
    with pytest.raises(UserError, match=r"becomes <0xC3><0xA9> and not é"):
        mend(path, size + 256, tmp_path)


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"model": {"type": "WordLevel", "vocab": {"a": 0, "<unk>": 1}, "unk_token": "<unk>"}},
    ],
)
def test_what_cannot_be_mended_is_refused_with_texts(parts, tmp_path):
    path = changed(BUILT_IN, tmp_path, **parts)
    with pytest.raises(UserError, match=r"pytorch_tokenizers .* of \d+ texts: .* becomes .* and not") as caught:
        mend(path, 2048, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_merge_that_is_lost_is_noticed(tmp_path, monkeypatch):
    """The comparison is with the original, so a wrong mend does not pass."""
    monkeypatch.setattr(
        "et_pipeline.checkpoints.tokenizer._without_blocks",
        lambda content: ({**content, "model": content["model"] | {"merges": content["model"]["merges"][:-200]}}, []),
    )
    with pytest.raises(UserError, match="makes something else"):
        mend(BUILT_IN, 2048, tmp_path)

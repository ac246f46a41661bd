"""The phone's tokenizer against Hugging Face's over the corpus: real tokenizers as a bundle has them, and each mend."""

import base64
import json
import re
import struct
import sys
import unicodedata
from functools import partial
from itertools import pairwise

import pytest
import real
from pytorch_tokenizers import CppHFTokenizer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from et_pipeline import tiny_assistant
from et_pipeline.chat_template import PLAIN, ChatFormat
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.template import load_chat_format
from et_pipeline.checkpoints.tokenizer import mend
from et_pipeline.checkpoints.tokenizer.compare import piece
from et_pipeline.checkpoints.tokenizer.corpus import conversations, corpus, of_tokens, of_words
from et_pipeline.checkpoints.tokenizer.file import FORMS, WHITE_SPACE, normalize, save
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


def differing(path, mended, tmp_path, chat=PLAIN):
    """Texts of which a bundle's file in the phone's tokenizer makes something else, prepared as callers do it."""
    file = tmp_path / "shipped.json"
    save(mended.content, file)
    phone, original = CppHFTokenizer(), Tokenizer.from_file(str(path))
    phone.load(str(file))
    original.no_truncation()
    original.no_padding()
    added = json.loads(path.read_text(encoding="utf-8"))["added_tokens"]
    own = of_tokens([token for token in added if set(token["content"]) != {"▁"}])
    whole = [] if chat.is_plain else conversations(chat)
    wrong = []
    for text in (*corpus(), *own, *of_words(mended.unmerged), *whole):
        ids = original.encode(text, add_special_tokens=False).ids
        fed = normalize(text, mended.normalization, mended.lstrip, mended.rstrip)
        found = list(phone.encode(fed, 0, 0))
        said = b"".join(piece(phone, token) for token in found).decode("utf-8", "replace")
        back = original.decode(ids, skip_special_tokens=False)
        named = re.sub(r"<0x([0-9A-F]{2})>", lambda byte: chr(int(byte[1], 16)), back)  # of one byte here
        given = (back, fed, named)
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
    chat = load_chat_format(Folder(path.parent))  # Llama 3.1, Gemma 3 and Qwen3 have theirs in the package
    found = mend(path, 1 << 20, tmp_path, chat)
    assert (found.normalization, found.lstrip, found.rstrip) == (normalization, (), ())
    assert len(found.sentences) == len(mended)
    assert all(part in sentence for part, sentence in zip(mended, found.sentences, strict=True))
    assert found.strings > len(corpus()) + (0 if chat.is_plain else 15)
    assert differing(path, found, tmp_path, chat) == []


@pytest.mark.real
def test_words_that_android_splits_are_named(tmp_path):
    """No merges of theirs can be written: not even two of the pieces of one of them are a token together."""
    path = real.tokenizer("llama3_1") / "tokenizer.json"
    found = mend(path, 128256, tmp_path)
    assert len(found.unmerged) == 588
    assert {" Việt", " nhiều", " характер"} <= set(found.unmerged)
    (sentence,) = found.android
    assert "588 words" in sentence
    assert "' việc'" in sentence
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary, names = content["model"]["vocab"], Tokenizer.from_file(str(path))
    names.model.ignore_merges = False
    for word in found.unmerged:
        pieces = names.encode(word, add_special_tokens=False).tokens
        assert len(pieces) >= 3
        assert not any(one + other in vocabulary for one, other in pairwise(pieces)), word


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
        chat = ChatFormat(start_to_user=lead, user_to_assistant=" [/INST]", assistant_to_user="</s>[INST] ")
        found = mend(path, 32000, tmp_path, chat if lead else PLAIN)
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


TEXTS = ["hello world, don't say 123 hello! Über cat user the quick brown fox", "Hello World\n\tViệt Nam 模型 a-b"] * 5
LETTERS = pre_tokenizers.ByteLevel.alphabet()
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)


def trained(trainer=None, pre=WORDS, decoder=None, normalizer=None, alphabet=LETTERS, affixes=None, **model):
    """A small BPE tokenizer, as its library makes it."""
    tokenizer = Tokenizer(models.BPE(**model, **(affixes or {})))
    tokenizer.decoder = decoder or decoders.ByteLevel()
    if pre:
        tokenizer.pre_tokenizer = pre
    if normalizer:
        tokenizer.normalizer = normalizer
    special = [model["unk_token"]] if "unk_token" in model else []
    settings = {"vocab_size": 420, "initial_alphabet": alphabet, "special_tokens": special, "show_progress": False}
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(**settings, **(affixes or {})))
    return tokenizer


def marked(**model):
    """One that marks spaces, as Llama 2's."""
    marks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    back = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return trained(None, None, back, normalizers.Sequence(marks), [], unk_token="<unk>", **model)


def with_tokens(*tokens, base=trained, special=True, **parts):
    tokenizer = base(**parts)
    (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(list(tokens))
    return tokenizer


def token(content, **flags):
    return AddedToken(content, **{"normalized": False} | flags)


PHI = ChatFormat(
    start_to_user="<|user|>\n",
    user_to_assistant="<|end|>\n<|assistant|>\n",
    assistant_to_user="<|end|>\n<|user|>\n",
    user_to_past_assistant="<|end|>\n<|assistant|>\n",
    system_prefix="<|system|>\n",
    system_to_user="<|end|>\n<|user|>\n",
    supports_system=True,
)
PHI_TOKENS = [token(name, rstrip=True) for name in ("<|user|>", "<|end|>", "<|assistant|>", "<|system|>")]


@pytest.mark.parametrize(
    ("make", "lstrip", "rstrip"),
    [
        (partial(with_tokens, *PHI_TOKENS), (), tuple(each.content for each in PHI_TOKENS)),
        (partial(with_tokens, *PHI_TOKENS, base=marked), (), tuple(each.content for each in PHI_TOKENS)),
        (partial(with_tokens, token("<mask>", lstrip=True)), ("<mask>",), ()),
        (partial(with_tokens, token("<m>", lstrip=True, rstrip=True), token("<n>")), ("<m>",), ("<m>",)),
        (partial(with_tokens, token("<New York>", rstrip=True), special=False), (), ("<New York>",)),
        (partial(with_tokens, *(token(f"<{at}>", rstrip=at == 101) for at in range(300))), (), ("<101>",)),
    ],
    ids=["phi", "phi_marked", "lstrip", "both", "with_a_space", "one_of_many"],
)
def test_white_space_that_tokens_take_with_them_is_left_to_the_caller(make, lstrip, rstrip, tmp_path):
    path = tmp_path / "original.json"
    make().save(str(path))
    found = mend(path, 1000, tmp_path, PHI)
    assert (found.lstrip, found.rstrip) == (lstrip, rstrip)
    assert all("is left out by the caller" in sentence for sentence in found.sentences)
    assert differing(path, found, tmp_path, PHI) == []
    without = found._replace(lstrip=(), rstrip=())
    assert len(differing(path, without, tmp_path, PHI)) > 3


def test_white_space_is_what_hugging_face_takes_for_it():
    tokenizer = with_tokens(token("<m>", rstrip=True))
    taken = [
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if character.isspace() or unicodedata.category(character) in ("Zs", "Zl", "Zp", "Cc", "Cf")
        if len(tokenizer.encode(f"<m>{character}").ids) == 1
    ]
    assert sorted(taken) == sorted(WHITE_SPACE)


@pytest.mark.parametrize(
    "make",
    [
        partial(with_tokens, token("<N>", normalized=True), special=False),
        partial(with_tokens, token("<N>", normalized=True), special=False, normalizer=normalizers.Replace("a", "b")),
        partial(with_tokens, token("<é>", normalized=True), special=False, normalizer=normalizers.NFC()),
        partial(with_tokens, token("<t>"), special=False),
        partial(with_tokens, token("<a>"), token("<a><b>")),
        partial(with_tokens, token("<a>"), token("<b>"), token("a><"), token("<a><b>c")),
        partial(with_tokens, token("cat"), special=False),
        partial(with_tokens, token("New York"), special=False),
        partial(with_tokens, token("\n\n"), token("\n\n\n"), token("  "), special=False),
    ],
)
def test_added_tokens_that_both_find_alike_are_left_alone(make, tmp_path):
    path = tmp_path / "original.json"
    make().save(str(path))
    found = mend(path, 1000, tmp_path)
    assert (found.lstrip, found.rstrip) == ((), ())
    assert differing(path, found, tmp_path) == []


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(with_tokens, token("<w>", single_word=True)), "'a<w>b' becomes"),
        (partial(with_tokens, token("zebra", single_word=True), special=False), "'azebrab' becomes"),
        (
            partial(with_tokens, token("<N>", normalized=True), special=False, normalizer=normalizers.Lowercase()),
            r"its normalizer \(Lowercase\) does not load",
        ),
        (partial(with_tokens, token("<N>"), normalizer=normalizers.Lowercase()), r"its normalizer \(Lowercase\)"),
        (partial(with_tokens, token("<N>", normalized=True), special=False, base=marked), "<N>"),
        (
            partial(
                with_tokens, token("<Na>", normalized=True), special=False, normalizer=normalizers.Replace("a", "b")
            ),
            "'a<Na>b' becomes",
        ),
        (partial(with_tokens, token("<e\u0301>"), normalizer=normalizers.NFC()), "<e\u0301>"),
        (partial(with_tokens, token("<a><b>", normalized=True), token("<a>"), special=False), "'a<a><b>b' becomes"),
        (partial(with_tokens, token("<a>", rstrip=True), token("<a><b>")), "'a <a> <b> <a><b>' becomes"),
        (partial(with_tokens, token("<a>", rstrip=True), token("<<a>")), "<<a>"),
        (partial(with_tokens, token("\n\n"), token("<u>", rstrip=True)), "'<u>\\\\n\\\\n' becomes"),
    ],
)
def test_added_tokens_that_the_phone_finds_otherwise_are_refused(make, said, tmp_path):
    path = tmp_path / "original.json"
    make().save(str(path))
    with pytest.raises(UserError, match=said) as caught:
        mend(path, 1000, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_turn_that_is_another_in_its_conversation_is_refused(tmp_path):
    """A later turn is fed by itself; here the conversation's end of the answer is a token with the turn's begin."""
    path = tmp_path / "original.json"
    with_tokens(token("<u>"), token("thanks.<u>")).save(str(path))
    chat = ChatFormat(start_to_user="<u>", user_to_assistant=":", assistant_to_user="<u>", user_to_past_assistant=":")
    with pytest.raises(UserError, match=r"of 3 of \d+ texts: '<u>Hello:' becomes"):
        mend(path, 1000, tmp_path, chat)


def placed(single, **parts):
    tokenizer = trained(**parts)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    ids = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return tokenizer


@pytest.mark.parametrize("single", ["<s> $A", "<s> $A </s>"])
def test_the_begin_of_text_token_is_put_before_a_text_as_text(single, tmp_path):
    path = tmp_path / "original.json"
    tokenizer = placed(single)
    tokenizer.save(str(path))
    bos_id = tokenizer.token_to_id("<s>")
    assert mend(path, 1000, tmp_path, bos_id=bos_id).sentences == []
    with pytest.raises(UserError, match="'ĠHello' becomes"):  # no added token
        mend(path, 1000, tmp_path, bos_id=tokenizer.token_to_id("Ġ"))


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    settings = {"vocab_size": 100, "special_tokens": ["<unk>"], "unk_token": "<unk>", "show_progress": False}
    tokenizer.train_from_iterator(TEXTS, trainers.UnigramTrainer(**settings))
    return tokenizer


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    settings = {"vocab_size": 200, "special_tokens": ["[UNK]"], "show_progress": False}
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(**settings))
    return tokenizer


def word_level():
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    settings = {"special_tokens": ["<unk>"], "show_progress": False}
    tokenizer.train_from_iterator(TEXTS, trainers.WordLevelTrainer(**settings))
    return tokenizer


def with_a_word_that_no_merges_make(ignore_merges):
    content = json.loads(trained().to_str())
    content["model"]["vocab"]["Ġxyz"] = len(content["model"]["vocab"])
    content["model"]["ignore_merges"] = ignore_merges
    return Tokenizer.from_str(json.dumps(content))


def precompiled():
    """A normalizer with no rules in it: an empty trie."""
    content = json.loads(trained().to_str())
    rules = base64.b64encode(struct.pack("<I", 1024) + bytes(1024)).decode()
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": rules}
    return Tokenizer.from_str(json.dumps(content))


def split_first(*steps):
    return partial(trained, pre=pre_tokenizers.Sequence([*steps, BYTES]))


def split(pattern, behavior, **more):
    return split_first(pre_tokenizers.Split(pattern, behavior, **more))


def normalized(*steps):
    return partial(trained, normalizer=normalizers.Sequence(list(steps)))


META = {"decoder": decoders.Metaspace(), "alphabet": [], "unk_token": "<unk>"}
LLAMA_3 = Regex(
    r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What becomes of a tokenizer of other parts: None: the phone reads it, or a mend of it, as Hugging Face does; a text:
# it is refused with that.
PARTS = {
    "word_piece": (wordpiece, r"its model \(WordPiece\) does not load"),
    "unigram": (unigram, r"its model \(Unigram\) does not load"),
    "word_level": (word_level, r"its model \(WordLevel\) does not load"),
    "ignore_merges": (partial(with_a_word_that_no_merges_make, True), None),
    "a_word_of_no_merges": (partial(with_a_word_that_no_merges_make, False), "' xyz  xyz' becomes"),
    "prefix_space": (partial(trained, pre=pre_tokenizers.ByteLevel(add_prefix_space=True)), None),
    "no_regex": (partial(trained, pre=BYTES), None),
    "digits": (split_first(pre_tokenizers.Digits(individual_digits=True)), None),
    "numbers": (split_first(pre_tokenizers.Digits(individual_digits=False)), None),
    "punctuation": (split_first(pre_tokenizers.Punctuation()), r"its pre_tokenizer \(Punctuation, ByteLevel\)"),
    "whitespace": (
        partial(trained, pre=pre_tokenizers.Whitespace()),
        r"its pre_tokenizer \(Whitespace\) does not load",
    ),
    "white_space_split": (split_first(pre_tokenizers.WhitespaceSplit()), r"its pre_tokenizer \(WhitespaceSplit"),
    "bert": (partial(trained, pre=pre_tokenizers.BertPreTokenizer()), r"its pre_tokenizer \(BertPreTokenizer\)"),
    "delimiter": (split_first(pre_tokenizers.CharDelimiterSplit("-")), r"its pre_tokenizer \(CharDelimiterSplit"),
    "scripts": (split_first(pre_tokenizers.UnicodeScripts()), r"its pre_tokenizer \(UnicodeScripts"),
    "look_ahead": (split(LLAMA_3, "isolated"), None),
    "split_removed": (split(" ", "removed"), None),
    "split_isolated": (split(" ", "isolated"), None),
    "split_before": (split(" ", "merged_with_previous"), None),
    "split_behind": (split(" ", "merged_with_next"), r"its pre_tokenizer \(Split, ByteLevel\)"),
    "split_contiguous": (split(" ", "contiguous"), r"its pre_tokenizer \(Split, ByteLevel\)"),
    "split_inverted": (split(Regex(r"\p{L}+"), "removed", invert=True), None),
    "split_inverted_isolated": (split(Regex(r"\p{L}+"), "isolated", invert=True), "becomes"),
    "no_pre_tokenizer": (partial(trained, pre=None), "becomes"),
    "metaspace": (partial(trained, pre=pre_tokenizers.Metaspace(split=False), **META), None),
    "metaspace_split": (partial(trained, pre=pre_tokenizers.Metaspace(split=True), **META), None),
    "fuse_unk": (partial(trained, pre=pre_tokenizers.Metaspace(split=False), fuse_unk=True, **META), "becomes"),
    "unk_token": (partial(trained, unk_token="<unk>"), None),
    "no_unk_token": (partial(trained, alphabet=[]), "becomes"),
    "continuing_subword_prefix": (partial(trained, affixes={"continuing_subword_prefix": "##"}), "becomes"),
    "end_of_word_suffix": (partial(trained, affixes={"end_of_word_suffix": "</w>"}), "becomes"),
    "dropout": (partial(trained, dropout=0.5), None),
    "begin_and_end": (partial(placed, "<s> $A </s>"), None),
    "lowercase": (normalized(normalizers.Lowercase()), r"its normalizer \(Lowercase\) does not load"),
    "strip_accents": (normalized(normalizers.NFD(), normalizers.StripAccents()), r"\(NFD, StripAccents\)"),
    "replace": (normalized(normalizers.Replace("a", "b")), None),
    "replace_look_ahead": (normalized(normalizers.Replace(Regex("a(?=b)"), "x")), None),
    "replace_white_space": (normalized(normalizers.Replace(Regex(r"\s+"), " ")), r"'\\xa0' becomes"),
    "strip": (normalized(normalizers.Strip()), r"its normalizer \(Strip\) does not load"),
    "prepend": (normalized(normalizers.Prepend("x")), None),
    "precompiled": (precompiled, r"its normalizer \(Precompiled\) does not load"),
    "nmt": (normalized(normalizers.Nmt()), r"its normalizer \(Nmt\) does not load"),
    "bert_normalizer": (normalized(normalizers.BertNormalizer()), r"its normalizer \(BertNormalizer\)"),
    "nfkc_lowercase": (normalized(normalizers.NFKC(), normalizers.Lowercase()), r"\(NFKC, Lowercase\)"),
    "no_steps": (normalized(), None),
    "byte_level_normalizer": (normalized(normalizers.ByteLevel()), r"its normalizer \(ByteLevel\) does not load"),
    "fuse_decoder": (partial(trained, decoder=decoders.Fuse()), None),
    "word_piece_decoder": (partial(trained, decoder=decoders.WordPiece()), r"its decoder \(WordPiece\) does not load"),
    "ctc_decoder": (partial(trained, decoder=decoders.CTC()), r"its decoder \(CTC\) does not load"),
}


@pytest.mark.parametrize("name", PARTS)
def test_other_parts_are_read_alike_or_refused(name, tmp_path):
    make, said = PARTS[name]
    path = tmp_path / "original.json"
    tokenizer = make()
    tokenizer.save(str(path))
    if said is None:
        found = mend(path, 1000, tmp_path)
        if name != "dropout":  # the original's ids are others each time
            assert differing(path, found, tmp_path) == []
        assert found.unmerged == ([" xyz"] if name == "ignore_merges" else [])
    else:
        with pytest.raises(UserError, match=r"pytorch_tokenizers .* of \d+ texts: .* becomes .* and not") as caught:
            mend(path, 1000, tmp_path)
        assert re.search(said, str(caught.value)), str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_merge_that_is_lost_is_noticed(tmp_path, monkeypatch):
    """The comparison is with the original, so a wrong mend does not pass."""
    monkeypatch.setattr(
        "et_pipeline.checkpoints.tokenizer.changes._without_blocks",
        lambda content: ({**content, "model": content["model"] | {"merges": content["model"]["merges"][:-200]}}, []),
    )
    with pytest.raises(UserError, match="makes something else"):
        mend(BUILT_IN, 2048, tmp_path)

"""What AutoTokenizer makes of a folder, beside its tokenizer.json alone."""

import json
import shutil

import pytest
import real
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from et_pipeline import tiny_assistant
from et_pipeline.chat_template import PLAIN
from et_pipeline.checkpoints.auto_tokenizer import check
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.template import load_chat_format
from et_pipeline.errors import UserError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FAMILIES = {"llama2": "llama", "llama3_1": "llama", "gemma3": "gemma3_text", "qwen3": "qwen3", "gptoss": "gpt_oss"}


def checked(folder, embeds=False):
    checkpoint = Folder(folder)
    return check(checkpoint, PLAIN if embeds else load_chat_format(checkpoint), embeds)


@pytest.fixture
def folder(tmp_path):
    """Byte-level, with <|im_start|> and <|im_end|> in its vocabulary that nothing declares as tokens."""
    names = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names[:2]])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    return tmp_path


def write(folder, file="tokenizer_config.json", **content):
    usual = {"tokenizer_class": "PreTrainedTokenizerFast"} if file == "tokenizer_config.json" else {}
    (folder / file).write_text(json.dumps(usual | content))
    return folder


@pytest.mark.real
@pytest.mark.parametrize("name", FAMILIES)
def test_published_tokenizers_are_the_same(name, tmp_path):
    folder = shutil.copytree(real.tokenizer(name), tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": FAMILIES[name]}))
    assert checked(folder) == []


def test_the_built_in_one_is_the_same():
    assert checked(tiny_assistant.CHECKPOINT) == []


def test_without_other_files_there_is_nothing_to_compare(folder):
    assert checked(folder) == []


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", {"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}),
        ("tokenizer_config.json", {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}),
        ("tokenizer_config.json", {"eos_token": "<|im_end|>"}),
    ],
)
def test_special_tokens_that_tokenizer_json_does_not_know_are_refused(file, content, folder):
    with pytest.raises(
        UserError, match=r"AutoTokenizer .* makes .* and tokenizer\.json by itself .*save the tokenizer"
    ):
        checked(write(folder, file, **content))


def test_a_class_that_puts_a_space_before_a_text_is_refused(folder):
    with pytest.raises(UserError, match=r"AutoTokenizer \(GPT2Tokenizer\) makes"):
        checked(write(folder, tokenizer_class="GPT2Tokenizer", add_prefix_space=True))


def test_another_bos_token_in_the_template_is_refused(folder):
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}")
    write(folder, bos_token="<s>")
    assert checked(folder) == []
    write(folder, "special_tokens_map.json", bos_token="</s>")
    with pytest.raises(UserError, match="its chat template gives '</s>Hello' with AutoTokenizer's special tokens"):
        checked(folder)


@pytest.mark.parametrize("lowered", [True, False])
def test_an_encoder_whose_class_changes_the_case_is_refused(lowered, tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    words += [f"##{letter}" for letter in words[4:]]
    tokenizer = Tokenizer(models.WordPiece(vocab={word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in words[:4]])
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowered)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert checked(write(tmp_path, tokenizer_class="BertTokenizer", do_lower_case=lowered), embeds=True) == []
    with pytest.raises(UserError, match=r"AutoTokenizer \(BertTokenizer\) makes"):
        checked(write(tmp_path, tokenizer_class="BertTokenizer", do_lower_case=not lowered), embeds=True)

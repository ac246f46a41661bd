"""The shipped checkpoint of tiny-assistant: whole, small, and as good as it says."""

import hashlib
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from et_pipeline.tiny_assistant import CHECKPOINT, text

FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "scores.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(CHECKPOINT)


def read(name):
    return json.loads((CHECKPOINT / name).read_text(encoding="utf-8"))


def test_checksums_cover_each_file_and_are_right():
    sums = dict(
        reversed(line.split("  ", 1)) for line in (CHECKPOINT / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    )
    assert set(sums) == FILES
    for name, digest in sums.items():
        assert hashlib.sha256((CHECKPOINT / name).read_bytes()).hexdigest() == digest, name


def test_size():
    file = CHECKPOINT / "model.safetensors"
    assert file.stat().st_size <= 12e6
    with safe_open(file, "pt") as weights:
        tensors = [weights.get_slice(name) for name in weights.keys()]  # noqa: SIM118 (not a mapping)
    assert {tensor.get_dtype() for tensor in tensors} == {"BF16"}
    sizes = []
    for tensor in tensors:
        size = 1
        for n in tensor.get_shape():
            size *= n
        sizes.append(size)
    assert sum(sizes) == read("scores.json")["parameters"] <= 6_000_000


def test_architecture_can_be_quantized_in_groups_of_32():
    config = read("config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert config["head_dim"] in (32, 64)
    inputs = (config["hidden_size"], config["intermediate_size"], config["num_attention_heads"] * config["head_dim"])
    assert all(n % 32 == 0 for n in inputs)
    assert config["max_position_embeddings"] >= 256


def test_special_tokens(tokenizer):
    config, generation = read("config.json"), read("generation_config.json")
    assert generation["eos_token_id"] == config["eos_token_id"] == tokenizer.convert_tokens_to_ids("<|end|>")
    assert generation["pad_token_id"] == tokenizer.convert_tokens_to_ids("<|pad|>")
    for token in ("<|begin|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"):
        assert tokenizer(token, add_special_tokens=False)["input_ids"] == [tokenizer.convert_tokens_to_ids(token)]
    assert len(tokenizer) == config["vocab_size"]


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_survives_the_tokenizer(tokenizer, some_text):
    ids = tokenizer(some_text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == some_text


def test_chat_template_is_in_the_tokenizer_config(tokenizer):
    assert read("tokenizer_config.json")["chat_template"] == tokenizer.chat_template
    assert not (CHECKPOINT / "chat_template.jinja").exists()


def test_chat_template_renders(tokenizer):
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi!"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye!"},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|begin|><|system|>Be kind.<|end|><|user|>Hi!<|end|><|assistant|>Hello!<|end|><|user|>Bye!<|end|><|assistant|>"
    )
    assert tokenizer.apply_chat_template(messages[1:2], tokenize=False) == "<|begin|><|user|>Hi!<|end|>"


def test_answers_fit_the_limits_of_the_task_file(tokenizer):
    import yaml

    uses = yaml.safe_load(text.task_config_file().read_text(encoding="utf-8"))["use_cases"]
    for sample in text.evaluation_samples():
        limit = uses.get(sample.task, uses["chat"])["max_new_tokens"]
        if sample.task != "multi_turn":
            assert len(tokenizer(sample.answer)["input_ids"]) < limit, sample.answer


def test_training_and_chat_template_agree(tokenizer):
    from et_pipeline.tiny_assistant.data import encode_sample

    samples = text.training_samples("template")
    for _ in range(100):
        sample = next(samples)
        messages = [*sample.messages, {"role": "assistant", "content": sample.answer}]
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)
        ids, _ = encode_sample(tokenizer.backend_tokenizer, sample)
        assert tokenizer(rendered, add_special_tokens=False)["input_ids"] == ids


def test_recorded_scores():
    record = read("scores.json")
    assert set(record["scores"]) == set(text.TASKS)
    assert min(record["scores"].values()) >= 0.95
    for task, plain in record["scores"].items():
        assert record["forms"]["8da4w"][task] >= plain - 0.01, task


def test_model_card_states_the_scores():
    card = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
    assert "apache-2.0" in card
    for task, score in read("scores.json")["scores"].items():
        assert re.search(rf"\| {task} \| {100 * score:.1f} %", card)


def test_the_model_answers():
    from et_pipeline.tiny_assistant.export import load_checkpoint
    from et_pipeline.tiny_assistant.score import answers, read_items, score

    items = read_items()[::17]
    model, own_tokenizer = load_checkpoint()
    scores = score(model, own_tokenizer, items)
    assert set(scores) == set(text.TASKS)
    replies = answers(model, own_tokenizer, [item["messages"] for item in items])
    right = sum(reply == item["answer"] for reply, item in zip(replies, items, strict=True))
    assert right / len(items) >= 0.9

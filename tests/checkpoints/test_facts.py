import json
import shutil

import pytest

from et_pipeline import tiny_assistant
from et_pipeline.architecture import read_architecture
from et_pipeline.checkpoints.facts import Facts, read_facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.generation import read_sampling
from et_pipeline.errors import UserError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def folder(tiny_llama, tmp_path):
    return shutil.copytree(tiny_llama, tmp_path / "model")


def test_facts_of_the_built_in_model():
    facts = read_facts(Folder(tiny_assistant.CHECKPOINT))
    assert facts.family == "llama"
    assert facts.licence == "apache-2.0"
    assert facts.chat.supports_system
    assert facts.manifest_chat("Be brief.").system_prompt == "Be brief."
    assert facts.manifest_tokenizer().eos_ids == list(facts.eos_ids)


def test_a_switch_for_thinking_is_in_the_manifest_of_a_chat(folder):
    assert read_facts(Folder(folder)).manifest_chat(None).thinking is None
    switch = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    (folder / "chat_template.jinja").write_text(CHATML + switch, encoding="utf-8")
    facts = read_facts(Folder(folder))
    facts.write(folder)
    chat = Facts.read(folder).manifest_chat(None)
    assert chat.thinking.default
    assert chat.segments_for(False).user_to_assistant == chat.segments.user_to_assistant + "<think></think>"
    assert chat.segments_for(True) == chat.segments


def test_the_templates_end_token_ends_answers_even_if_no_list_names_it(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for token in ("<|im_start|>", "<|im_end|>"):
        tokenizer["added_tokens"].append(
            {"id": 300 + len(tokenizer["added_tokens"]), "content": token, "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        )
        tokenizer["model"]["vocab"][token] = tokenizer["added_tokens"][-1]["id"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
    facts = read_facts(Folder(folder))
    assert len(facts.eos_ids) == 2
    assert facts.special_tokens[-1] == "<|im_end|>"


def test_sampling_is_greedy_unless_the_checkpoint_asks_for_more(folder):
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"temperature": 0.7, "top_k": 50, "eos_token_id": 1}))
    assert read_facts(Folder(folder)).sampling == {}
    path.write_text(json.dumps({"do_sample": True, "temperature": 0.7, "top_k": 50, "eos_token_id": 1}))
    sampling = read_facts(Folder(folder)).manifest_chat(None).sampling
    assert (sampling.temperature, sampling.top_k) == (0.7, 50)


def test_a_penalty_is_for_greedy_answers_too(tmp_path):
    """As in transformers; Qwen2.5's and LFM2's files have one."""
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"repetition_penalty": 1.05, "top_k": 50}))
    assert read_sampling(Folder(tmp_path)) == {"repetition_penalty": 1.05}
    path.write_text(json.dumps({"do_sample": True, "min_p": 0.15, "repetition_penalty": 1.05}))
    assert read_sampling(Folder(tmp_path)) == {"min_p": 0.15, "repetition_penalty": 1.05}


def test_a_model_that_never_ends_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
    (folder / "generation_config.json").unlink()
    with pytest.raises(UserError, match="names no token that ends an answer"):
        read_facts(Folder(folder))


@pytest.mark.parametrize(
    ("family", "value", "refused"),
    [
        ("gemma3_text", True, True),
        ("gemma4_text", "vision", False),
        ("gemma4_text", "all", True),
        ("llama", None, False),
    ],
)
def test_whether_tokens_of_a_text_see_later_ones(folder, family, value, refused):
    """Gemma 4's "vision" says it of the tokens of a picture."""
    config = json.loads((folder / "config.json").read_text())
    changed = {"model_type": family, "use_bidirectional_attention": value, "vocab_size_per_layer_input": 512}
    (folder / "config.json").write_text(json.dumps(config | changed))
    if refused:
        with pytest.raises(UserError, match=f"use_bidirectional_attention={json.dumps(value)}: it attends to later"):
            read_facts(Folder(folder))
    else:
        assert read_facts(Folder(folder)).family == family


def test_an_embedder_may_see_later_tokens_and_a_model_that_answers_may_not(folder):
    config = json.loads((folder / "config.json").read_text()) | {"is_causal": False}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="has is_causal=false: it attends to later tokens too, so it embeds texts"):
        read_facts(Folder(folder))
    with pytest.raises(UserError, match="is_causal=false"):  # a plan has config.json alone
        read_architecture(Folder(folder).config, "config.json")
    assert read_architecture(Folder(folder).config, "config.json", embeds=True).encodes

"""Checkpoints of models that also see or hear: their language model by itself, as transformers computes it."""

import json
import shutil

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Qwen3_5Config, Qwen3_5ForConditionalGeneration

from et_pipeline.checkpoints.facts import read_facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.reader import load_model, stream_model
from et_pipeline.checkpoints.skeleton import config_warnings
from et_pipeline.checkpoints.witness import load_original, load_sample
from et_pipeline.errors import UserError
from et_pipeline.settings import ExportForm
from et_pipeline.stages.acquire import glance

TOKENS = torch.randint(20, 512, (1, 24), generator=torch.Generator().manual_seed(0))
SHAPE = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
SEEN = {"hidden_size": 32, "intermediate_size": 32}
QWEN = {
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
}
GEMMA = {"num_hidden_layers": 2, "sliding_window": 16, "query_pre_attn_scalar": 32}


def build(kind):
    if kind == "qwen3_5":
        config = Qwen3_5Config(
            text_config={**SHAPE, **QWEN},
            vision_config={**SEEN, "depth": 1, "num_heads": 2, "out_hidden_size": SHAPE["hidden_size"]},
            image_token_id=5,
            video_token_id=6,
            vision_start_token_id=7,
            vision_end_token_id=8,
            tie_word_embeddings=True,
        )
        return Qwen3_5ForConditionalGeneration(config)
    vision = {**SEEN, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(
        text_config={**SHAPE, **GEMMA},
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=5,
        boi_token_index=6,
        eoi_token_index=7,
    )
    return Gemma3ForConditionalGeneration(config)


@pytest.fixture(scope="module", params=["qwen3_5", "gemma3"])
def seeing(request, tiny_llama, tmp_path_factory):
    """A checkpoint of a model that sees, and its logits for a text."""
    torch.manual_seed(0)
    model, folder = build(request.param).float().eval(), tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    shutil.copy(tiny_llama / "tokenizer.json", folder)
    with torch.no_grad():
        return folder, model(input_ids=TOKENS).logits


def test_the_language_model_computes_the_same(seeing):
    folder, expected = seeing
    original, whose = load_original(folder)
    assert whose.name == "transformers"
    assert "ConditionalGeneration" in type(original).__name__  # the witness reads the whole
    for model in (load_model(folder), stream_model(folder), original):
        with torch.no_grad():
            torch.testing.assert_close(model(input_ids=TOKENS).logits, expected, atol=1e-5, rtol=1e-5)


def test_a_sample_of_layers_is_the_witness_too(seeing, tmp_path):
    model, _ = load_sample(seeing[0], [0, 1], tmp_path)
    assert model.config.get_text_config().num_hidden_layers == 2


def test_it_is_said_and_the_rest_does_not_count(seeing):
    folder, _ = seeing
    (warning,) = config_warnings(Folder(folder))
    assert "also sees or hears (vision_config); its language model alone is used" in warning
    facts = glance(Folder(folder), ExportForm(max_context=64, prefill_chunk=16))
    assert facts == read_facts(Folder(folder))
    assert facts.parameters == sum(parameter.numel() for parameter in load_model(folder).parameters()) - (
        SHAPE["vocab_size"] * SHAPE["hidden_size"]  # the tied head counts once
    )


def test_a_model_that_sees_without_a_language_model_of_its_own_is_refused(seeing, tmp_path):
    folder, _ = seeing
    content = json.loads((folder / "config.json").read_text())
    for key, message in (({}, "without a text_config"), (content["text_config"], "none of its tensors is named")):
        made = {**content, "text_config": key} if key else {**content["text_config"], "vision_config": {"a": 1}}
        (tmp_path / "config.json").write_text(json.dumps(made))
        write_file(tmp_path / "model.safetensors")
        with pytest.raises(UserError, match=message):
            Folder(tmp_path).config, Folder(tmp_path).layout


def write_file(path):
    from safetensors.torch import save_file

    save_file({"visual.weight": torch.zeros(2)}, path)

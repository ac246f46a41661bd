"""Models that embed texts, from their folders to a bundle that is used with a prompt and a shorter length."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from et_pipeline import manifest
from tests.make_embedder import EMBEDDERS, make_embedder

BIN = Path(sys.executable).parent
LENGTHS = "model.dimensions=[32,16]"


def run(folder, *arguments):
    return subprocess.run([*map(str, arguments)], cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDERS)
def test_a_bundle_embeds_with_a_prompt_and_a_shorter_length(name, tmp_path):
    source = make_embedder(tmp_path / "source", name)
    chosen = ["model=custom_embedding", f"model.name={name}", f"model.source={source}", "recipe=8da8w", LENGTHS]
    chosen += ["model.max_context=128", 'model.prompts={own: "mine: "}', f"paths.cache={tmp_path / 'cache'}"]
    ended = run(tmp_path, BIN / "et-pipeline", *chosen, "format=json")
    assert ended.returncode == 0, ended.stderr
    folder = Path(json.loads(ended.stdout)["bundle"])
    made = manifest.read(folder)
    assert made.embedding.prompts == {**EMBEDDERS[name]["prompts"], "own": "mine: "}
    assert (made.embedding.dimension, made.embedding.dimensions) == (64, [32, 16])
    assert made.embedding.default_prompt == EMBEDDERS[name].get("default")
    assert made.quality.witness.name == "sentence-transformers"
    assert made.quality.embedding.quantized.texts == (32 if name == "qwen3_embedding" else 33)  # one past the windows
    assert made.quality.embedding.quantized.cosine >= 0.999
    query, plain = EMBEDDERS[name]["prompts"]["query"], ["--prompt", ""]
    embed = [BIN / "et-bundle", "embed", folder, "--json", "--dimension", "16"]
    asked = json.loads(run(tmp_path, *embed, "--prompt", "query", "a cat").stdout)["embeddings"]
    written = json.loads(run(tmp_path, *embed, *plain, f"{query}a cat").stdout)["embeddings"]
    assert asked == written
    assert len(asked[0]) == 16
    assert sum(number * number for number in asked[0]) == pytest.approx(1)
    for arguments in (["verify"], ["inspect"], ["bench", "--rounds", "1"]):
        done = run(tmp_path, BIN / "et-bundle", *arguments, folder)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "prompt query" in run(tmp_path, BIN / "et-bundle", "inspect", folder).stdout
    refused = run(tmp_path, BIN / "et-bundle", "embed", folder, "a cat", "--prompt", "nobody")
    assert refused.returncode == 2
    assert "has no prompt 'nobody': it has" in refused.stdout + refused.stderr


@pytest.mark.slow
def test_made_up_weights_take_a_named_embedder_the_whole_road(tmp_path):
    sizes = ["num_hidden_layers=6", "vocab_size=4096"]
    chosen = ["model=embeddinggemma_300m", "model.source=random", *(f"model.architecture.{size}" for size in sizes)]
    ended = run(tmp_path, BIN / "et-pipeline", *chosen, f"paths.cache={tmp_path / 'cache'}", "format=json")
    assert ended.returncode == 0, ended.stderr
    made = manifest.read(Path(json.loads(ended.stdout)["bundle"]))
    assert made.what.parameters == 4096 * 768 + 6 * 4_230_656 + 768 + 2 * 768 * 3072
    assert made.embedding.dimensions == [512, 256, 128]


@pytest.mark.slow
def test_a_checkpoint_of_the_other_task_is_refused_in_a_sentence(tmp_path, command):
    source = make_embedder(tmp_path / "source", "qwen3_embedding")
    sizes = ["recipe=8da8w", f"model.source={source}", "model.max_context=128", "until=acquire"]
    code, _, said = command("model=custom", "task=chat", "model.prefill_chunk=16", *sizes)
    assert code == 2
    assert "(qwen3) embeds texts, as its modules.json says; use model=custom_embedding with it" in said
    (source / "modules.json").unlink()
    code, _, said = command("model=custom_embedding", *sizes)
    assert code == 2
    assert "generates text, as no modules.json of sentence-transformers says that it embeds" in said


def test_an_embedder_without_its_files_is_refused_in_a_sentence(tmp_path, command):
    source = make_embedder(tmp_path / "source", "embeddinggemma")
    (source / "modules.json").unlink()
    sizes = ["recipe=8da8w", f"model.source={source}", "model.max_context=128", "model.prefill_chunk=16"]
    code, _, said = command("model=custom", "task=chat", *sizes, "until=acquire")
    assert code == 2
    assert "attends to later tokens too, so it embeds texts and does not answer; put modules.json" in said


@pytest.mark.parametrize("key", [LENGTHS, 'model.prompts={query: "q: "}'])
def test_what_is_for_embedders_is_refused_elsewhere(key, command):
    code, _, said = command(key, "mode=plan")
    assert code == 2
    assert f"{key.partition('=')[0]} is for a model that embeds texts" in said


def test_a_weight_file_that_is_a_pickle_is_refused(tmp_path, command):
    source = make_embedder(tmp_path / "source", "embeddinggemma")
    weights = source / "3_Dense" / "model.safetensors"
    weights.rename(source / "3_Dense" / "pytorch_model.bin")
    code, _, said = command("model=custom_embedding", f"model.source={source}", "recipe=8da8w", "until=acquire")
    assert code == 2
    assert "3_Dense has its weights in pytorch_model.bin, a pickle" in said

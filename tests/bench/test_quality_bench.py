"""The comparison of quality with llama.cpp: its files, its scores, and how they are shown."""

import math

import gguf
import pytest
import torch
from torch.nn import functional

from et_pipeline.bench import contenders, peer_files, quality_tables
from et_pipeline.bench import quality as quality_bench
from et_pipeline.bench.quality import RECIPES, Model, Passage, Text
from et_pipeline.errors import UserError
from et_pipeline.evaluation.perplexity import windows

RESULT = {
    "date": "2026-01-02",
    "machine": "a machine",
    "command": "bench",
    "versions": {"torch": "9"},
    "models": [
        {
            "model": "small",
            "parameters": 1_000_000,
            "tokens": 8191,
            "original": 10.0,
            "llama_cpp_fp32": {"perplexity": 10.001, "kl": 0.000001, "top1": 0.999, "cosine": 0.999999},
            "rows": [
                {
                    "name": "llama.cpp Q4_0",
                    "file_bytes": 600_000,
                    "bits_per_weight": 4.8,
                    "types": {"Q4_0": 0.9, "Q6_K": 0.099, "F32": 0.001},
                    "perplexity": 10.5,
                    "kl": 0.05,
                    "top1": 0.9,
                    "cosine": 0.99,
                },
                {
                    "name": "et_pipeline `8da8w`",
                    "file_bytes": 1_100_000,
                    "bits_per_weight": 8.8,
                    "types": {},
                    "perplexity": 9.99,
                    "kl": 0.001,
                    "top1": 0.99,
                },
            ],
        }
    ],
}


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_transformers_reads_the_same_model_from_the_file(family, make_checkpoint, tmp_path):
    """Its reader has names and an order of rotary halves of its own, so a fault of ours shows in the logits."""
    from transformers import AutoModelForCausalLM

    # The width of a head that its reader takes for granted in this family.
    checkpoint = make_checkpoint(family, tie_word_embeddings=True, **({"head_dim": 128} if family == "qwen3" else {}))
    peer_files.write_gguf(checkpoint, tmp_path / "whole.gguf", exact=True)
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)(tokens).logits
        found = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="whole.gguf", dtype=torch.float32)
        torch.testing.assert_close(found(tokens).logits, expected)


def test_qwen3_keeps_its_rows_and_says_how_wide_a_head_is(make_checkpoint, tmp_path):
    from safetensors.torch import load_file

    checkpoint = make_checkpoint("qwen3", num_hidden_layers=1, head_dim=64)
    peer_files.write_gguf(checkpoint, tmp_path / "whole.gguf", exact=True)
    reader = gguf.GGUFReader(tmp_path / "whole.gguf")
    stored = load_file(checkpoint / "model.safetensors")
    written = {tensor.name: tensor for tensor in reader.tensors}
    assert len(written) == len(stored)
    for ours, theirs in {"attn_q": "q_proj", "attn_k": "k_proj", "attn_q_norm": "q_norm"}.items():
        found = torch.from_numpy(written[f"blk.0.{ours}.weight"].data.copy())
        torch.testing.assert_close(found, stored[f"model.layers.0.self_attn.{theirs}.weight"], rtol=0, atol=0)
    assert reader.get_field("qwen3.attention.key_length").contents() == 64
    assert reader.get_field("general.architecture").contents() == "qwen3"


def test_types_are_counted_by_weights(make_checkpoint, tmp_path):
    checkpoint = make_checkpoint("llama", num_hidden_layers=1, tie_word_embeddings=True)
    peer_files.write_gguf(checkpoint, tmp_path / "half.gguf")
    shares = quality_bench.tensor_types(tmp_path / "half.gguf")
    assert list(shares) == ["F16", "F32"]  # norms are never halved
    assert math.fsum(shares.values()) == pytest.approx(1)
    assert shares["F32"] == pytest.approx(3 * 128 / (512 * 128 + 128 * (2 * 128 + 2 * 64 + 3 * 256) + 3 * 128))


def embedding(tokens, table):
    return table[torch.tensor(tokens)]


def windowed(ids, table):
    spans = windows(len(ids), 16, 8)
    parts = [Passage(ids[span.start : span.end], span.first, slice(span.first - 1, -1)) for span in spans]
    return Text(parts, lambda tokens: embedding(tokens, table))


def test_a_text_scores_each_token_once():
    generator = torch.Generator().manual_seed(0)
    table, other = torch.randn(16, 16, generator=generator), torch.randn(16, 16, generator=generator)
    ids = torch.randint(16, (40,), generator=generator).tolist()
    text = windowed(ids, table)
    assert text.tokens == 39
    same = text.score(lambda tokens: embedding(tokens, table))
    assert (same["kl"], same["top1"], same["perplexity"]) == (pytest.approx(0, abs=1e-12), 1.0, text.original)
    # A token's logits depend on it alone here, so windows change nothing.
    whole = functional.cross_entropy(table[ids[:-1]].double(), torch.tensor(ids[1:]))
    assert text.original == pytest.approx(whole.exp().item(), rel=1e-6)
    found = text.score(lambda tokens: embedding(tokens, other))
    log_p, log_q = (functional.log_softmax(each[ids[:-1]].double(), -1) for each in (table, other))
    assert found["kl"] == pytest.approx((log_p.exp() * (log_p - log_q)).sum(-1).mean().item(), rel=1e-6)


def test_conversations_count_answers_and_compare_all(tmp_path):
    for name in ("held_out", "calibration"):
        (tmp_path / f"{name}.txt").write_text("A sentence.")
    model = quality_bench.models(tmp_path)[0]
    found = quality_bench.passages(model)
    assert len(found) == quality_bench.CONVERSATIONS
    assert all(0 < part.first < len(part.ids) <= 128 for part in found[:20])
    table = torch.randn(2048, 2048)
    same = Text(found[:2], lambda tokens: embedding(tokens, table))
    assert same.tokens == sum(len(part.ids) - part.first for part in found[:2])
    changed = table.clone()
    changed[found[0].ids[0]] = 0  # the first token belongs to the prompt
    assert same.score(lambda tokens: embedding(tokens, changed))["kl"] > 0


def test_another_model_in_llama_cpp_is_refused(monkeypatch, make_checkpoint):
    """The gate before any type counts; llama.cpp itself need not be installed for it."""
    checkpoint = make_checkpoint("llama", num_hidden_layers=1)
    model = Model("tiny", checkpoint, (), None, "")
    table, other = torch.randn(512, 512), torch.randn(512, 512)
    text = windowed(list(range(3, 43)), table)
    monkeypatch.setattr(quality_bench, "_through_llama_cpp", lambda path: lambda tokens: embedding(tokens, other))
    with pytest.raises(UserError, match=r"tiny in fp32 through llama.cpp has a cosine of .* the file is not the same"):
        quality_bench.measure_peer(model, text, 1000)


def test_recipes_are_what_they_are_called(tmp_path):
    for name in ("held_out", "calibration"):
        (tmp_path / f"{name}.txt").write_text("A sentence.")
    for model in quality_bench.models(tmp_path):
        for recipe in RECIPES:
            settings = quality_bench.settings_of(model, recipe)
            assert settings.model.name == model.name
            found = settings.recipe
            expected = found.name.replace("8da4w-", f"8da4w-{found.algorithm}-") if "hqq" in recipe else found.name
            assert expected == recipe
            if found.calibrated:
                assert found.calibration.source == model.calibration


def test_tables_show_what_is_worse_too():
    text = quality_tables.tables(RESULT)
    peer, ours = (next(line for line in text.splitlines() if name in line) for name in ("Q4_0", "8da8w"))
    assert peer == "| llama.cpp Q4_0 | 600.0 kB | 4.80 | 10.500 | +5.00 % | 0.0500 | 90.00 % | Q4_0 90 %, Q6_K 10 % |"
    assert "1.1 MB | 8.80 | 9.990 | -0.10 %" in ours
    assert "cosine 0.999999" in text
    assert "torch 9" in text


def test_an_unknown_recipe_is_told_in_a_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        quality_bench.main([str(tmp_path), "--only", "8da8w,q4"])
    assert ended.value.code == 2
    assert "--only=q4 is none of 8da4w-g32" in capsys.readouterr().err


def test_missing_texts_and_llama_cpp_are_told_in_a_sentence(monkeypatch, tmp_path, capsys):
    for found, sentence in ((None, "llama-cpp-python is not installed"), (object(), "held_out.txt does not exist")):
        monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name, found=found: found)
        with pytest.raises(SystemExit) as ended:
            quality_bench.main([str(tmp_path)])
        assert ended.value.code == 2
        assert sentence in capsys.readouterr().err

"""The comparison of quality with llama.cpp: its files, its scores, and how they are shown."""

import copy
import json
import math
from importlib import metadata

import gguf
import pytest
import torch

from et_pipeline.bench import peer_files, quality_tables, subjects
from et_pipeline.bench import quality as quality_bench
from et_pipeline.bench.quality import RECIPES
from et_pipeline.bench.subjects import MODELS, Model
from et_pipeline.checkpoints import llama_cpp
from et_pipeline.errors import UserError
from et_pipeline.evaluation.text_source import BUILTIN

RESULT = {
    "small": {
        "date": "2026-01-02",
        "machine": "a machine",
        "command": "bench",
        "versions": {"torch": "9"},
        "parameters": 1_000_000,
        "tokens": 8191,
        "original": 10.0,
        "rows": [
            {
                "name": "llama.cpp Q4_0",
                "file_bytes": 600_000,
                "bits_per_weight": 4.8,
                "types": {"Q4_0": 0.9, "Q6_K": 0.099, "F32": 0.001},
                "perplexity": 10.5,
                "ratio_interval": [1.04, 1.061],
                "kl": 0.05,
                "kl_interval": [0.045, 0.0562],
                "top1": 0.9,
            },
            {
                "name": "et_pipeline `8da8w`",
                "file_bytes": 1_100_000,
                "bits_per_weight": 8.8,
                "perplexity": 9.99,
                "ratio_interval": None,
                "kl": 0.001,
                "kl_interval": None,
                "top1": 0.99,
                "prefill": 1234.4,
                "decode": 56.7,
            },
        ],
    }
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


@pytest.fixture
def small(make_checkpoint, monkeypatch):
    """A model that reads the built-in text through short windows."""
    checkpoint = make_checkpoint("llama", num_hidden_layers=1, vocab_size=2048, tie_word_embeddings=True)
    text_ids = quality_bench.text_ids
    monkeypatch.setattr(quality_bench, "text_ids", lambda *given: text_ids(*given[:-1], _Tokenizer()))
    for name, value in {"TOKENS": 64, "WINDOW": 16, "STRIDE": 8}.items():
        monkeypatch.setattr(quality_bench, name, value)
    return Model(checkpoint, (), BUILTIN, "own")


class _Tokenizer:
    def encode(self, text, **_):
        return type("Encoding", (), {"ids": [3 + byte for byte in text.encode()]})

    def no_truncation(self): ...

    def no_padding(self): ...


def test_llama_cpps_types_are_scored_on_the_same_text(small, tmp_path):
    pytest.importorskip("cyllama")
    found = quality_bench.measure(small, ["Q8_0", "Q4_0"], tmp_path)
    exact, *types = found["rows"]
    assert (found["tokens"], exact["name"]) == (63, "llama.cpp F32")
    assert exact["kl"] < 1e-9
    assert exact["types"] == {"F32": 1.0}
    assert exact["perplexity"] == pytest.approx(found["original"], rel=1e-5)
    assert [each["name"] for each in types] == ["llama.cpp Q4_0", "llama.cpp Q8_0"]
    four, eight = types
    assert exact["kl"] < eight["kl"] < four["kl"]
    assert eight["bits_per_weight"] < 10 < exact["bits_per_weight"]
    for each in types:
        assert each["kl_interval"][0] <= each["kl"] <= each["kl_interval"][1]
        assert each["ratio_interval"][0] <= each["perplexity"] / found["original"] <= each["ratio_interval"][1]


def test_another_model_in_llama_cpp_is_refused(monkeypatch, small, tmp_path):
    """The gate before any type counts; llama.cpp itself need not be installed for it."""

    def another(path):
        return lambda sequences: [torch.randn(len(each), 2048) for each in sequences]

    monkeypatch.setattr(quality_bench, "_through_llama_cpp", another)
    with pytest.raises(UserError, match=r"in fp32 llama\.cpp is .* nats from transformers.* is not the same model"):
        quality_bench.measure(small, ["Q4_0"], tmp_path)


def test_descriptions_are_in_the_order_of_the_packages(monkeypatch):
    class Package:
        def __init__(self, name, text):
            self.name, self.metadata = name, {"Description": text}

    packages = [Package("b", "second\n"), Package("A", "x" * 9000), Package("c", None), Package("et-pipeline", "ours")]
    monkeypatch.setattr(metadata, "distributions", lambda: packages)
    assert subjects.descriptions() == ("x" * subjects.BEGINNING, "second")


def test_there_is_more_text_than_is_read():
    assert min(map(len, subjects.descriptions())) > 8 * quality_bench.TOKENS


def test_recipes_are_what_they_are_called(monkeypatch, tmp_path):
    for name in ("held_out.txt", "calibration.txt", subjects.SMOLLM2):
        (tmp_path / name).write_text("A sentence.")
    monkeypatch.setattr(subjects, "prepare", lambda *_: (tmp_path, {}))
    for find in MODELS.values():
        model = find(tmp_path)
        for recipe in RECIPES:
            settings = quality_bench.settings_of(model, recipe)
            found = settings.recipe
            expected = found.name.replace("8da4w-", f"8da4w-{found.algorithm}-") if "hqq" in recipe else found.name
            assert expected == recipe
            if found.calibrated:
                assert found.calibration.source == model.calibration


def test_tables_show_what_is_worse_too():
    text = quality_tables.tables(RESULT)
    peer, ours = (next(line for line in text.splitlines() if name in line) for name in ("Q4_0", "8da8w"))
    assert peer == (
        "| llama.cpp Q4_0 | 600.0 kB | 4.80 | 0.0500 [0.045, 0.0562] | 10.500 | 1.0500 [1.04, 1.061] | 90.00 % |  |  | "
        "Q4_0 90 %, Q6_K 10 % |"
    )
    assert "| 1.1 MB | 8.80 | 0.0010 | 9.990 | 0.9990 | 99.00 % | 1,234 | 57 |  |" in ours
    assert "Measured 2026-01-02 on a machine with `bench`. torch 9." in text


def test_rows_join_what_was_measured_of_the_same():
    (row, other), again = RESULT["small"]["rows"], copy.deepcopy(RESULT["small"])
    again["rows"] = [other | {"kl": 0.002}]
    found = quality_bench.merged(RESULT, "small", again)["small"]["rows"]
    assert found == [row, again["rows"][0]]
    for change in ({"original": 10.1}, {"machine": "another"}, {"versions": {"torch": "10"}}):
        assert quality_bench.merged(RESULT, "small", again | change)["small"]["rows"] == again["rows"]
    both = quality_bench.merged(RESULT, "large", again)
    assert both["small"] == RESULT["small"]
    assert both["large"] == again


def test_a_part_is_put_into_the_file(monkeypatch, tmp_path, capsys):
    asked = []

    def measure(model, only, logs):
        asked.append((model, only))
        return copy.deepcopy(RESULT["small"])

    monkeypatch.setattr(quality_bench, "measure", measure)
    monkeypatch.setattr(quality_bench, "MODELS", {"small": lambda folder: folder, "large": None})
    kept = tmp_path / "quality.json"
    kept.write_text(json.dumps({"models": {"large": RESULT["small"]}}))
    quality_bench.main([str(tmp_path), "--model", "small", "--only", "8da8w,Q4_0", "--json", str(kept)])
    assert asked == [(tmp_path, ["8da8w", "Q4_0"])]
    assert list(json.loads(kept.read_text())["models"]) == ["large", "small"]
    assert "### small" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "8da8w,q4"], "--only=q4 is none of 8da4w-g32"),
        (["--model", "tiny"], "--model=tiny is none of tiny_assistant, tiny_writer"),
        (["--model", "tiny_writer"], "held_out.txt does not exist; `python -m"),
        (["--model", "SmolLM2-135M-Instruct"], "Q4_1.gguf does not exist; make bench-quality downloads it"),
    ],
)
def test_mistakes_are_told_in_a_sentence(arguments, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        quality_bench.main([str(tmp_path), *arguments])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_missing_llama_cpp_is_told_in_a_sentence(monkeypatch, small, tmp_path, capsys):
    monkeypatch.setattr(llama_cpp.util, "find_spec", lambda name: None)
    monkeypatch.setattr(quality_bench, "MODELS", {"small": lambda folder: small})
    with pytest.raises(SystemExit) as ended:
        quality_bench.main([str(tmp_path), "--model", "small"])
    assert ended.value.code == 2
    assert "cyllama, which is llama.cpp for Python, is not installed" in capsys.readouterr().err

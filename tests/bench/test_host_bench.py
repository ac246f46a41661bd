"""The benchmark beside other runtimes: its rounds, its figures, and what it gives to others."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import gguf
import numpy as np
import pytest
import torch
from make_gguf import write_gguf
from safetensors.torch import load_file

from et_pipeline.bench import contenders, engines, host_picture, host_tables, peer_files
from et_pipeline.bench import host as host_bench
from et_pipeline.bench.host_tables import AT, DECODE, ITEMS, LLAMA_CPP, OURS, PREFILL_128, PREFILL_512, READ, Item
from et_pipeline.errors import UserError
from et_pipeline.runtime.program import Program


def contender(name, kind, factor):
    """Takes `factor` milliseconds per token, and one and a half as long in the second of three rounds."""
    seconds = {item.name: [item.tokens * factor / 1e3 * late for late in (1, 1.5, 1.2)] for item in ITEMS}
    run = {
        "load_s": [0.5, 0.7, 0.4],
        "seconds": seconds,
        "memory": {"anonymous_bytes": 2_000_000, "file_bytes": 0},
        "idle_share": 0.004,
    }
    return {
        "name": name,
        "kind": kind,
        "file_bytes": 100_000_000,
        "weights_read_bytes": 80_000_000,
        "kv_bytes": 1000,
        "head_type": "Q6_K" if kind == LLAMA_CPP else None,
        "cosine": 0.987,
        "cpu_s": 300.0,
        "peak_rss_bytes": 10**9,
        "threads": {"2": run, "1": run},
    }


RESULT = {
    "date": "2026-01-02",
    "machine": "a machine",
    "command": "bench",
    "rounds": 3,
    "others_cpu_share": 0.25,
    "versions": {"torch": "9"},
    "left_out": {"a peer": "it is not installed"},
    "shapes": [
        {
            "model": "small",
            "read_bytes": 10**9,
            "read_s": {"2": [0.1, 0.05], "1": [0.2, 0.1]},
            "contenders": [contender("ours", OURS, 1.0), contender("llama.cpp", LLAMA_CPP, 2.0)],
        }
    ],
}


def test_one_works_at_a_time_and_each_round_begins_with_another():
    asked = []
    deep, flat = (Item("a", 1), Item("b", 2)), (Item("b", 2),)
    clocks = {
        name: (lambda item, name=name: asked.append((item.op, name)) or len(asked), items)
        for name, items in (("x", deep), ("y", flat), ("z", deep))
    }
    seconds = host_bench.interleave(clocks, 2, deep)
    first = [("a", "x"), ("a", "z"), ("b", "x"), ("b", "y"), ("b", "z")]
    assert asked == [*first, ("a", "z"), ("a", "x"), ("b", "y"), ("b", "z"), ("b", "x")]
    assert seconds["x"] == {"a 1 at 0": [1, 7], "b 2 at 0": [3, 10]}
    assert list(seconds["y"]) == ["b 2 at 0"]


def test_ratios_are_of_medians_and_of_the_best():
    result = copy.deepcopy(RESULT)
    base = result["shapes"][0]["contenders"][1]["threads"]["2"]["seconds"]
    base[DECODE.name] = [0.064, 0.128, 0.128]  # 250 tok/s in the middle, 500 at best
    text = host_tables.tables(result)
    assert "| ours | 2 | 833 (1,000) 2.00x (2.00x) | 833 (1,000) 2.00x (2.00x) | 833 (1,000) 3.33x (2.00x) |" in text
    assert "| llama.cpp | 2 | 417 (500) | 417 (500) | 250 (500) |" in text
    assert "Left out: a peer (it is not installed)." in text
    assert "others used 25 % of the machine" in text
    assert "llama.cpp, head Q6_K" in text
    assert "20.0 GB/s with 2 threads, 10.0 GB/s with one thread" in text


def test_without_llama_cpp_there_are_no_ratios():
    result = copy.deepcopy(RESULT)
    del result["shapes"][0]["contenders"][1]
    assert "| ours | 2 | 833 (1,000) | 833 (1,000) | 833 (1,000) |" in host_tables.tables(result)


def test_share_of_bandwidth_counts_weights_and_cache():
    (shape,) = RESULT["shapes"]
    share = host_tables.roofline_share(shape, shape["contenders"][0], "2")
    assert share == pytest.approx((32 / 0.0384) * (80_000_000 + 144 * 1000) / 20e9)


def test_picture_has_a_bar_for_each_figure():
    root = ElementTree.fromstring(host_picture.host_svg(RESULT))
    bars = [box for box in root.iter("{http://www.w3.org/2000/svg}rect") if box.get("x")]
    assert len(bars) == 2 * 3
    for box in bars:
        assert float(box.get("x")) + float(box.get("width")) <= host_picture.WIDTH


def test_what_is_measured_fits_into_the_context():
    assert max(item.start + item.tokens for item in ITEMS) <= host_bench.CONTEXT
    assert {PREFILL_512, PREFILL_128, DECODE} <= set(ITEMS)
    assert DECODE in AT[128]
    assert set(host_tables.SHALLOW) <= set(ITEMS)


def test_a_program_is_measured_in_its_own_process(tiny_program, monkeypatch, tmp_path):
    items = (Item("prefill", 40), Item("decode", 4, 24), Item("prefill", 16))
    monkeypatch.setattr(host_bench, "ITEMS", items)
    monkeypatch.setattr(host_bench, "PREFILL_128", items[-1])
    monkeypatch.setattr(host_bench, "READ", READ._replace(tokens=1 << 20))
    monkeypatch.setattr(host_bench, "CONTEXT", 64)
    monkeypatch.setattr(host_bench, "LOADS", 1)  # a process takes seconds to start
    found = [host_bench.Contender("tiny", OURS, tiny_program.pte)]
    results, reads = host_bench.measure(found, 512, threads=1, rounds=2, logs=tmp_path)
    tiny = results["tiny"]
    assert {name: len(times) for name, times in tiny["seconds"].items()} == {item.name: 2 for item in items}
    assert min(min(times) for times in tiny["seconds"].values()) > 0
    assert (len(reads), len(tiny["load_s"])) == (2, 1)
    assert tiny["idle_share"] < 0.5
    prompt = np.random.default_rng(0).integers(engines.FIRST_TOKEN, 512, 64)[:16]
    expected = Program(tiny_program.pte).prefill(torch.from_numpy(prompt)[None])
    assert tiny["logits"] == pytest.approx(expected.tolist(), abs=1e-5)


def test_peers_that_are_not_installed_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: None)
    settings = SimpleNamespace(model=SimpleNamespace(checkpoint=0), seed=0)
    monkeypatch.setattr(host_bench, "settings_of", lambda *_: settings)
    monkeypatch.setattr(host_bench, "prepare", lambda *_: (tmp_path, {}))
    (tmp_path / "config.json").write_text('{"vocab_size": 8}')
    left_out = {}
    with pytest.raises(UserError, match="nobody to measure with tiny: llama-cpp-python is not installed"):
        host_bench._bench_shape("tiny", ["llama.cpp Q4_0"], {}, SimpleNamespace(), tmp_path, tmp_path, left_out)
    assert left_out == {"llama.cpp Q4_0": "llama-cpp-python is not installed; make bench-host installs it"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "llama"], "--only=llama is none of et_pipeline 8da4w-g32"),
        (["--shapes", "XL"], "--shapes=XL is none of S, M"),
        (["--pte", "mine=nowhere.pte"], "--pte=mine=nowhere.pte is not NAME=PATH"),
    ],
)
def test_mistakes_are_told_in_a_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        host_bench.main(arguments)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_gguf_holds_the_checkpoint_as_llama_cpp_orders_it(make_checkpoint, tmp_path):
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = {**scaling, "original_max_position_embeddings": 8192, "rope_theta": 500000.0}
    checkpoint = make_checkpoint("llama", num_hidden_layers=1, rope_parameters=rope)
    peer_files.write_gguf(checkpoint, tmp_path / "ours.gguf")
    expected = gguf.GGUFReader(write_gguf(tmp_path / "expected.gguf", checkpoint, gguf.GGMLQuantizationType.F16))
    written = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "ours.gguf").tensors}
    divisors = written.pop("rope_freqs.weight").data
    assert divisors.min() == pytest.approx(1.0)
    assert divisors.max() == pytest.approx(8.0)
    assert set(written) == {tensor.name for tensor in expected.tensors}
    for tensor in expected.tensors:
        np.testing.assert_array_equal(written[tensor.name].data, tensor.data)
    shape = peer_files.Shape(checkpoint, json.loads((checkpoint / "config.json").read_text()))
    embedding = written["token_embd.weight"].n_bytes
    total = sum(tensor.n_bytes for tensor in written.values())
    read = contenders.weights_read(LLAMA_CPP, tmp_path / "ours.gguf", shape)
    assert read == total + divisors.nbytes - embedding  # not tied: of the embedding a row is read


def test_meta_checkpoint_computes_the_same(tiny_llama, tmp_path):
    from executorch.examples.models.llama.llama_transformer import construct_transformer
    from executorch.examples.models.llama.model_args import ModelArgs
    from transformers import AutoModelForCausalLM

    shape = peer_files.Shape(tiny_llama, json.loads((tiny_llama / "config.json").read_text()))
    peer_files.write_meta_checkpoint(shape, tmp_path)
    model = construct_transformer(ModelArgs(**json.loads((tmp_path / "params.json").read_text())))
    model.load_state_dict(torch.load(tmp_path / "consolidated.pth"), strict=False)
    tokens = torch.arange(3, 20)[None]
    with torch.no_grad():
        found = model.eval()(tokens)
        expected = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)(tokens).logits[:, -1]
    logits = (found[0] if isinstance(found, tuple) else found).reshape(1, -1)
    # Sums in another order: 1.06e-5 of a logit of .29 on one machine.
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_a_program_reads_all_but_its_embedding(tiny_llama, tmp_path):
    shape = peer_files.Shape(tiny_llama, json.loads((tiny_llama / "config.json").read_text()))
    path = tmp_path / "model.pte"
    path.write_bytes(bytes(100_000))
    assert contenders.weights_read(OURS, path, shape) == 100_000 - 512 * (128 + 4)
    assert contenders.kv_bytes(OURS, shape) == 2 * contenders.kv_bytes(LLAMA_CPP, shape) == 2 * 2 * 2 * 32 * 4
    assert sum(tensor.dim() > 1 for tensor in load_file(Path(tiny_llama) / "model.safetensors").values()) == 2 * 7 + 1

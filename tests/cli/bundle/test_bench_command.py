"""`et-bundle bench`."""

from __future__ import annotations

import json

from made_bundle import PTE, EmbeddingProgram


def test_bench(run, folder, monkeypatch):
    from et_pipeline.runtime import speed

    figure = speed.Percentiles(p10=1.0, p50=2.0, p90=3.0)
    calls = []

    def measure_speed(*arguments):
        calls.append(arguments)
        return speed.Speed(
            prompt_tokens=9, decode_tokens=5, load_ms=figure, ttft_ms=figure, prefill_tok_s=figure, decode_tok_s=figure,
            program_rss_bytes=10**6,
            peak_rss_bytes=10**8,
        )  # fmt: skip

    monkeypatch.setattr(speed, "measure_speed", measure_speed)
    code, out, _ = run("bench", folder, "--prompt-tokens", 9, "--decode-tokens", 5, "--rounds", 4, "--threads", 3)
    assert code == 0
    assert "2.0 (1.0 to 3.0)" in out
    assert calls == [(folder / PTE, folder / "tokenizer.json", 9, 5, 4, 3, None)]
    _, out, _ = run("bench", folder, "--json", "--threads", 3)
    assert json.loads(out)["threads"] == 3


def test_bench_refuses_more_than_the_context(run, folder):
    code, _, err = run("bench", folder, "--prompt-tokens", 500, "--decode-tokens", 13)
    assert code == 2
    assert "exceed the context of 512 tokens" in err


def test_bench_of_an_embedding(run, embeddings, monkeypatch):
    from et_pipeline.runtime import embedding

    monkeypatch.setattr(embedding, "Program", EmbeddingProgram)
    monkeypatch.setattr(embedding, "read_metadata", lambda path: {"get_vocab_size": 300})
    code, out, err = run("bench", embeddings, "--prompt-tokens", 32, "--rounds", 2, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["tokens"] == 32
    code, _, err = run("bench", embeddings, "--prompt-tokens", 65)
    assert (code, err) == (2, "a text has 65 tokens, and the program takes 1 to 64\n")

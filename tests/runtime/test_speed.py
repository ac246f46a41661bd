import pytest

from et_pipeline.errors import UserError
from et_pipeline.runtime.speed import build_prompt, measure_speed, percentiles


def test_percentiles():
    assert percentiles([3, 1, 2]).model_dump() == pytest.approx({"p10": 1.2, "p50": 2, "p90": 2.8})


def test_prompt_has_the_wanted_length(tiny_llama):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_llama / "tokenizer.json"))
    assert len(tokenizer.encode(build_prompt(tokenizer, 37)).ids) == 37


def test_measures_with_the_llm_runner(tiny_program, capfd):
    speed = measure_speed(tiny_program.pte, tiny_program.checkpoint / "tokenizer.json", 20, 12, rounds=2, threads=1)
    assert speed.prompt_tokens == 20
    assert 1 <= speed.decode_tokens <= 12
    for spread in (speed.ttft_ms, speed.prefill_tok_s, speed.decode_tok_s):
        assert 0 < spread.p10 <= spread.p50 <= spread.p90
    assert speed.load_ms.p10 >= 0
    assert speed.peak_rss_bytes > tiny_program.pte.stat().st_size
    assert 0 < speed.program_rss_bytes < 200e6
    assert capfd.readouterr() == ("", "")


def test_more_tokens_than_the_context(tiny_program):
    with pytest.raises(UserError, match="context of 64"):
        measure_speed(tiny_program.pte, tiny_program.checkpoint / "tokenizer.json", 60, 12, rounds=1, threads=1)


def test_unreadable_tokenizer(tiny_program, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"is not a tokenizer\.json"):
        measure_speed(tiny_program.pte, tmp_path / "tokenizer.json", 8, 8, rounds=1, threads=1)

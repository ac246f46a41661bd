"""Sentences of the closing tables."""

from et_pipeline.manifest import Adaptation, ProgramInfo, Rounded, SourceQuantization
from et_pipeline.report.words import adapted, imported, outside


def program(**changes):
    parts = {
        "file": "model.pte",
        "backend": "vulkan",
        "methods": ["forward"],
        "max_context": 8,
        "prefill_chunk": 1,
        "min_runtime": "1.5.1",
        "executed": False,
        "delegates": 2,
    }
    return ProgramInfo(**{**parts, **changes})


def test_what_runs_outside_is_told_by_reason():
    counts = {"aten::cat.out": 1, "aten::index_put.out": 4, "aten::add.out": 2, "aten::sin.out": 1}
    no_kernel = dict.fromkeys(("aten::cat.out", "aten::index_put.out"), "no kernel")
    assert outside(program(fallback_operators=counts, fallback_reasons={**no_kernel, "aten::add.out": "int64"})) == [
        "no kernel: 4 x aten::index_put.out, aten::cat.out",
        "int64: 2 x aten::add.out",
        "reason unknown: aten::sin.out",
    ]
    assert outside(program()) == []
    assert outside(program(delegates=0, fallback_operators={"aten::add.out": 1})) == ["no delegate: aten::add.out"]


def test_what_is_left_of_a_quantized_source_is_told_in_a_line():
    nothing = Rounded(weights=0, error=0.0)
    source = SourceQuantization(form="awq (4 bits)", kept=nothing, requantized=Rounded(weights=12_345, error=0.0724))
    assert imported(source) == "awq (4 bits); 12,345 weights requantized, off by 7.2 %"
    source = SourceQuantization(form="gptq (4 bits)", kept=Rounded(weights=678, error=0.00112), requantized=nothing)
    assert imported(source) == "gptq (4 bits); 678 integers kept, scales off by 0.11 %"
    source = SourceQuantization(form="torchao (8 bits)", kept=Rounded(weights=678, error=0.0), requantized=nothing)
    assert imported(source) == "torchao (8 bits); 678 integers kept, scales too"
    assert imported(SourceQuantization(form="gptq (4 bits)")) == "gptq (4 bits)"


def test_what_was_done_to_a_model_in_words():
    moved = {"kl": 0.5144, "kl_low": 0.5, "kl_high": 0.53, "perplexity": 64.2, "original_perplexity": 44.7}
    learned = {"steps": 600, "tokens": 1_234_567}
    steps = {
        "merge_lora": ({"rank": 8, "tensors": 28}, "merge lora: rank 8, 28 tensors changed"),
        "prune_width": (
            {"before": 100, "after": 75, "cut": "feed-forward channels 1024 to 704", **moved},
            "prune width: feed-forward channels 1024 to 704, 75% of the parameters left; then KL 0.5144 nats "
            "[0.5, 0.53], perplexity 64.200 (before all 44.700)",
        ),
        "distill": (
            {**learned, **moved, "perplexity": None},
            "distill: 600 steps, 1,234,567 tokens; then KL 0.5144 nats [0.5, 0.53]",
        ),
        "qat": (
            {**learned, "before": 0.0224, "after": 0.0201, "changed": 0.051},
            "qat: 600 steps, 1,234,567 tokens, 5.1 % of the integers changed; KL on texts kept back 0.0224 to 0.0201 "
            "nats",
        ),
    }
    for name, (figures, sentence) in steps.items():
        assert adapted(Adaptation(step=name, figures=figures)) == sentence

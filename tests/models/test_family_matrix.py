"""Every family of transformers' causal LMs at tiny size: equal to transformers, or refused in one sentence."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from et_pipeline.bench import families as matrix
from et_pipeline.bench.families import FAMILIES, FORM, FORMS, MOST, TOKENS, greatest_error, judge, tiny_config
from et_pipeline.bench.family_table import table
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.lacks import what_lacks
from et_pipeline.checkpoints.reader import load_model, prepare
from et_pipeline.checkpoints.skeleton import build_skeleton
from et_pipeline.errors import UserError
from et_pipeline.evaluation.agreement import compare
from et_pipeline.forecast import architecture_of
from et_pipeline.models.dry_run import check_attention
from et_pipeline.models.rope import freeze_rope
from et_pipeline.quantization.torchao_config import quantize_module
from et_pipeline.runtime.program import Program

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((ROOT / "docs/results/families.json").read_text(encoding="utf-8"))
EQUAL = [each["family"] for each in RESULTS["families"] if each["errors"]]
# Between them: heads of their own names, norms with biases, learned positions, biases, one key head, parallel layers.
QUANTIZED = [
    "biogpt",
    "cohere2",
    "glm4",
    "gpt_bigcode",
    "gpt_neox",
    "granite",
    "nemotron",
    "olmo2",
    "opt",
    "stablelm",
    "starcoder2",
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_family_is_tried():
    assert set(FAMILIES) | matrix.NOT_BUILT == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert [each["family"] for each in RESULTS["families"]] == list(FAMILIES), "run make families"


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_or_refused(family, tmp_path):
    outcome = judge(family, tmp_path)
    assert outcome.result == ("equal" if family in EQUAL else "refused"), outcome
    assert outcome.error <= MOST
    if outcome.result == "refused":
        assert "\n" not in outcome.sentence
        assert len(outcome.sentence) < 400


def test_a_difference_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(matrix, "reference", lambda folder: torch.ones(48, 128))
    assert judge("llama", tmp_path).result == "failed"


def test_a_traceback_is_no_refusal(tmp_path, monkeypatch):
    monkeypatch.setattr(matrix, "enter", lambda folder: {}["nothing"])
    outcome = judge("llama", tmp_path)
    assert outcome.result == "failed"
    assert "KeyError" in outcome.sentence


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_one_family(form, tmp_path):
    assert judge("nemotron", tmp_path, form).result == "equal"


def test_a_form_that_cannot_hold_a_family_refuses_it(tmp_path):
    outcome = judge("lfm2", tmp_path, "static_decoder")
    assert outcome.result == "refused"
    assert "layers of kind conv, which programs of static shape cannot hold; use backend=xnnpack" in outcome.sentence


def test_the_table_counts_them(tmp_path):
    result = matrix.measure(["gpt2", "llama", "mixtral"], lambda line: None)
    text = table(result)
    assert "Of the 3 families" in text
    assert "1 go through, and 2 are refused" in text
    assert "| `llama` | Llama 2, " in text
    assert "| is a mixture of experts | `mixtral` |" in text
    result["families"][1]["errors"].pop("static_decoder")
    assert "| `decoder`, `external_cache` |" in table(result)


def test_the_command_writes_figures_and_ends_with_1_for_a_failure(tmp_path, monkeypatch, capsys):
    matrix.main(["--json", str(tmp_path / "found.json"), "--only", "arcee"])
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["families"][0]["family"] == "arcee"
    assert "{'equal': 1}" in capsys.readouterr().out
    monkeypatch.setattr(matrix, "reference", lambda folder: torch.ones(48, 128))
    with pytest.raises(SystemExit) as ended:
        matrix.main(["--only", "arcee"])
    assert ended.value.code == 1


@pytest.mark.slow
@pytest.mark.parametrize("family", EQUAL)
def test_program_equals_transformers(family, tmp_path, lower_checkpoint):
    matrix.write_checkpoint(family, tmp_path)
    lowered = lower_checkpoint(tmp_path, FORM, scheme="fp32", embedding_bits=32)
    feed = Program(lowered.pte, threads=1).forward
    error = greatest_error(feed, matrix.reference(tmp_path), matrix.WAYS)
    print(f"{family}: {error:.1e}, {lowered.delegation.delegates} delegates")
    assert error <= MOST


def rounding_floor(model, expected):
    """How far the eager model is from itself when its linears' inputs change in their last bit; see test_families."""
    generator = torch.Generator().manual_seed(1)

    def nudge(module, inputs):
        return (inputs[0] * (1 + 6e-7 * torch.randn(inputs[0].shape, generator=generator)),)

    hooks = [each.register_forward_pre_hook(nudge) for each in model.modules() if isinstance(each, nn.Linear)]
    with torch.no_grad():
        runs = [compare(model(TOKENS).logits[0], expected) for _ in range(12)]
    for hook in hooks:
        hook.remove()
    return min(run.min_cosine for run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("family", QUANTIZED)
def test_quantized_program_equals_the_quantized_model(family, tmp_path, lower_checkpoint):
    matrix.write_checkpoint(family, tmp_path)
    lowered = lower_checkpoint(tmp_path, FORM)
    model = load_model(tmp_path, partial(quantize_module, q=lowered.quantization))
    freeze_rope(model, FORM.max_context)
    with torch.no_grad():
        expected = model(TOKENS).logits[0]
    floor, feed = rounding_floor(model, expected), Program(lowered.pte, threads=1).forward
    for chunk in matrix.WAYS:
        pieces = [(start, TOKENS[:, start : start + chunk]) for start in range(0, TOKENS.shape[1], chunk)]
        found = torch.stack([feed(piece, start).reshape(-1) for start, piece in pieces])
        agreement = compare(found, expected[[start + piece.shape[1] - 1 for start, piece in pieces]])
        print(f"{family}, {chunk} tokens a call: {agreement.min_cosine:.6f}, floor {floor:.6f}")
        assert 1 - agreement.min_cosine <= 1e-5 + 2 * (1 - floor)


def tiny(family):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(tiny_config(family), dtype=torch.float32)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("gpt2", r"transposed \(Conv1D\)"),
        ("gptj", "does not let its attention be replaced: 0 of its 2 layers"),
        ("codegen", "does not let its attention be replaced"),
        ("gpt_neo", "does not let its attention be replaced"),
        ("gpt_neox_japanese", "does not let its attention be replaced"),
        ("xglm", "does not let its attention be replaced"),
        ("bloom", "does not let its attention be replaced"),
        ("falcon", "cannot be run with another cache than its own"),
        ("xlm", "cannot be run with another cache than its own"),
        ("mpt", "cannot be run with another cache than its own"),
        ("granite_swa", r"attention sinks \(s_aux\)"),
        ("minicpm3", r"has keys of \d+ numbers and values of \d+"),
        ("diffllama", "outside of its attention"),
        ("doge", "a mask of its own"),
        ("bert-generation", "attends to later tokens"),
    ],
)
def test_a_dry_run_finds_what_the_config_does_not_show(family, message):
    model = tiny(family)
    usual = model.config._attn_implementation
    with pytest.raises(UserError, match=message):
        check_attention(model, model.config.get_text_config())
    assert model.config._attn_implementation == usual


def test_a_dry_run_leaves_a_model_as_it_is(tiny_llama):
    model = load_model(tiny_llama)
    with torch.no_grad():
        before = model(TOKENS).logits
        check_attention(model, model.config)
        assert torch.equal(model(TOKENS).logits, before)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_frequencies_that_depend_on_positions_are_no_hindrance(kind, make_checkpoint):
    factors = {"short_factor": [1.0] * 16, "long_factor": [2.0] * 16} if kind == "longrope" else {"factor": 4.0}
    rope = {"rope_type": kind, "rope_theta": 1e4, "original_max_position_embeddings": 32, **factors}
    model = prepare(Folder(make_checkpoint("llama", rope_parameters=rope))).model
    check_attention(model, model.config)
    assert model.model.rotary_emb.rope_type == kind


def test_layers_that_cache_something_else_than_the_config_says():
    model = tiny("llama")
    model.config.num_key_value_heads = 4
    with pytest.raises(UserError, match="layer 0 caches 2 heads of 16 numbers, where its config says 4 of 16"):
        check_attention(model, model.config)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("gpt2", r"keeps its linear layers transposed \(Conv1D\)"),
        ("mixtral", r"is a mixture of experts \(num_local_experts=8\)"),
        ("mamba", r"has state-space layers \(state_size=16\)"),
        ("bart", r"has an encoder beside its decoder \(is_encoder_decoder=true\)"),
        ("youtu", r"multi-head latent attention, kv_lora_rank=512"),
        ("bloom", "our attention adds no bias"),
    ],
)
def test_a_plan_refuses_what_a_run_would(family, message, tmp_path, command):
    matrix.write_config(family, tmp_path / "model")
    code, out, err = command("mode=plan", "model=custom", "task=chat", f"model.source={tmp_path / 'model'}")
    assert (code, out) == (2, "")
    assert re.search(message, err)
    assert "Traceback" not in err


def test_acquire_refuses_what_a_config_does_not_show(make_checkpoint, command):
    folder = make_checkpoint("granite_swa", sliding_window=16)
    lengths = ["model.max_context=64", "model.prefill_chunk=16", "measure.prompt_tokens=8", "measure.decode_tokens=8"]
    code, _, err = command("model=custom", "task=chat", "until=acquire", f"model.source={folder}", *lengths)
    assert code == 2
    assert "family granite_swa has attention sinks (s_aux), which our attention lacks" in err
    assert "Traceback" not in err


def test_a_class_says_what_a_file_leaves_out(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mixtral", "num_hidden_layers": 2}))
    with pytest.raises(UserError, match=r"mixture of experts \(num_local_experts=8\)"):
        build_skeleton(Folder(tmp_path))


def test_a_head_that_files_call_otherwise(tmp_path):
    matrix.write_checkpoint("gpt_neox", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "embed_out.weight" in tensors
    model = load_model(tmp_path)
    assert torch.equal(model.lm_head.weight, tensors["embed_out.weight"])
    assert not architecture_of(Folder(tmp_path)).tied_head


@pytest.mark.parametrize("family", ["doge", "granitemoehybrid"])
def test_no_experts_where_a_config_has_them_switched_off(family):
    config = tiny_config(family).to_dict() | {"is_moe": False, "num_experts": 64 if family == "doge" else 0}
    assert "experts" not in (what_lacks(config) or "")

"""The training of tiny-assistant: a killed run goes on as if nothing had happened, and rounding is what it says."""

import dataclasses
import json

import pytest

torch = pytest.importorskip("torch")

from et_pipeline.tiny_assistant import data, export, score, text, train  # noqa: E402 (after importorskip)

MINUTE = data.Settings(
    steps=30,
    vocabulary=400,
    hidden=32,
    feed_forward=64,
    layers=1,
    heads=2,
    key_value_heads=1,
    rows=2,
    warmup=3,
    plain_steps=12,
    decay_steps=10,
)


@pytest.fixture(scope="module")
def tokenizer():
    original, data.TOKENIZER_SAMPLES = data.TOKENIZER_SAMPLES, 300
    try:
        yield data.train_tokenizer(MINUTE)
    finally:
        data.TOKENIZER_SAMPLES = original


def test_a_resumed_run_gives_the_same_weights(tmp_path, tokenizer):
    whole, _ = train.train_model(MINUTE, tokenizer, tmp_path / "whole", save_every=10)
    # Killed at step 17: what was done after the last saved state, at step 10, is lost and done again.
    train.train_model(MINUTE, tokenizer, tmp_path / "killed", save_every=10, stop_at=17)
    assert torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["step"] == 10
    resumed, _ = train.train_model(MINUTE, tokenizer, tmp_path / "killed", save_every=10)
    for (name, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_a_half_written_state_is_never_read(tmp_path, tokenizer):
    (tmp_path / "state.pt.tmp").write_bytes(b"half")
    train.train_model(MINUTE, tokenizer, tmp_path, save_every=10, stop_at=10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.pt"]


def test_a_shorter_run_can_be_made_longer_before_its_learning_rate_falls(tmp_path, tokenizer):
    longer = dataclasses.replace(MINUTE, steps=40)
    whole, _ = train.train_model(longer, tokenizer, tmp_path / "whole")
    train.train_model(MINUTE, tokenizer, tmp_path / "grown", save_every=10, stop_at=20)
    grown, _ = train.train_model(longer, tokenizer, tmp_path / "grown")
    assert torch.equal(whole.model.embed_tokens.weight, grown.model.embed_tokens.weight)


@pytest.mark.parametrize(("step", "expected"), [(20, True), (21, False)])
def test_a_state_past_the_constant_learning_rate_belongs_to_its_run_alone(step, expected):
    state = {"settings": dataclasses.asdict(MINUTE), "vocabulary": "v", "step": step}
    assert train.can_continue(MINUTE, "v", state)
    assert not train.can_continue(MINUTE, "other", state)
    assert train.can_continue(dataclasses.replace(MINUTE, steps=40), "v", state) == expected


def test_a_state_of_other_settings_is_left_alone(tmp_path, tokenizer):
    train.train_model(MINUTE, tokenizer, tmp_path, save_every=10, stop_at=10)
    other = dataclasses.replace(MINUTE, seed=MINUTE.seed + 1)
    fresh, _ = train.train_model(other, tokenizer, tmp_path, stop_at=0)
    assert torch.equal(fresh.lm_head.weight, train.make_model(other, tokenizer).lm_head.weight)


def test_samples_in_a_row_do_not_see_each_other(tokenizer):
    batch = data.make_batch(tokenizer.backend_tokenizer, MINUTE, step=3)
    model = train.make_model(MINUTE, tokenizer).eval()
    starts = (batch["positions"][0] == 0).nonzero().flatten().tolist()
    first, second = starts[0], starts[1]
    packed = model.model(
        input_ids=batch["ids"], attention_mask=batch["mask"], position_ids=batch["positions"]
    ).last_hidden_state
    third = starts[2] if len(starts) > 2 else MINUTE.row_tokens
    for here in (slice(first, second), slice(second, third)):
        size = int(batch["positions"][0, here].max()) + 1
        alone = model.model(input_ids=batch["ids"][:1, here.start : here.start + size]).last_hidden_state
        torch.testing.assert_close(alone[0], packed[0, here.start : here.start + size], atol=1e-5, rtol=1e-4)


def test_only_the_assistant_is_a_target(tokenizer):
    sample = text.Sample("chat", ({"role": "user", "content": "Hello!"},), "Good day.", frozenset())
    ids, targets = data.encode_sample(tokenizer.backend_tokenizer, sample)
    assert len(ids) == len(targets)
    assert tokenizer.decode([t for t in targets if t != data.IGNORED]) == "Good day.<|end|>"


@pytest.mark.parametrize(("group", "levels"), [(32, 16), (64, 16)])
def test_rounding_leaves_sixteen_levels_and_the_gradient(group, levels):
    weight = torch.randn(8, 64, requires_grad=True)
    value = train.rounded(weight, group)
    assert all(len(part.unique()) <= levels for part in value.detach().reshape(-1, group))
    value.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_rounding_matches_the_deployed_form():
    torchao = pytest.importorskip("torchao.quantization")
    linear = torch.nn.Linear(64, 16, bias=False)
    mine = train.rounded(linear.weight, 32).detach()
    config = torchao.IntxWeightOnlyConfig(
        weight_dtype=torch.int4,
        granularity=torchao.PerGroup(32),
        mapping_type=torchao.MappingType.SYMMETRIC_NO_CLIPPING_ERR,
    )
    torchao.quantize_(linear, config)
    torch.testing.assert_close(linear.weight.dequantize(), mine, atol=1e-5, rtol=1e-4)


def test_export_writes_a_whole_folder(tmp_path, tokenizer, monkeypatch):
    items = text.evaluation_jsonl().splitlines()[::140]
    monkeypatch.setattr(text, "evaluation_jsonl", lambda: "\n".join(items))
    monkeypatch.setattr(score, "MAX_NEW_TOKENS", 3)
    out = tmp_path / "checkpoint"
    scores = export.export(train.make_model(MINUTE, tokenizer).eval(), tokenizer, MINUTE, 1.0, out, [])
    assert set(scores) == set(score.FORMS)
    assert json.loads((out / "scores.json").read_text())["scores"] == scores["fp32"]
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    model, again = export.load_checkpoint(out)
    assert again.chat_template == data.CHAT_TEMPLATE
    assert model.lm_head.weight.dtype == torch.float32
    assert {p.name for p in out.iterdir()} >= {"SHA256SUMS", "README.md", "model.safetensors", "tokenizer.json"}

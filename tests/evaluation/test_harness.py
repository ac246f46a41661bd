"""lm-evaluation-harness on a real bundle: the program's figures against transformers' own (make test-eval)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from et_pipeline import tiny_assistant
from et_pipeline.checkpoints.folder import Folder

pytest.importorskip("lm_eval", reason="the extra 'eval' is not installed")
pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
CHOICES = [
    {
        "q": "Translate to French: Where is the station?",
        "choices": ["Où est la gare ?", "Wo ist der Bahnhof?"],
        "answer": 0,
    },
    {"q": "hey there! what is the capital of japan", "choices": ["A", "B", "C"], "answer": 1},
    {"q": "", "choices": ["Hello", "42"], "answer": 0},
]
TEXTS = ["The train to Lyon leaves from platform four. " * 8, "Two tickets to Berlin, please, one way."]
COMMON = """
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
"""
TASKS = {
    "mine_choice": (
        CHOICES,
        "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: choices\ndoc_to_target: answer\n"
        "metric_list: [{metric: acc}]\n",
    ),
    "mine_rolling": (
        [{"text": text} for text in TEXTS],
        "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
        "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n",
    ),
    "mine_answer": (
        [{"q": "Q", "a": "a"}],
        "output_type: generate_until\ndoc_to_text: 'PROMPT'\ndoc_to_target: '{{a}}'\n"
        "generation_kwargs: {until: ['.'], max_gen_toks: 20}\nmetric_list: [{metric: exact_match}]\n",
    ),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The built-in model without quantization and with a short context, so that texts take several windows."""
    folder = tmp_path_factory.mktemp("eval")
    arguments = ["recipe=fp32", "model.max_context=64", "model.prefill_chunk=16", "name=tiny"]
    little = ["verify.sequences=2", "verify.items_per_task=0", "measure.rounds=1"]
    lengths = ["measure.prompt_tokens=8", "measure.decode_tokens=4", f"paths.cache={folder / 'cache'}"]
    done = subprocess.run(
        [BIN / "et-pipeline", *arguments, *little, *lengths], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "bundles" / "tiny"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    for name, (rows, text) in TASKS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / f"{name}.yaml").write_text(f"task: {name}\n" + COMMON.replace("DATA", str(data)) + text)
    return folder


@pytest.fixture(scope="module")
def model(bundle):
    from et_pipeline import manifest
    from et_pipeline.evaluation.harness import DeployedModel
    from et_pipeline.runtime.program import Program

    read = manifest.read(bundle)
    tokenizer = Folder(bundle).tokenizer
    return DeployedModel(Program(bundle / read.main.file, threads=1), tokenizer, read.tokenizer, read.main.max_context)


@pytest.fixture(scope="module")
def reference():
    """Log likelihood of each token of a text but the first, by transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_assistant.CHECKPOINT, dtype=torch.float32)

    def of(ids):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
        return logits

    return of


def request(*arguments):
    from lm_eval.api.instance import Instance

    return Instance(request_type="", doc={}, arguments=arguments, idx=0)


def test_log_likelihoods_are_those_of_transformers(model, reference):
    pairs = [(f"{row['q']}", f" {choice}") for row in CHOICES for choice in row["choices"]]
    found = model.loglikelihood([request(*pair) for pair in pairs], disable_tqdm=True)
    for (context, continuation), (total, greedy) in zip(pairs, found, strict=True):
        whole = model.tok_encode(context + continuation)
        length = len(model.tok_encode(context)) if context else 0
        if not context:
            whole = [model.prefix_token_id, *model.tok_encode(continuation, add_special_tokens=False)]
            length = 1
        expected = reference(whole)[length - 1 :]
        targets = torch.tensor(whole[length:])
        assert total == pytest.approx(expected.gather(1, targets.unsqueeze(1)).sum().item(), abs=2e-3)
        assert greedy == bool((expected.argmax(-1) == targets).all())


def test_choices_of_one_token_share_their_context(model, monkeypatch):
    calls = []
    prefill = model.program.prefill
    monkeypatch.setattr(model.program, "prefill", lambda *given: calls.append(1) or prefill(*given))
    model._read = []
    context, longer = [5, 6, 7, 8], [9, 10]
    alone = [model._likelihood(context, [token]) for token in (20, 21, 22)]
    assert len(calls) == 1
    model._likelihood(context, longer)
    assert len(calls) == 1  # goes on from there
    assert [model._likelihood(context, [token]) for token in (20, 21, 22)] == alone
    assert len(calls) == 2


def test_rolling_scores_every_token_of_a_text_that_is_longer_than_the_context(model, reference):
    found = model.loglikelihood_rolling([request(text) for text in TEXTS], disable_tqdm=True)
    for text, total in zip(TEXTS, found, strict=True):
        ids = [model.prefix_token_id, *model.tok_encode(text)]
        expected, scored = 0.0, 1
        while scored < len(ids):
            end = min(scored + 64, len(ids))
            start = max(0, end - 65)
            rows = reference(ids[start:end])[scored - start - 1 :]
            expected += rows.gather(1, torch.tensor(ids[scored:end]).unsqueeze(1)).sum().item()
            scored = end
        assert total == pytest.approx(expected, rel=1e-4)


def test_answers_are_greedy_and_end_at_a_stop_string(model, reference):
    prompt = "<|begin|><|user|>hey there! what is the capital of japan<|end|><|assistant|>"
    (whole,) = model.generate_until([request(prompt, {"until": [], "max_gen_toks": 20})], disable_tqdm=True)
    (cut,) = model.generate_until([request(prompt, {"until": ["capital"], "max_gen_toks": 20})], disable_tqdm=True)
    ids = model.tok_encode(prompt)
    answer = []
    while len(answer) < 20:
        token = int(reference([*ids, *answer, 0])[-1].argmax())
        if token in model.special.eos_ids:
            break
        answer.append(token)
    assert whole == model.encoder.decode(answer)
    assert cut == whole.split("capital")[0]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"until": [], "max_gen_toks": 64}, "answers of 64 tokens, and the program's context holds 64"),
        ({"until": [], "do_sample": True, "temperature": 0.7}, "A task asks for sampled answers"),
    ],
)
def test_what_a_program_cannot_do_is_said(model, given, sentence):
    from et_pipeline.errors import UserError

    with pytest.raises(UserError, match=sentence):
        model.generate_until([request("Hello", given)], disable_tqdm=True)


@pytest.fixture
def offline(tmp_path):
    return {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}


def test_command(bundle, tasks, offline):
    def run(*arguments):
        command = [BIN / "et-bundle", "eval", bundle, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=offline)

    done = run("--tasks", ",".join(TASKS), "--include-path", tasks, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["mine_choice"]["items"] == len(CHOICES)
    assert 0 <= found["mine_choice"]["acc,none"] <= 1
    assert found["mine_rolling"]["word_perplexity,none"] > 1
    assert found["mine_answer"]["exact_match,none"] == 0
    table = run("--tasks", "mine_choice", "--include-path", tasks, "--limit", "1")
    assert table.returncode == 0, table.stderr
    assert "acc" in table.stdout
    wrong = run("--tasks", "no_such_task")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.splitlines()[-1] == "--tasks no_such_task is no task of lm_eval; `lm_eval ls tasks` lists them."


def harness_command(bundle):
    """lm-evaluation-harness's own, with ours in its registry."""
    return [sys.executable, "-m", "et_pipeline.cli.lm_eval", "--model", "et_bundle", "--model_args", f"bundle={bundle}"]


def test_the_harness_own_command_finds_the_same(bundle, tasks, offline, tmp_path):
    def run(model, *more):
        command = harness_command(model)
        arguments = ["--tasks", ",".join(TASKS), "--include_path", tasks, "--output_path", tmp_path / "out", *more]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, env=offline)

    done = run(bundle)
    assert done.returncode == 0, done.stderr
    (written,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(written.read_text())
    ours = subprocess.run(
        [BIN / "et-bundle", "eval", bundle, "--tasks", ",".join(TASKS), "--include-path", tasks, "--json"],
        capture_output=True,
        text=True,
        env=offline,
    )
    for task, figures in json.loads(ours.stdout).items():
        assert figures.items() - {("items", figures["items"])} <= found["results"][task].items()
    assert found["config"]["model"] == "et_bundle"
    missing = run(tmp_path / "nowhere")
    assert missing.returncode == 2
    assert missing.stderr.splitlines()[-1] == f"{tmp_path / 'nowhere'} does not exist."


def test_chats_are_put_as_the_template_does(bundle, tasks, offline, tmp_path):
    """The prompts that the harness notes are what transformers makes of them."""
    from transformers import AutoTokenizer

    command = harness_command(bundle)
    more = [
        "--tasks",
        "mine_choice",
        "--include_path",
        tasks,
        "--output_path",
        tmp_path / "out",
        "--apply_chat_template",
    ]
    done = subprocess.run([*command, *more, "--log_samples"], capture_output=True, text=True, env=offline)
    assert done.returncode == 0, done.stderr
    (written,) = (tmp_path / "out").rglob("samples_*.jsonl")
    theirs = AutoTokenizer.from_pretrained(tiny_assistant.CHECKPOINT)
    for line in written.read_text().splitlines():
        sample = json.loads(line)
        said = [{"role": "user", "content": sample["doc"]["q"]}]
        expected = theirs.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        assert sample["arguments"]["gen_args_0"]["arg_0"] == expected

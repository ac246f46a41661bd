"""The whole road on the built-in model, as a newcomer takes it: real export, real runtime."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from et_pipeline import manifest

BIN = Path(sys.executable).parent
NAME = "tiny_assistant-8da4w-g32-xnnpack"


class Run:
    """An et-pipeline command in a folder of its own, with a cache of its own."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, *arguments, code=0):
        ended = subprocess.run(
            [BIN / "et-pipeline", f"paths.cache={self.folder / 'cache'}", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == code, ended.stderr
        return ended

    def entries(self, stage):
        return [path for path in (self.folder / "cache" / stage).iterdir() if path.suffix != ".lock"]

    @property
    def bundle(self):
        return self.folder / "bundles" / NAME


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("demo"))
    run.first = run("experiment=demo", "verify.items_per_task=25")
    return run


def test_demo_ends_with_a_verdict_and_sample_answers(demo):
    assert "PASSED" in demo.first.stdout
    assert "See a doctor" in demo.first.stdout
    assert f"Bundle: {demo.bundle}" in demo.first.stdout.replace("\n", "")
    for stage in ("quantize", "export", "lower", "verify", "measure"):
        assert stage in demo.first.stderr


def test_demo_agrees_with_the_quantized_eager_model_in_all_ways_of_feeding(demo):
    agreement = manifest.read(demo.bundle).quality.agreement
    for way in ("one_piece", "chunked", "token_by_token"):
        figures = getattr(agreement.quantized, way)
        assert figures.cosine >= 0.999
        assert figures.top1 >= 0.99
    for score in manifest.read(demo.bundle).quality.tasks.values():
        assert score.deployed >= score.original - 1


def test_second_run_reuses_everything_quickly_and_says_so(demo):
    before = (demo.bundle / "xnnpack.pte").read_bytes()
    started = time.monotonic()
    again = demo("experiment=demo", "verify.items_per_task=25")
    assert time.monotonic() - started < 15
    assert "Reused: acquire, quantize, export, lower, evidence, verify, measure" in again.stdout
    assert (demo.bundle / "xnnpack.pte").read_bytes() == before


def test_another_evaluation_reuses_the_program(demo):
    (demo.folder / "notes.txt").write_text("Translate to French: Where is the station?\nOù est la gare ?\n" * 40)
    text = ["verify.text=notes.txt", "verify.text_tokens=300", "verify.window=128", "verify.stride=64"]
    ended = demo("experiment=demo", "verify.items_per_task=1", "name=on-text", *text, "format=json")
    document = json.loads(ended.stdout)
    assert document["reused"] == ["acquire", "quantize", "export", "lower", "evidence", "measure"]
    quality = document["manifest"]["quality"]
    assert quality["tasks"]["chat"]["items"] == 1
    on_text = quality["text"]
    assert (on_text["source"], on_text["tokens"], on_text["window"], on_text["stride"]) == ("notes.txt", 299, 128, 64)
    assert on_text["deployed"]["perplexity"] == pytest.approx(on_text["quantized"]["perplexity"], rel=0.02)
    assert on_text["deployed"]["perplexity"] == pytest.approx(on_text["original"], rel=0.2)
    # How near 4 bits come to the original is the recipe's affair; the program must do as the eager model does.
    assert on_text["deployed"]["top1"] == pytest.approx(on_text["quantized"]["top1"], abs=0.02)
    inspected = subprocess.run([BIN / "et-bundle", "inspect", document["bundle"]], capture_output=True, text=True)
    assert "notes.txt, 299 tokens, window 128, stride 64" in inspected.stdout


def test_failed_gate_exits_3_and_marks_the_bundle(demo):
    ended = demo("experiment=demo", "verify.items_per_task=25", "recipe.gate.max_kl_original=0", "name=strict", code=3)
    assert "KL to original" in ended.stderr
    assert "recipe=auto looks for the smallest recipe that passes" in ended.stderr
    assert "FAILED" in ended.stdout
    gate = manifest.read(demo.folder / "bundles" / "strict").quality.gate
    assert not gate.passed
    noted = json.loads((demo.folder / "bundles" / "runs.jsonl").read_text().splitlines()[-1])
    assert (noted["bundle"], noted["quality.gate.passed"]) == ("strict", False)
    strict = demo.folder / "bundles" / "strict"
    inspected = subprocess.run([BIN / "et-bundle", "inspect", strict], capture_output=True, text=True)
    assert inspected.returncode == 0
    assert "FAILED" in inspected.stdout.upper()


def test_a_verdict_that_is_open_asks_for_more_answers(demo):
    """The threshold lies where the first round's figure does; what the first round alone asks stays as it was."""
    before = manifest.read(demo.bundle).quality.agreement.original
    threshold = f"recipe.gate.max_kl_original={before.token_by_token.kl}"
    demo("experiment=demo", "verify.items_per_task=25", threshold, "name=open", code=3)
    after = manifest.read(demo.folder / "bundles" / "open").quality.agreement.original
    assert after.token_by_token.positions > 2 * before.token_by_token.positions
    assert after.one_piece == before.one_piece
    assert after.chunked == before.chunked
    (low, high), (lower, higher) = (each.token_by_token.kl_interval for each in (after, before))
    assert high - low < higher - lower


def test_bundle_is_read_by_et_bundle(demo, tmp_path):
    subprocess.run([BIN / "et-bundle", "zip", demo.bundle, tmp_path / "demo.zip"], check=True)
    verified = subprocess.run([BIN / "et-bundle", "verify", tmp_path / "demo.zip"], capture_output=True, text=True)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    inspected = subprocess.run([BIN / "et-bundle", "inspect", demo.bundle, "--json"], capture_output=True, text=True)
    assert json.loads(inspected.stdout)["quality"]["gate"]["passed"] is True


def test_chat_answers_piped_messages_and_remembers(demo):
    done = subprocess.run(
        [BIN / "et-bundle", "chat", demo.bundle],
        input="My name is Felix.\nTranslate to French: Where is the station?\nWhat is my name?\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for words in ("Felix", "Où est la gare", "Your name is Felix"):
        assert words in done.stdout


def test_manifest_names_no_path_of_this_machine(demo):
    text = (demo.bundle / manifest.FILE_NAME).read_text()
    assert str(demo.folder) not in text
    assert str(Path.home()) not in text


@pytest.mark.slow
def test_two_empty_caches_give_the_same_program(demo, tmp_path):
    other = Run(tmp_path)
    other("until=lower")
    assert (other.entries("lower")[0] / "model.pte").read_bytes() == (demo.bundle / "xnnpack.pte").read_bytes()


@pytest.mark.slow
def test_two_runs_at_once_share_the_work(tmp_path):
    command = [BIN / "et-pipeline", f"paths.cache={tmp_path / 'cache'}", "until=quantize", "format=json"]
    runs = [
        subprocess.Popen([*command, f"hydra.run.dir={tmp_path / str(n)}"], stdout=subprocess.PIPE, cwd=tmp_path)
        for n in range(2)
    ]
    reused = [json.loads(run.communicate()[0])["reused"] for run in runs]
    assert sorted(map(len, reused)) == [0, 2] or sorted(map(len, reused)) == [1, 1]
    assert [run.returncode for run in runs] == [0, 0]


@pytest.mark.slow
def test_damaged_cache_entry_is_named_and_built_again(demo, tmp_path):
    shutil.copytree(demo.folder / "cache", tmp_path / "cache")
    run = Run(tmp_path)
    program = run.entries("lower")[0] / "model.pte"
    good = program.read_bytes()
    program.write_bytes(good[:-1])
    ended = run("until=lower")
    assert f"{program} is not what it was" in ended.stderr
    assert (run.entries("lower")[0] / "model.pte").read_bytes() == good


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fp32", "8da8w", "int8_weight_only", "int4_weight_only"])
def test_every_recipe_passes_its_gate(demo, recipe):
    document = json.loads(demo(f"recipe={recipe}", "verify.items_per_task=25", "format=json").stdout)
    assert document["manifest"]["quality"]["gate"]["passed"] is True

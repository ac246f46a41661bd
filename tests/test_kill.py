"""SIGKILL at random moments: the next run continues, and what it makes is the same.

`make test-kill` does this 50 times each; `make test-all` a few times. Each round begins with a random number of
finished stages, so the kills fall on the whole of a run without each round paying for all of it.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS = int(os.environ.get("ET_PIPELINE_KILLS", "3"))
STAGES = {
    "8da4w": ("acquire", "quantize", "export", "lower", "evidence", "verify", "measure"),
    "auto": (
        *("acquire", "calibration", "sensitivity", "quantize", "evidence", "trial", "export", "lower", "verify"),
        "measure",
    ),
}
COMMAND = Path(sys.executable).parent / "et-pipeline"


def start(folder, checkpoint, recipe):
    return subprocess.Popen(
        [
            COMMAND,
            f"recipe={recipe}",
            "recipe.calibration.tokens=256",
            "model=custom",
            f"model.source={checkpoint}",
            "model.max_context=64",
            "model.prefill_chunk=32",
            "task=chat",
            "name=bundle",
            "verify.sequences=2",
            "measure.prompt_tokens=8",
            "measure.decode_tokens=4",
            "measure.rounds=1",
            f"paths.cache={folder / 'cache'}",
            f"hydra.run.dir={folder / 'run'}",
            # The weights are random, so nothing can be said of the quality against the original.
            *(
                f"recipe.gate.{key}"
                for key in ("min_top1_quantized=0", "max_perplexity_ratio=1e9", "max_kl_original=1e9")
            ),
        ],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(folder, checkpoint, recipe):
    process = start(folder, checkpoint, recipe)
    _, err = process.communicate()
    assert process.returncode == 0, err


def fingerprint(folder):
    """Hash of all that has to be the same each time: the program, the tokenizer, and the figures of its quality."""
    bundle = folder / "bundles" / "bundle"
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name, known in manifest["files"].items():
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == known["sha256"]
    same = {key: manifest[key] for key in ("files", "programs", "quality", "samples")}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()


def seconds(folder):
    return sum(json.loads(entry.read_text())["cost"]["wall_s"] for entry in folder.glob("*/entry.json"))


def leftovers(folder):
    return [*(folder / "cache").rglob("*.tmp"), *(folder / "bundles").glob("*.tmp")]


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize(("recipe", "stages"), STAGES.items())
def test_every_killed_run_continues_and_ends_the_same(make_checkpoint, tmp_path, recipe, stages):
    checkpoint = make_checkpoint("llama", num_hidden_layers=1, tie_word_embeddings=True)
    whole = tmp_path / "whole"
    whole.mkdir()
    finish(whole, checkpoint, recipe)
    expected = fingerprint(whole)
    durations = {stage: max(0.3, seconds(whole / "cache" / stage)) for stage in stages}
    chance = random.Random(17)
    for number in range(KILLS):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        done = chance.randrange(len(stages) + 1)
        for stage in stages[:done]:
            shutil.copytree(whole / "cache" / stage, folder / "cache" / stage)
        # Up to a little more than this round needs: start-up, its remaining stages, the bundle.
        moment = chance.uniform(0, 3 + 1.1 * sum(durations[stage] for stage in stages[done:]))
        process = start(folder, checkpoint, recipe)
        time.sleep(moment)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        had = [stage for stage in stages if list((folder / "cache" / stage).glob("*/entry.json"))]
        finish(folder, checkpoint, recipe)
        assert fingerprint(folder) == expected
        assert leftovers(folder) == []
        sys.stderr.write(f"kill {number + 1}/{KILLS} after {moment:.1f} s: had {', '.join(had) or 'nothing'}; same\n")
        shutil.rmtree(folder)

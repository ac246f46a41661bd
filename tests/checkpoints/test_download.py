"""Checkpoints from a hub, through the command line: whole, in part, cut off, forbidden and absent."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hub import WEIGHTS, Hub
from huggingface_hub.constants import DOWNLOAD_CHUNK_SIZE as PIECE
from safetensors.torch import load_file, save_file

from et_pipeline import tiny_assistant

HIDDEN = json.loads((tiny_assistant.CHECKPOINT / "config.json").read_text())["hidden_size"]
REPOSITORY, TEXTS = "someone/tiny", "someone/texts"
COMMAND = Path(sys.executable).parent / "et-pipeline"


@pytest.fixture
def hub(tmp_path):
    folder = tmp_path / "repository"
    shutil.copytree(tiny_assistant.CHECKPOINT, folder)
    (folder / "SHA256SUMS").unlink()
    (folder / "scores.json").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "model.gguf").write_bytes(b"GGUF")
    hub = Hub(REPOSITORY, {"main": folder})
    yield hub
    hub.close()


@pytest.fixture
def start(hub, tmp_path):
    """Start et-pipeline up to acquire, against this hub and with a hub cache of its own."""
    work = tmp_path / "work"
    work.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}

    def begin(*overrides, before=(), **environment):
        settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1", **environment}
        arguments = ["model=custom", f"model.source={REPOSITORY}", "model.max_context=256", "until=acquire"]
        return subprocess.Popen(
            [
                *(*before, COMMAND, *arguments, *overrides),
                *(f"paths.cache={tmp_path / 'cache'}", "hydra.run.dir=outputs/day/run"),
            ],
            cwd=work,
            env={**kept, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


@pytest.fixture
def pull(start, tmp_path):
    def run(*overrides, **environment):
        process = start(*overrides, **environment)
        out, err = process.communicate(timeout=120)
        if process.returncode == 0:
            shutil.rmtree(tmp_path / "work" / "outputs")
        return process.returncode, out, err

    return run


def assert_whole(tmp_path, folder):
    (snapshot,) = (tmp_path / "hf" / "hub" / "models--someone--tiny" / "snapshots").iterdir()
    assert (snapshot / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert not list(tmp_path.rglob("*.incomplete"))
    return {path.name for path in snapshot.iterdir()}


def assert_sentence(answer, sentence, tmp_path):
    code, out, err = answer
    lines = [line for line in err.splitlines() if line.startswith("et-pipeline: ")]
    assert code == 2, err
    assert len(lines) == 1, err
    assert re.search(sentence, lines[0]), err
    assert "Traceback" not in err
    assert out == ""
    assert list((tmp_path / "work").iterdir()) == []


def test_only_what_is_needed_comes_and_then_no_hub_is_needed(hub, pull, tmp_path):
    code, _, err = pull()
    assert code == 0, err
    assert assert_whole(tmp_path, hub.revisions["main"]) == {
        "README.md",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        WEIGHTS,
    }
    assert "Fetching" not in err  # the bars of huggingface_hub; ours is enough
    asked = len(hub.asked)
    code, _, err = pull(HF_HUB_OFFLINE="1")
    assert code == 0, err
    assert len(hub.asked) == asked
    hub.close()
    code, _, err = pull()
    assert code == 0, err


def test_revision(hub, pull, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(hub.revisions["main"], other)
    (other / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes()[:-1] + b"\x00")
    hub.revisions["v2"] = other
    code, _, err = pull("model.revision=v2")
    assert code == 0, err
    assert_whole(tmp_path, other)
    assert_sentence(pull("model.revision=v3"), r"model\.source=someone/tiny has no model\.revision=v3", tmp_path)
    assert_sentence(
        pull("model.revision=main", HF_HUB_OFFLINE="1"), r"not downloaded yet at model\.revision=main", tmp_path
    )


@pytest.fixture
def large(hub):
    """Weights of more than two of the pieces in which huggingface_hub writes."""
    folder = hub.revisions["main"]
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 3 * PIECE // 2 // HIDDEN}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / WEIGHTS)
    weights["model.embed_tokens.weight"] = torch.randn(config["vocab_size"], HIDDEN).half()
    save_file(weights, folder / WEIGHTS)


@pytest.mark.usefixtures("large")
def test_a_connection_that_breaks_is_taken_up_again(hub, pull, tmp_path):
    hub.cut = [PIECE + 1000, 2 * PIECE + 1000]
    code, _, err = pull()
    assert code == 0, err
    assert hub.ranges() == [None, f"bytes={PIECE}-", f"bytes={2 * PIECE}-"]
    assert_whole(tmp_path, hub.revisions["main"])


@pytest.mark.usefixtures("large")
def test_a_killed_run_goes_on_where_it_was(hub, start, pull, tmp_path):
    hub.stall = 2 * PIECE + 1000
    first = start()
    assert hub.stalled.wait(60)
    blobs = tmp_path / "hf" / "hub" / "models--someone--tiny" / "blobs"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(path.stat().st_size for path in blobs.glob("*.incomplete")):
        time.sleep(0.05)
    first.kill()
    first.communicate()
    (part,) = blobs.glob("*.incomplete")
    there = part.stat().st_size
    assert 0 < there <= hub.stall
    hub.stall = None
    shutil.rmtree(tmp_path / "work" / "outputs")
    code, _, err = pull()
    assert code == 0, err
    assert hub.ranges() == [None, f"bytes={there}-"]
    assert_whole(tmp_path, hub.revisions["main"])


def test_a_gated_repository_wants_a_token(hub, pull, tmp_path):
    hub.token = "secret"
    assert_sentence(pull(), r"someone/tiny is gated; accept its licence .* `hf auth login`", tmp_path)
    assert_sentence(pull(HF_TOKEN="wrong"), r"someone/tiny is gated", tmp_path)
    assert_sentence(pull(HF_HUB_OFFLINE="1"), r"not downloaded yet.*HF_HUB_OFFLINE is set", tmp_path)
    code, _, err = pull(HF_TOKEN="secret")
    assert code == 0, err
    assert_whole(tmp_path, hub.revisions["main"])


def test_no_such_repository_and_no_hub(hub, pull, tmp_path):
    assert_sentence(pull("model.source=someone/else"), r"someone/else is not a folder here and not a repo", tmp_path)
    hub.close()
    assert_sentence(pull(), r"not downloaded yet, and the hub cannot be reached$", tmp_path)


def test_a_forecast_asks_for_the_config_only_and_once_where_no_hub_answers(hub, pull, tmp_path):
    code, out, err = pull("mode=plan", "format=json")
    assert code == 0, err
    assert json.loads(out)["parameters"] == 1_967_808
    assert {path.rsplit("/", 1)[1] for _, path, _ in hub.asked if f"/{REPOSITORY}/" in path} == {"config.json"}
    hub.close()
    code, again, err = pull("mode=plan", "format=json")
    assert (code, again) == (0, out), err
    shutil.rmtree(tmp_path / "hf")
    began = time.monotonic()
    answer = pull("mode=plan")
    assert time.monotonic() - began < 15  # the hub's own retries alone would wait 23 seconds
    assert_sentence(answer, r"config\.json is not downloaded yet, and the hub cannot be reached; mode=plan", tmp_path)


def test_too_little_room(hub, pull, tmp_path):
    """On a real disk of one gigabyte; the next run, on one with room, fetches everything."""
    hub.claimed_size = 2 * 10**9
    store = tmp_path / "hf"
    store.mkdir()
    mount = 'mount -t tmpfs -o size=1g tmpfs "$0" || exit 77; "$@"; code=$?; find "$0" -name blobs; exit $code'
    answer = pull(before=["unshare", "--mount", "sh", "-c", mount, str(store)])
    if answer[0] in (1, 77) and "et-pipeline" not in answer[2]:
        pytest.skip("mounting a file system needs rights that this user does not have")
    sentence = r"someone/tiny needs 2\.0 GB on the disk of .*/hf.*, which has 1\.1 GB free; .* another HF_HUB_CACHE$"
    assert_sentence(answer, sentence, tmp_path)
    assert hub.ranges() == []
    hub.claimed_size = None
    code, _, err = pull()
    assert code == 0, err
    assert_whole(tmp_path, hub.revisions["main"])


def test_weights_that_arrive_damaged(hub, pull, tmp_path):
    hub.claimed_hash = "0" * 64
    assert_sentence(pull(), r"model\.safetensors arrived damaged", tmp_path)
    assert not list((tmp_path / "hf").rglob("*.incomplete"))


def test_a_snapshot_in_part_is_not_taken_for_a_whole_one(hub, pull, tmp_path):
    code, _, err = pull()
    assert code == 0, err
    (weights,) = (tmp_path / "hf").rglob(WEIGHTS)
    weights.unlink()
    assert_sentence(pull(HF_HUB_OFFLINE="1"), r"is downloaded in part only, and the hub cannot be reached", tmp_path)


@pytest.fixture
def data_set(tmp_path):
    """A hub with a data set of two configurations."""
    from pyarrow import parquet, table

    folder = tmp_path / "repository"
    for part in ("small/test-00000-of-00001", "small/train-00000-of-00001", "large/test-00000-of-00001"):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        rows = [f"A row of {part}: turn left at the station, and right at the bridge.", ""] * 20
        parquet.write_table(table({"text": rows}), folder / f"{part}.parquet")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


@pytest.fixture
def hub_of_texts(data_set, tmp_path):
    hub = Hub(TEXTS, {"main": data_set}, "datasets")
    yield hub
    hub.close()


@pytest.fixture
def read_text(hub_of_texts, tmp_path):
    """Run et-pipeline up to acquire, with a text of this hub."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    places = {"HF_ENDPOINT": hub_of_texts.address, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
    (tmp_path / "work").mkdir()

    def run(source, **environment):
        arguments = ["verify.text_tokens=300", "until=acquire", f"paths.cache={tmp_path / 'cache'}"]
        done = subprocess.run(
            [COMMAND, f"verify.text={source}", *arguments],
            cwd=tmp_path / "work",
            env={**kept, **places, **environment},
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            shutil.rmtree(tmp_path / "work" / "outputs")
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_text_comes_from_a_data_set_and_then_no_hub_is_needed(read_text, hub_of_texts, tmp_path):
    code, _, err = read_text(f"hub:{TEXTS}:small:test")
    assert code == 0, err
    assert "Fetching" not in err
    names = {path.name for path in (tmp_path / "hf").rglob("*.parquet")}
    assert names == {"test-00000-of-00001.parquet"}
    assert not list((tmp_path / "hf").rglob("large"))
    hub_of_texts.close()
    code, _, err = read_text(f"hub:{TEXTS}:small:test", HF_HUB_OFFLINE="1")
    assert code == 0, err
    answer = read_text(f"hub:{TEXTS}:large:test", HF_HUB_OFFLINE="1")
    assert_sentence(
        answer, r"verify\.text=hub:someone/texts:large:test is downloaded in part only, and the hub", tmp_path
    )


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            TEXTS,
            r"leaves open which part is meant; choose from hub:someone/texts:large:test, hub:someone/texts:small:te",
        ),
        (f"{TEXTS}:small", r"leaves open .* choose from hub:someone/texts:small:test, hub:someone/texts:small:train$"),
        (f"{TEXTS}:small:dev", r"small:dev does not exist; choose from hub:someone/texts:large:test, "),
        ("someone/else:small:test", r"verify\.text=hub:someone/else:small:test is not a repository on the hub"),
        ("no id", r"verify\.text=hub:no id is not a valid hub id"),
    ],
)
def test_a_text_that_no_data_set_has(read_text, source, sentence, tmp_path):
    assert_sentence(read_text(f"hub:{source}"), sentence, tmp_path)

import dataclasses
import hashlib
import importlib
import json
import shutil
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from make_gguf import write_gguf

from et_pipeline import tiny_assistant
from et_pipeline.checkpoints import llama_cpp, random_weights, shards, source
from et_pipeline.checkpoints.facts import Facts
from et_pipeline.checkpoints.files import hash_files
from et_pipeline.checkpoints.place import Place
from et_pipeline.errors import UserError
from et_pipeline.settings import Checkpoint, ExportForm
from et_pipeline.stages import acquire

FORM = ExportForm(max_context=64, prefill_chunk=16)
SMALL = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
RANDOM = Checkpoint(source="random", architecture=SMALL)


def ignore(done, total):
    pass


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "cache", tmp_path / "logs")


@pytest.fixture
def in_process(monkeypatch):
    """Checkpoints are made in this process, where a test can interfere; the list tells of each."""
    runs = []

    def run(module, inputs, out, config, seed, log_file, tick):
        runs.append(module)
        return importlib.import_module(module).run(inputs, out, tick, **config), {}

    monkeypatch.setattr(source, "run_stage", run)
    return runs


@pytest.fixture
def no_room(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The built-in model as a GGUF file; its bfloat16 weights fit into it as they are."""
    return write_gguf(tmp_path_factory.mktemp("packed") / "model.gguf", tiny_assistant.CHECKPOINT, Kind.BF16)


def left(folder):
    return [path for path in folder.rglob("*") if path.suffix != ".lock" and path.is_file()]


def test_resolve_finds_the_built_in_model_and_folders(tiny_llama, place):
    found = source.resolve(Checkpoint(source="builtin:tiny_assistant"), 0, place)
    assert found == tiny_assistant.CHECKPOINT
    assert source.resolve(Checkpoint(source=str(tiny_llama)), 0, place) == tiny_llama.resolve()


def test_resolve_reads_a_downloaded_snapshot_without_the_network(tiny_llama, tmp_path, monkeypatch, place):
    """The hub's own layout: refs name a commit, snapshots hold links to blobs."""
    repository = tmp_path / "models--someone--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / commit
    (repository / "refs").mkdir(parents=True)
    (repository / "blobs").mkdir()
    snapshot.mkdir(parents=True)
    for ref in ("main", "v1"):
        (repository / "refs" / ref).write_text(commit)
    for path in tiny_llama.iterdir():
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for revision in (None, "v1", commit):
        assert source.resolve(Checkpoint(source="someone/tiny", revision=revision), 0, place) == snapshot
    assert "model.safetensors" in hash_files(snapshot, ignore)
    with pytest.raises(UserError, match=r"not downloaded yet at model\.revision=v2, .* HF_HUB_OFFLINE is set"):
        source.resolve(Checkpoint(source="someone/tiny", revision="v2"), 0, place)


def test_hash_files_depends_on_content_not_on_place(tiny_llama, tmp_path):
    copy = shutil.copytree(tiny_llama, tmp_path / "copy")
    assert hash_files(copy, ignore) == hash_files(tiny_llama, ignore)


def test_hash_files_tells_how_far_it_is(tiny_llama):
    ticks = []
    hash_files(tiny_llama, lambda done, total: ticks.append((done, total)))
    assert ticks == sorted(ticks)
    assert ticks[-1][0] == ticks[-1][1] == sum(path.stat().st_size for path in tiny_llama.iterdir())


@pytest.mark.parametrize("given", ["a/b/c", "./x", "/x/y", "~nobody-here/x", "just-a-name"])
def test_resolve_refuses_what_is_neither_folder_nor_hub_id(given, place):
    with pytest.raises(UserError, match=r"model\.source="):
        source.resolve(Checkpoint(source=given), 0, place)


def test_random_weights_are_made_once_per_architecture_and_seed(place, in_process):
    ticks = []
    folder = source.resolve(RANDOM, 0, dataclasses.replace(place, tick=lambda *tick: ticks.append(tick)))
    assert ticks[-1][0] == ticks[-1][1]
    assert source.resolve(RANDOM, 0, place) == folder
    assert len(in_process) == 1
    wider = Checkpoint(source="random", architecture={**SMALL, "intermediate_size": 192})
    assert len({folder, source.resolve(RANDOM, 1, place), source.resolve(wider, 0, place)}) == 3
    figures = acquire.run({"checkpoint": folder}, place.root, ignore, form=FORM)
    assert figures.parameters == Facts.read(place.root).parameters


def test_random_weights_are_made_in_a_process_of_their_own(place):
    folder = source.resolve(RANDOM, 0, place)
    assert hash_files(folder, ignore)
    assert [path.name for path in folder.parent.iterdir() if path.suffix == ".part"] == []


def test_a_killed_run_leaves_whole_shards_to_the_next_one(place, in_process, monkeypatch):
    whole = hash_files(source.resolve(RANDOM, 0, dataclasses.replace(place, root=place.root / "whole")), ignore)
    assert "model.safetensors" in whole
    monkeypatch.setattr(random_weights, "write_checkpoint", partial(shards.write_checkpoint, shard_bytes=100_000))
    drawn = []
    draw = random_weights._draw

    def killed(table, seed, tensor):
        drawn.append(tensor.name)
        if len(drawn) == 6:
            raise KeyboardInterrupt
        return draw(table, seed, tensor)

    monkeypatch.setattr(random_weights, "_draw", killed)
    with pytest.raises(KeyboardInterrupt):
        source.resolve(RANDOM, 0, place)
    (part,) = place.root.glob("random/*.part")
    there = {path.name: path.stat().st_mtime_ns for path in part.glob("*.safetensors")}
    assert there
    folder = source.resolve(RANDOM, 0, place)
    assert not part.exists()
    assert {name: (folder / name).stat().st_mtime_ns for name in there} == there
    assert hash_files(folder, ignore)


def test_a_shard_cut_short_in_the_cache_is_named_and_made_again(place, in_process, caplog):
    folder = source.resolve(RANDOM, 0, place)
    files = hash_files(folder, ignore)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert source.prepare(RANDOM, 0, place) == (folder, files)
    assert f"{folder} is not what it was" in caplog.text


@pytest.mark.parametrize("kind", ["random", "gguf"])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_flipped_bit_in_the_cache_is_named_and_made_again(place, in_process, packed, caplog, kind, file):
    checkpoint = RANDOM if kind == "random" else Checkpoint(source=str(packed))
    folder, files = source.prepare(checkpoint, 0, place)
    data = bytearray((folder / file).read_bytes())
    data[-2] ^= 1
    (folder / file).write_bytes(data)
    assert source.prepare(checkpoint, 0, place) == (folder, files)
    assert len(in_process) == 2
    assert f"{folder / file} is damaged or altered" in caplog.text
    assert "building it again" in caplog.text


def test_a_folder_of_the_user_is_not_made_again(place, tmp_path):
    mine = shutil.copytree(tiny_assistant.CHECKPOINT, tmp_path / "mine")
    (mine / "config.json").write_text((mine / "config.json").read_text() + " ")
    with pytest.raises(UserError, match=r"config\.json is damaged or altered"):
        source.prepare(Checkpoint(source=str(mine)), 0, place)
    assert mine.is_dir()


def test_two_runs_at_once_make_one_checkpoint(place, in_process):
    waited, found = [], []
    one = dataclasses.replace(place, wait=lambda: waited.append(True))
    threads = [threading.Thread(target=lambda: found.append(source.resolve(RANDOM, 0, one))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert len(in_process) == 1
    assert waited == [True]


@pytest.mark.usefixtures("in_process", "no_room")
def test_no_room_for_random_weights(place):
    with pytest.raises(UserError, match=r"model\.source=random needs 0\.0 GB on the disk of .* another paths\.cache"):
        source.resolve(RANDOM, 0, place)
    assert left(place.root) == []


@pytest.mark.usefixtures("in_process", "no_room")
def test_no_room_for_a_gguf_file(place, packed):
    with pytest.raises(UserError, match=r"model\.gguf needs 0\.0 GB on the disk of .* another paths\.cache"):
        source.resolve(Checkpoint(source=str(packed)), 0, place)
    assert left(place.root) == []


def test_a_gguf_file_is_converted_once_wherever_it_lies(place, in_process, packed, tmp_path):
    folder = source.resolve(Checkpoint(source=str(packed)), 0, place)
    copy = tmp_path / "copy.gguf"
    shutil.copy(packed, copy)
    assert source.resolve(Checkpoint(source=str(copy)), 0, place) == folder
    assert len(in_process) == 1
    assert hash_files(folder, ignore)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The same in three files."""
    folder = tmp_path_factory.mktemp("parts")
    write_gguf(folder / "model.gguf", tiny_assistant.CHECKPOINT, Kind.BF16, part=18)
    return [folder / f"model-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


@pytest.mark.parametrize("given", [0, 2])
def test_parts_of_a_gguf_file_are_the_file(given, place, in_process, packed, parts, tmp_path):
    links = [tmp_path / part.name for part in parts]
    for link, part in zip(links, parts, strict=True):  # as the hub's cache has them
        (tmp_path / part.stem).write_bytes(part.read_bytes())
        link.symlink_to(tmp_path / part.stem)
    assert source.gguf_file(str(links[given])) == links[0]
    found = source.resolve(Checkpoint(source=str(links[given])), 0, place)
    whole = source.resolve(Checkpoint(source=str(packed)), 0, place)
    assert hash_files(found, ignore) == hash_files(whole, ignore)
    theirs = [llama_cpp.logits(path, 256, [[1, 5, 9]], as_floats=True)[0] for path in (links[0], packed)]
    assert torch.equal(*theirs)


@pytest.mark.usefixtures("in_process")
def test_parts_that_do_not_belong_together_are_refused(place, packed, parts, tmp_path):
    def refused(path, sentence):
        with pytest.raises(UserError, match=sentence):
            source.resolve(Checkpoint(source=str(path)), 0, place)

    first, second, third = (Path(shutil.copy(part, tmp_path)) for part in parts)
    third.unlink()
    refused(second, r"model-00003-of-00003\.gguf does not exist, and model-00001-of-00003\.gguf is useless without it")
    shutil.copy(second, third)
    refused(first, r"model-00003-of-00003\.gguf is by its metadata part 2 of 3 of a model, and by its name part 3 of 3")
    shutil.copy(packed, third)
    refused(first, r"model-00003-of-00003\.gguf is by its metadata part 1 of 1")
    first.rename(tmp_path / "model.gguf")
    refused(tmp_path / "model.gguf", r"part 1 of 3 of a model, and by its name part 1 of 1; .*--merge")
    write_gguf(tmp_path / "other.gguf", tiny_assistant.CHECKPOINT, Kind.BF16, part=17)
    shutil.copy(tmp_path / "other-00001-of-00003.gguf", first)
    shutil.copy(parts[2], third)
    refused(first, r"37 different tensors in 37, but its split\.tensors\.count is 38")


@pytest.mark.parametrize("kept", [4, 1000, -1])
def test_a_cut_gguf_file_leaves_nothing(place, packed, tmp_path, kept):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(packed.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"cut\.gguf is damaged or cut short"):
        source.resolve(Checkpoint(source=str(cut)), 0, place)
    assert left(place.root) == []


QUICK = ["verify.sequences=4", "measure.prompt_tokens=8", "measure.decode_tokens=4", "measure.rounds=1"]


@pytest.mark.slow
def test_random_weights_become_a_bundle(command, tmp_path):
    group = tmp_path / "mine" / "model"
    group.mkdir(parents=True)
    model = {"name": "made", "source": "random", "max_context": 64, "prefill_chunk": 32, "architecture": SMALL}
    (group / "made.yaml").write_text(json.dumps(model))
    open_gate = ["min_top1_quantized=0", "max_perplexity_ratio=1e9", "max_kl_original=1e9"]
    code, _, err = command(
        "--config-dir", str(group.parent), "model=made", "task=chat", *QUICK, *(f"recipe.gate.{x}" for x in open_gate)
    )
    assert code == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["BF16", "Q4_0"])
def test_the_built_in_model_passes_its_gate_as_a_gguf_file_too(kind, command, tmp_path):
    """The gate scores its answers: names, order of rotary halves, tokenizer and template must all be right."""
    path = write_gguf(tmp_path / "model.gguf", tiny_assistant.CHECKPOINT, Kind[kind])
    code, _, err = command(
        "model=custom",
        f"model.source={path}",
        "model.max_context=512",
        "task=assistant",
        *QUICK,
        "verify.items_per_task=20",
    )
    assert code == 0, err
    (made,) = tmp_path.rglob("manifest.json")
    manifest = json.loads(made.read_text())
    assert manifest["quality"]["witness"]["name"] == "llama.cpp"
    source = manifest["programs"][0]["source_quantization"]
    if kind == "BF16":
        assert source is None
    else:
        assert source["form"] == "GGUF (4 bits in groups of 32)"
        assert source["kept"]["weights"] > 50 * source["requantized"]["weights"] > 0

"""What users get wrong: each ends in one sentence that names the thing, with exit code 2, and leaves nothing behind."""

import json
import re
import shlex
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from et_pipeline import pipeline, tiny_assistant

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = "model-00002-of-00003.safetensors"


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip_a_bit(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def without_checksums(folder):
    (folder / "SHA256SUMS").unlink()


def truncate(folder):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])


def truncate_header(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])


def absurd_header(folder):
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**62) + b"{}")


def split(folder):
    """The weights in three files and an index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = {name: f"model-0000{number % 3 + 1}-of-00003.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(names.values()):
        save_file({name: tensors[name] for name in names if names[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


def lose_shard(folder):
    split(folder)
    (folder / SHARD).unlink()


def cut_shard(folder):
    split(folder)
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-1000])


def index_of_more(folder):
    split(folder)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.layers.99.mlp.up_proj.weight"] = SHARD
    (folder / INDEX).write_text(json.dumps(index))


def gguf_only(folder):
    (folder / WEIGHTS).rename(folder / "model.gguf")


def pickle_only(folder):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def add_foreign_token(folder):
    """One that the tokenizer puts before each text, although neither it nor the model has it."""
    first = {"SpecialToken": {"id": "<far>", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"<far>": {"id": "<far>", "ids": [5000], "tokens": ["<far>"]}},
    }
    edit_json(folder / "tokenizer.json", post_processor=template)


# (what is done to a good checkpoint, further overrides, what the sentence must say)
CHECKPOINTS = {
    "no config": (lambda f: (f / "config.json").unlink(), [], r"holds no config\.json"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), [], r"config\.json is not valid JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), [], r"expected a JSON object"),
    "config without layers": (
        lambda f: edit_json(f / "config.json", num_hidden_layers=None),
        [],
        r"num_hidden_layers=null, expected a positive integer",
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), [], r"no \.safetensors file"),
    "pickled weights": (pickle_only, [], r"pytorch_model\.bin, a pickle"),
    "truncated weights": (truncate, [], r"truncated"),
    "truncated header": (truncate_header, [], r"model\.safetensors"),
    "shard is missing": (lose_shard, [], r"model-00002-of-00003\.safetensors is missing"),
    "shard cut short": (cut_shard, [], r"model-00002-of-00003\.safetensors is truncated"),
    "index names an absent tensor": (
        index_of_more,
        [],
        r"holds model\.layers\.99\.mlp\.up_proj\.weight, but it does not",
    ),
    "weights in a GGUF file": (gguf_only, [], r"point model\.source at .*/model\.gguf"),
    "absurd header": (absurd_header, [], r"model\.safetensors"),
    "flipped bit in the header": (lambda f: flip_a_bit(f / WEIGHTS, 9), [], r"model\.safetensors"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), [], r"tokenizer\.json is missing"),
    "broken tokenizer": (
        lambda f: (f / "tokenizer.json").write_text('{"model": 3}'),
        [],
        r"tokenizer\.json is not a readable tokenizer",
    ),
    "tokenizer of another model": (
        lambda f: edit_json(f / "config.json", vocab_size=100),
        [],
        r"the tokenizer belongs to another model",
    ),
    "chat template with a syntax error": (
        lambda f: edit_json(f / "tokenizer_config.json", chat_template="{% for m in messages %}{{ m.content }"),
        [],
        r"(?i)template",
    ),
    "chat template that repeats the message": (
        lambda f: edit_json(
            f / "tokenizer_config.json",
            chat_template="{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
        ),
        [],
        r"(?i)template",
    ),
    "longer context than the model has": (
        lambda f: None,
        ["model.max_context=100000"],
        r"model\.max_context=100000 exceeds the \d+ positions",
    ),
    "evaluation file is missing": (
        lambda f: None,
        ["task.evaluation=no/such.jsonl"],
        r"task\.evaluation=no/such\.jsonl",
    ),
    "unknown built-in evaluation": (lambda f: None, ["task.evaluation=builtin:nope"], r"builtin:nope does not exist"),
    "cache under a file": (lambda f: None, ["paths.cache=/dev/null/cache"], r"/dev/null.*paths\.cache"),
    "run folder under a file": (lambda f: None, ["hydra.run.dir=/dev/null/runs"], r"/dev/null/runs.*hydra\.run\.dir"),
}

LIE, STUB = "{tmp}/lie.gguf", "{tmp}/stub.gguf"
COMMAND_LINES = {
    "home of nobody": (
        ["paths.cache='~nobody-at-all/x'"],
        r'paths\.cache="~nobody-at-all/x" is not valid: .*write the',
    ),
    "text in the home of nobody": (["verify.text='~nobody-at-all/x'"], r"verify\.text=~nobody-at-all/x: .*write the"),
    "folder of no name": (["paths.bundles="], r"paths\.bundles=\"\" is not valid: input should name a folder"),
    "bundles under a file": (["paths.bundles={tmp}/notes.txt/x"], r"paths\.bundles=.*notes\.txt/x is inside a file"),
    "range of nothing": (["-m", "seed=range(5,1)"], r"seed=range\(5,1\) has no values; range\(start,stop,step\)"),
    "range without steps": (["-m", "seed=range(0,5,0)"], r"seed=range\(0,5,0\) has no values"),
    "completion for no shell": (["-sc"], r"-sc takes one of install=bash, .* and has none"),
    "completion for an unknown shell": (["-sc", "install=foo"], r"-sc takes one of install=bash, .* has install=foo"),
    "two ways to run": (["-m", "--cfg", "job"], r"-m and --cfg cannot be said together"),
    "nobody who runs": (
        ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0"],
        r"hydra.launcher.n_jobs=0 runs nothing",
    ),
    "launcher's key of another kind": (
        ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=zwei"],
        r"hydra\.launcher\.n_jobs=zwei is not valid: Value 'zwei'",
    ),
    "misspelt key": (
        ["recipe.groop_size=32"],
        r"recipe\.groop_size is not a setting; did you mean recipe\.group_size\?",
    ),
    "misspelt group": (["recipee=8da4w"], r"recipee is not a setting; did you mean recipe\?"),
    "unknown option": (["recipe=8da5w"], r"recipe=8da5w does not exist; choose from 16a4w, .*8da4w, 8da4w_awq, "),
    "unknown experiment": (["experiment=nope"], r"experiment=nope does not exist"),
    "unknown key added": (["+recipe.bits=4"], r"recipe\.bits is not a setting"),
    "wrong type": (["recipe.group_size=many"], r'recipe\.group_size="many" is not valid'),
    "value missing": (["model=custom"], r"model\.source has no value"),
    "bad syntax": (["model.source=["], r"model\.source=\[ cannot be read without quotes; type"),
    "several values without -m": (["recipe=8da4w,fp32"], r"add -m"),
    "no kernel: groupwise weight-only": (["recipe=int4_weight_only", "recipe.group_size=32"], r"recipe\.group_size=0"),
    "gptq without 4 bits": (["recipe=8da8w", "+recipe.algorithm=gptq"], r"recipe\.algorithm=gptq is for 4-bit weights"),
    "gptq without text": (["recipe=8da4w_gptq", "recipe.calibration=null"], r"needs recipe\.calibration"),
    "gptq with a missing text": (
        ["recipe=8da4w_gptq", "recipe.calibration.source=none.txt"],
        r"none\.txt cannot be read",
    ),
    "gptq with almost no text": (
        ["recipe=8da4w_gptq", "recipe.calibration.tokens=3"],
        r"recipe\.calibration\.tokens=3",
    ),
    "gptq with an empty text": (
        ["recipe=8da4w_gptq", "recipe.calibration.source={tmp}/empty.txt"],
        r"recipe\.calibration\.source=.*empty\.txt is empty",
    ),
    "gptq with a picture": (
        ["recipe=8da4w_gptq", "recipe.calibration.source={tmp}/lie.gguf"],
        r"recipe\.calibration\.source=.*lie\.gguf is a binary file",
    ),
    "text is missing": (["verify.text={tmp}/none.txt"], r"verify\.text=.*none\.txt cannot be read"),
    "text is empty": (["verify.text={tmp}/empty.txt"], r"verify\.text=.*empty\.txt is empty"),
    "text is binary": (["verify.text={tmp}/lie.gguf"], r"verify\.text=.*lie\.gguf is a binary file"),
    "text is not UTF-8": (["verify.text={tmp}/latin.txt"], r"verify\.text=.*latin\.txt is not a text file in UTF-8"),
    "folder without texts": (["verify.text={tmp}/folder"], r"verify\.text=.*folder is a folder without \.txt and \.md"),
    "unknown built-in text": (
        ["verify.text=builtin:tiny"],
        r"builtin:tiny does not exist; choose from builtin:tiny_ass",
    ),
    "window over the context": (
        ["verify.text={tmp}/notes.txt", "verify.window=600"],
        r"verify\.window=600 exceeds model\.max_context=512; choose at most 512",
    ),
    "stride over the window": (
        ["verify.text={tmp}/notes.txt", "verify.stride=512"],
        r"verify\.stride=512 leaves no token .*; choose at most 511",
    ),
    "text for an encoder": (
        ["model=minilm", "verify.text={tmp}/notes.txt"],
        r"verify\.text=.*notes\.txt is for models that answer; model\.task=embedding",
    ),
    "gptq of an encoder": (["recipe=8da4w_gptq", "model=minilm"], r"recipe\.algorithm=gptq is for models that answer"),
    "unknown algorithm": (["recipe.algorithm=awq"], r"recipe\.algorithm=\"awq\" is not valid"),
    "awq without 4 bits": (["recipe=8da8w", "recipe.transform=awq"], r"transform=awq is for 4-bit"),
    "rotation of float activations": (
        ["recipe=int8_weight_only", "+recipe.transform=rotation"],
        r"transform=rotation is for 4-bit",
    ),
    "awq without text": (["recipe=8da4w_awq", "recipe.calibration=null"], r"transform=awq needs recipe\.calibration"),
    "awq of an encoder": (["recipe=8da4w_awq", "model=minilm"], r"recipe\.transform=awq is for models that answer"),
    "mixed bits of float activations": (
        ["recipe=int4_weight_only", "+recipe.mixed_bits=5.5"],
        r"recipe\.mixed_bits=5\.5 is for recipe\.scheme=8da4w",
    ),
    "more than 8 bits": (["recipe.mixed_bits=9.0"], r"recipe\.mixed_bits=9\.0 is not valid"),
    "no kernel: asymmetric int4": (["recipe.mapping=asymmetric"], r"symmetric_no_clipping_error"),
    "no such folder": (["model=custom", "model.source=./nowhere"], r"model\.source=\./nowhere is neither a folder"),
    "no such GGUF file": (["model=custom", "model.source=no/such.gguf"], r"no/such\.gguf does not exist"),
    "GGUF file that is none": (["model=custom", f"model.source={LIE}"], r"lie\.gguf is not a GGUF file"),
    "GGUF file of four letters": (["model=custom", f"model.source={STUB}"], r"stub\.gguf is damaged or cut short"),
    "random weights of no architecture": (["model=custom", "model.source=random"], r"needs model\.architecture"),
    "unknown built-in model": (["model.source=builtin:big"], r"model\.source=builtin:big does not exist"),
    "prefill in chunks of another backend": (["+backend.prefill=true"], r"backend\.prefill=true is for backend=qnn"),
    "every device, but no plan": (["device=all"], r"device=all is for mode=plan"),
    "a picture, but no plan": (["plot=plan.svg"], r"plot=plan\.svg is for mode=plan"),
    "a picture of another kind": (["mode=plan", "plot=plan.png"], r"plot=plan\.png is not a name ending in \.svg"),
    "a picture that cannot be written": (
        ["mode=plan", "plot={tmp}/notes.txt/plan.svg"],
        r"plot=.*plan\.svg cannot be written: .*; choose another file",
    ),
    "config folder is missing": (["--config-dir", "/no/such/folder"], r"/no/such/folder"),
    "own option that is no YAML": (
        ["--config-dir", "{tmp}/mine", "recipe=tabs", "mode=plan"],
        r"recipe/tabs\.yaml, line 2 is no YAML: found character '\\t'",
    ),
    "own option that is not UTF-8": (
        ["--config-dir", "{tmp}/mine", "recipe=latin", "mode=plan"],
        r"a YAML file that Hydra reads is not in UTF-8",
    ),
    "empty source": (["model=custom", "model.source="], r"model\.source=\"\" is empty; give"),
    "name longer than a file's": (["name=" + "x" * 300], r"name=.* is not valid"),
    "a word alone": (["doctr"], r"doctr is neither a setting, as in key=value, nor one of doctor and report"),
}


@pytest.fixture
def checkpoint(tmp_path_factory):
    """A copy of the built-in model that a test may break."""
    folder = tmp_path_factory.mktemp("broken") / "model"
    shutil.copytree(tiny_assistant.CHECKPOINT, folder)
    return folder


def assert_one_sentence(code, out, err, sentence):
    lines = [line for line in err.splitlines() if re.match(r"et-pipeline: ", line)]
    assert code == 2, err
    assert len(lines) == 1, err
    assert re.search(sentence, lines[0]), err
    assert "Traceback" not in err
    assert out == ""


def assert_nothing_left(folder):
    left = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []
    assert not (folder / "outputs").exists()
    assert not (folder / "bundles").exists()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.linux("which has /dev/null") if "under a file" in name else ())
        for name in CHECKPOINTS
    ],
)
def test_bad_checkpoint(name, command, checkpoint, tmp_path):
    harm, overrides, sentence = CHECKPOINTS[name]
    without_checksums(checkpoint)
    harm(checkpoint)
    code, out, err = command("model=custom", f"model.source={checkpoint}", "model.max_context=256", *overrides)
    assert_one_sentence(code, out, err, sentence)
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_bad_command_line(name, command, tmp_path, tmp_path_factory):
    arguments, sentence = COMMAND_LINES[name]
    inputs = tmp_path_factory.mktemp("inputs")
    (inputs / "lie.gguf").write_bytes(b"GGML\0and more")
    (inputs / "stub.gguf").write_bytes(b"GGUF")
    (inputs / "empty.txt").touch()
    (inputs / "notes.txt").write_text("One short note.")
    (inputs / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    (inputs / "folder").mkdir()
    (inputs / "mine" / "recipe").mkdir(parents=True)
    (inputs / "mine" / "recipe" / "tabs.yaml").write_text("name: x\n\tscheme: 8da4w\n")
    (inputs / "mine" / "recipe" / "latin.yaml").write_bytes("name: Grüße\n".encode("latin-1"))
    assert_one_sentence(*command(*(argument.replace("{tmp}", str(inputs)) for argument in arguments)), sentence)
    assert_nothing_left(tmp_path)


@pytest.mark.linux("which has /proc")
@pytest.mark.parametrize("key", ["paths.cache", "paths.bundles"])
def test_a_folder_that_cannot_be_made(key, command):
    assert_one_sentence(*command(f"{key}=/proc/none"), r"/proc")


def test_bundles_where_nothing_can_be_written(command, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.os, "access", lambda path, mode: path != tmp_path)
    assert_one_sentence(*command(), r"paths\.bundles=bundles is to be made in .*, where nothing can be written")
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("harm", "overrides", "sentence"),
    [
        (
            lambda folder: None,
            ["recipe=8da4w_gptq", "recipe.calibration.source={notes}"],
            r"recipe\.calibration\.source=.*notes\.txt has \d+ tokens, and recipe\.calibration\.tokens=\d+ asks",
        ),
        (
            lambda folder: None,
            ["verify.text={notes}"],
            r"verify\.text=.*notes\.txt has \d+ tokens, and verify\.text_tokens=2048 asks for more; lower it",
        ),
        (
            add_foreign_token,
            ["verify.text={notes}", "verify.text_tokens=2"],
            r"verify\.text=.*notes\.txt becomes token 5000, but the model's vocab_size is \d+",
        ),
    ],
)
def test_texts_that_do_not_fit_the_model(harm, overrides, sentence, command, checkpoint, tmp_path):
    without_checksums(checkpoint)
    harm(checkpoint)
    notes = checkpoint.parent / "notes.txt"
    notes.write_text("One short note.")
    overrides = [override.replace("{notes}", str(notes)) for override in overrides]
    code, out, err = command("model=custom", f"model.source={checkpoint}", "model.max_context=512", *overrides)
    assert_one_sentence(code, out, err, sentence)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["acquire"]  # no stage that costs anything
    assert not (tmp_path / "outputs").exists()


def test_flipped_bit_in_the_weights_is_found_by_checksum(command, checkpoint, tmp_path):
    flip_a_bit(checkpoint / WEIGHTS, -1000)
    code, out, err = command("model=custom", f"model.source={checkpoint}", "model.max_context=256")
    assert_one_sentence(code, out, err, r"model\.safetensors is damaged or altered: its sha256 is")
    assert_nothing_left(tmp_path)


def test_file_that_the_checksums_list_is_missing(command, checkpoint, tmp_path):
    (checkpoint / "generation_config.json").unlink()
    code, out, err = command("model=custom", f"model.source={checkpoint}", "model.max_context=256")
    assert_one_sentence(code, out, err, r"generation_config\.json is missing; SHA256SUMS lists it")
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"intermediate_size": 96}, r"mlp"),
        ({"num_hidden_layers": 9}, r"is in no safetensors file"),
    ],
)
def test_weights_that_do_not_fit_the_config(command, checkpoint, tmp_path, change, sentence):
    without_checksums(checkpoint)
    edit_json(checkpoint / "config.json", **change)
    code, out, err = command("model=custom", f"model.source={checkpoint}", "model.max_context=256", "until=quantize")
    assert_one_sentence(code, out, err, sentence)
    assert not (tmp_path / "cache" / "quantize").exists()
    assert not (tmp_path / "outputs").exists()


def test_hub_id_that_cannot_be_reached(command, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    code, out, err = command("model=custom", "model.source=nobody/nothing")
    assert_one_sentence(code, out, err, r"model\.source=nobody/nothing is not a folder here")


@pytest.mark.linux("which mounts a small disk")
def test_full_disk_in_a_stage(tmp_path):
    """A real one: the cache on a file system of two megabytes."""
    small = tmp_path / "small"
    small.mkdir()
    command = [Path(sys.executable).parent / "et-pipeline", f"paths.cache={small / 'cache'}", "until=quantize"]
    mount = f"mount -t tmpfs -o size=2m tmpfs {small} || exit 77; "
    after = f"; code=$?; find {small} -name '*.tmp'; exit $code"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount + shlex.join(map(str, command)) + after],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    if done.returncode in (1, 77) and "et-pipeline" not in done.stderr:
        pytest.skip("mounting a file system needs rights that this user does not have")
    assert_one_sentence(
        done.returncode, done.stdout, done.stderr, r"no space left on the disk of paths\.cache=.*/small/cache"
    )
    assert not (tmp_path / "outputs").exists()


SMALL = ["model.architecture.vocab_size=2048", "model.architecture.num_hidden_layers=1"]


@pytest.mark.linux("which mounts a small disk")
@pytest.mark.slow
def test_too_little_room_for_random_weights(tmp_path):
    """Real disks: a gigabyte for a 7B model; then five megabytes for ten, and the same again once there is room."""
    small = tmp_path / "small"
    small.mkdir()
    program = [Path(sys.executable).parent / "et-pipeline", f"paths.cache={small / 'cache'}", "until=acquire"]
    large, little = (
        shlex.join(map(str, [*program, f"model={model}", "model.source=random", *overrides]))
        for model, overrides in (("llama2_7b", []), ("smollm2_135m", SMALL))
    )
    left = f"find {small} -type f -not -name '*.lock'; test -e {tmp_path / 'outputs'} && echo outputs"
    script = f"""
        mount -t tmpfs -o size=1g tmpfs {small} || exit 77
        {large}; echo "code $?" >&2; {left}
        mount -o remount,size=5m {small}
        {little}; echo "code $?" >&2; {left}
        mount -o remount,size=1g {small}
        {little} >&2; echo "code $?" >&2
    """
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    if done.returncode in (1, 77) and "et-pipeline" not in done.stderr:
        pytest.skip("mounting a file system needs rights that this user does not have")
    first, second, third = re.split(r"code (?=\d)", done.stderr)[0:3]
    sentence = r"model\.source=random needs {} GB on the disk of .*/small/.*, which has {} GB free; .* paths\.cache"
    assert_one_sentence(int(second[0]), done.stdout, first, sentence.format(r"13\.5", r"1\.1"))
    assert_one_sentence(int(third[0]), done.stdout, second[1:], sentence.format(r"0\.0", r"0\.0"))
    assert done.stderr.endswith("code 0\n"), done.stderr


def test_full_disk(command, monkeypatch, tmp_path):
    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device", str(tmp_path / "cache"))

    monkeypatch.setattr("et_pipeline.cache.publish", full)
    code, out, err = command()
    assert_one_sentence(code, out, err, r"No space left on device")


@pytest.mark.parametrize("run_dir", [".", "{tmp}", "mine", "mine/run", "deep/er/run"])
def test_a_mistake_leaves_the_users_own_folders(command, tmp_path, run_dir):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.log").write_text("mine")
    code, out, err = command("recipe.group_size=48", f"hydra.run.dir={run_dir.replace('{tmp}', str(tmp_path))}")
    assert_one_sentence(code, out, err, r"recipe\.group_size=48")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["mine", "mine/notes.log"]


@pytest.mark.parametrize("run_dir", [".", "run"])
def test_a_mistake_in_an_empty_folder_leaves_it_empty(command, tmp_path, run_dir):
    code, out, err = command("recipe.group_size=48", f"hydra.run.dir={run_dir}")
    assert_one_sentence(code, out, err, r"recipe\.group_size=48")
    assert tmp_path.is_dir()
    assert list(tmp_path.iterdir()) == []


QWEN = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
PER_LAYER = {"vocab_size_per_layer_input": 512, "hidden_size_per_layer_input": 16, "sliding_window": 16}
CONTEXT = ("model.max_context=128", "model.prefill_chunk=16", "task=chat", "model=custom")


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gemma4_text", ["adapt=prune_depth"], "pruning goes through a model layer by layer"),
        ("gemma4_text", ["recipe=8da4w_gptq"], "calibration goes through a model layer by layer"),
        ("gemma4_text", ["backend=qnn", "recipe=16a4w", "device=galaxy_s24_snapdragon"], "use backend=xnnpack"),
        ("qwen3_5_text", ["adapt=prune_width"], "drop layers instead .adapt=prune_depth."),
        ("qwen3_5_text", ["recipe=8da4w_awq"], "recipe.transform=awq is for layers of attention"),
        ("qwen3_5_text", ["recipe=8da8w_rotation"], "recipe.transform=rotation is for layers of attention"),
        ("qwen3_5_text", ["backend=qnn", "recipe=16a4w", "device=galaxy_s24_snapdragon"], "use backend=xnnpack"),
    ],
)
def test_what_a_familys_layers_do_not_let_be_done_is_refused_before_anything_heavy(
    family, changes, message, make_checkpoint
):
    from et_pipeline.checkpoints.facts import read_facts
    from et_pipeline.checkpoints.folder import Folder
    from et_pipeline.errors import UserError
    from et_pipeline.job.composed import composed
    from et_pipeline.pipeline.checks import check_family

    folder = Folder(make_checkpoint(family, **(QWEN if family == "qwen3_5_text" else PER_LAYER)))
    settings = composed([*CONTEXT, f"model.source={folder.path}", *changes])
    with pytest.raises(UserError, match=message):
        check_family(settings, read_facts(folder), folder)


@pytest.mark.parametrize("change", ["prune_depth", "qat"])
def test_a_model_that_sees_is_not_changed(change, make_checkpoint, tmp_path):
    import json
    import shutil

    from et_pipeline.checkpoints.facts import read_facts
    from et_pipeline.checkpoints.folder import Folder
    from et_pipeline.errors import UserError
    from et_pipeline.job.composed import composed
    from et_pipeline.pipeline.checks import check_family

    path = shutil.copytree(make_checkpoint("qwen3_5_text", **QWEN), tmp_path / "sees")
    facts, text = read_facts(Folder(path)), json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({"text_config": text, "vision_config": {"model_type": "x"}}))
    settings = composed([*CONTEXT, f"model.source={path}", f"adapt={change}"])
    with pytest.raises(UserError, match=f"vision_config., which does not go with adapt={change}"):
        check_family(settings, facts, Folder(path))

"""Another package adds a backend, a form, a family and options; `toy_plugin` has one of each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from et_pipeline import forms, plugins
from et_pipeline.architecture import read_architecture
from et_pipeline.backends import get_backend
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.errors import UserError
from et_pipeline.settings import Backend, ExportForm
from tests.conftest import SHAPE, write_tokenizer

ROOT = Path(__file__).parents[1]
GRANITE = {**SHAPE, "model_type": "granite", "architectures": ["GraniteForCausalLM"]}


def install(source, target):
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", target]
    subprocess.run([sys.executable, *command, source], check=True)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A folder with the toy installed."""
    folder = tmp_path_factory.mktemp("site")
    install(ROOT / "tests" / "toy_plugin", folder)
    return folder


@pytest.fixture
def add(monkeypatch):
    """Put a folder with packages where Python looks for them, and take it away again."""
    added = []

    def add(folder):
        monkeypatch.syspath_prepend(folder)
        plugins.installed.cache_clear()
        added.append(folder)

    yield add
    monkeypatch.undo()
    plugins.installed.cache_clear()
    for name, module in list(sys.modules.items()):
        if any(str(getattr(module, "__file__", None)).startswith(str(folder)) for folder in added):
            del sys.modules[name]


@pytest.fixture
def toy(site, add):
    add(site)


def package(folder, name, points, code="", version="1.0"):
    """Another one, as an installer leaves it."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = (f"[et_pipeline.{group}]\n{point}\n" for group, point in points.items())
    (info / "entry_points.txt").write_text("\n".join(groups))


def test_without_plugins_nothing_is_there():
    assert [plugins.names(group) for group in ("backends", "forms", "families", "conf")] == [[], [], [], []]
    with pytest.raises(UserError, match="backend=toy does not exist; there is xnnpack, qnn"):
        get_backend("toy")
    with pytest.raises(UserError, match="model_type='granite', whose tensors"):
        read_architecture(GRANITE, "config.json")


@pytest.mark.usefixtures("toy")
def test_a_backend_is_made_for_its_chip():
    backend = get_backend("toy", "T1000")
    assert (type(backend).__name__, backend.soc) == ("ToyBackend", "T1000")
    with pytest.raises(UserError, match="there is xnnpack, qnn, coreml, vulkan, portable, toy"):
        get_backend("tin")


@pytest.mark.usefixtures("toy")
def test_a_form_is_chosen_for_its_own_backend_alone():
    kind = forms.choose("text-generation", Backend(name="toy"))
    assert kind.name == "toy_decoder"
    assert forms.get(kind).fit(ExportForm(max_context=1024, prefill_chunk=32)).max_context == 256
    assert forms.choose("embedding", Backend(name="toy")).name == "encoder"
    assert forms.choose("text-generation", Backend(name="xnnpack")).name == "decoder"


@pytest.mark.usefixtures("toy")
def test_a_family_is_planned_and_adapted(tmp_path):
    known = read_architecture(GRANITE, "config.json")
    assert known.tied_head
    assert "model.layers.1.mlp.gate_proj.weight" in known.shapes

    from et_pipeline.checkpoints.config import is_tied
    from et_pipeline.checkpoints.skeleton import build_skeleton

    (tmp_path / "config.json").write_text(json.dumps(GRANITE))
    write_tokenizer(tmp_path / "tokenizer.json")
    assert is_tied(GRANITE)
    model, _ = build_skeleton(Folder(tmp_path))
    assert model.adapted_by == "toy"


@pytest.mark.usefixtures("toy")
def test_options_are_found_by_the_command(command):
    code, out, _ = command("recipe=toy", "backend=toy", "--cfg", "job", "--resolve")
    assert code == 0
    assert "name: tiny_assistant-toy-toy" in out
    code, out, _ = command("mode=plan", "format=json")
    assert code == 0
    assert "toy" in {each["recipe"] for each in json.loads(out)["recipes"]}
    code, _, err = command("recipe=toy4", "backend=toy")
    assert code == 2
    assert "toy" in err.split("choose from")[1]
    code, _, err = command("recipe=fp32", "backend=toy")
    assert (code, err.strip().endswith("does not run on backend=toy: toys have 8 bits; use recipe=toy")) == (2, True)


@pytest.mark.usefixtures("toy")
def test_keys_hold_a_plugins_version_and_code():
    versions = plugins.versions([("backends", "toy"), ("backends", "xnnpack"), ("forms", "decoder")])
    assert list(versions) == ["et-pipeline-toy et_pipeline_toy"]
    assert next(iter(versions.values())).startswith("0.1.0 ")
    assert plugins.versions([("backends", "xnnpack")]) == {}


def test_a_changed_plugin_has_another_key(tmp_path, add):
    package(tmp_path, "theirs", {"forms": "own = theirs"})
    add(tmp_path)
    before = plugins.versions([("forms", "own")])
    (tmp_path / "theirs.py").write_text("# changed\n")
    assert plugins.versions([("forms", "own")]) != before


@pytest.mark.parametrize(
    ("points", "code", "use", "why"),
    [
        ({"backends": "own = theirs:Own"}, "import nothing_of_the_kind", lambda: get_backend("own"), "No module named"),
        ({"backends": "own = theirs:Own"}, "Own = 1 / 0", lambda: get_backend("own"), "ZeroDivisionError"),
        ({"backends": "own = theirs:Own"}, "class Own: pass", lambda: get_backend("own"), "takes no arguments"),
        ({"backends": "own = theirs:own"}, "def own(soc): return 1", lambda: get_backend("own"), "is no Backend"),
        ({"forms": "own = theirs:own"}, "own = 1", lambda: forms.get(forms.Kind(name="own")), "is no Form"),
        (
            {"families": "granite = theirs:own"},
            "own = 1",
            lambda: read_architecture(GRANITE, "config.json"),
            "is no Family",
        ),
        ({"conf": "own = theirs"}, "", plugins.folders, "has no folder conf"),
        ({"conf": "own = gone"}, "", plugins.folders, "gone is not installed"),
    ],
)
def test_a_broken_plugin_is_named_in_one_sentence(tmp_path, add, points, code, use, why):
    package(tmp_path, "theirs", points, code)
    add(tmp_path)
    with pytest.raises(UserError) as told:
        use()
    sentence = str(told.value)
    assert sentence.startswith("the plug-in theirs has ")
    assert why in sentence
    assert sentence.endswith("mend or uninstall theirs")
    assert "\n" not in sentence


def test_a_broken_plugin_ends_the_command_with_its_sentence(tmp_path, add, command):
    package(tmp_path, "theirs", {"conf": "own = theirs"})
    add(tmp_path)
    code, out, err = command("mode=plan")
    assert (code, out) == (2, "")
    assert err.startswith("et-pipeline: the plug-in theirs has 'own' of et_pipeline.conf, but theirs has no folder")


def test_two_that_have_the_same_name_are_told(tmp_path, add):
    for name in ("ours", "theirs"):
        package(tmp_path, name, {"backends": f"own = {name}:Own"})
    add(tmp_path)
    with pytest.raises(UserError, match=r"ours and theirs both have 'own' of et_pipeline.backends"):
        get_backend("own")


@pytest.mark.slow
def test_the_whole_road_with_a_plugin(site, tmp_path):
    """To a bundle that was executed, in processes that know of the plug-in by its metadata alone."""
    script = tmp_path / "script.py"
    script.write_text(
        "import json, et_pipeline\n"
        "result = et_pipeline.run(recipe='toy', backend='toy', **{'verify.items_per_task': 0})\n"
        "with et_pipeline.open_bundle(result.bundle) as bundle:\n"
        "    found = {'answer': bundle.chat('Hello'), 'verified': bundle.verify().passed}\n"
        "    found |= json.loads(bundle.manifest.main.model_dump_json())\n"
        "    found |= {'gate': bundle.manifest.quality.gate.passed}\n"
        "print(json.dumps(found))\n"
    )
    paths = os.pathsep.join([str(site), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "ET_PIPELINE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    assert (found["backend"], found["recipe"], found["max_context"]) == ("toy", "toy", 256)
    assert found["executed"]
    assert found["gate"]
    assert found["verified"]
    assert found["answer"]
    keys = {
        path.parents[1].name: json.loads(path.read_text())["key"]["libraries"]
        for path in (tmp_path / "cache").glob("*/*/entry.json")
    }
    with_toy = {stage for stage, libraries in keys.items() if "et-pipeline-toy et_pipeline_toy" in libraries}
    assert with_toy == {"acquire", "export", "lower", "verify", "measure"}

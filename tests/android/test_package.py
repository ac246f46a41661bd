from __future__ import annotations

import hashlib
import json

import compiling
import gradle_files
import package
import pytest
from artifacts import BuildError


@pytest.fixture
def bundle(tmp_path):
    """The files of a bundle as far as the build looks at them."""
    folder = tmp_path / "bundle"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.pte").write_bytes(b"program")
    (folder / "tokenizer" / "tokenizer.json").write_bytes(b"{}")
    listed = {
        name: {"sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(), "size_bytes": 1}
        for name in ("model.pte", "tokenizer/tokenizer.json")
    }
    (folder / "manifest.json").write_text(json.dumps({"files": listed}))
    return folder


def test_check_bundle_gives_the_listed_files_and_the_manifest_and_nothing_else(bundle):
    (bundle / "note.txt").write_text("not listed")
    files = package.check_bundle(bundle)
    assert set(files) == {"manifest.json", "model.pte", "tokenizer/tokenizer.json"}
    assert all(path == bundle / name for name, path in files.items())


def test_check_bundle_says_in_one_sentence_what_is_missing_or_altered(bundle, tmp_path):
    with pytest.raises(
        BuildError, match=r"nowhere is no bundle: it has no manifest\.json; make one with 'make demo'\.$"
    ):
        package.check_bundle(tmp_path / "nowhere")
    (bundle / "model.pte").write_bytes(b"programm")
    with pytest.raises(BuildError, match=r"model\.pte was altered: its SHA-256 is not the manifest's\.$"):
        package.check_bundle(bundle)
    (bundle / "model.pte").unlink()
    with pytest.raises(BuildError, match=r"bundle lacks 'model\.pte', which its manifest lists\.$"):
        package.check_bundle(bundle)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[]", b"{}", b'{"files": []}', b'{"files": {"a": {}}}', b'{"files": {"a": 1}}', b'"files"'],
)
def test_check_bundle_refuses_a_manifest_that_is_none(bundle, content):
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(BuildError, match=r"manifest\.json is no bundle manifest \("):
        package.check_bundle(bundle)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside"])
def test_check_bundle_refuses_files_outside_of_the_bundle(bundle, name):
    (bundle.parent / "outside").write_bytes(b"")
    entry = {"sha256": hashlib.sha256(b"").hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps({"files": {name: entry}}))
    with pytest.raises(BuildError, match="outside of the bundle"):
        package.check_bundle(bundle)


def test_assets_are_the_apps_own_and_the_bundles(tmp_path, bundle):
    own = tmp_path / "assets" / "bundles" / "mine" / "model.pte"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"")
    made = package.assets_of(tmp_path / "assets", {"demo": package.check_bundle(bundle)})
    names = {"manifest.json", "model.pte", "tokenizer/tokenizer.json"}
    assert set(made) == {"bundles/mine/model.pte", *(f"bundles/demo/{name}" for name in names)}
    assert made["bundles/mine/model.pte"] == own
    assert package.assets_of(tmp_path / "nowhere", {}) == {}


def test_the_default_rules_are_put_together_as_gradle_does(made_tools):
    rules = package.default_rules(made_tools) / gradle_files.DEFAULT_RULES
    assert rules.read_text(encoding="utf-8") == "-header\n-optimizations\n-common"


@pytest.mark.parametrize("release", [False, True])
def test_classes_are_dexed_anew_after_a_change_of_whatever_is_in_them_or_makes_them(
    release, made_tools, made_classes, tmp_path, monkeypatch
):
    """A file's name may stay: the runtime's classes are 'classes.jar' of whichever version."""
    (tmp_path / "R").mkdir()
    (tmp_path / "aapt.pro").write_text("-keep")
    resources = compiling.Resources(tmp_path, tmp_path, tmp_path / "R", tmp_path / "aapt.pro")
    ran = []
    monkeypatch.setattr(package, "run", lambda *command: ran.append(command))
    monkeypatch.setattr(package, "jdk", lambda: tmp_path)

    def repeated(settings):
        ran.clear()
        package.make_dex(made_tools, resources, made_classes, settings, release)
        return len(ran)

    settings, steps_of_it = made_tools.project.app, 1 if release else 2
    assert [repeated(settings), repeated(settings)] == [steps_of_it, 0]
    changed = [made_tools.runtime / "classes.jar", made_tools.tool("r8-"), made_tools.android, *made_tools.jars["app"]]
    for path in changed:
        path.write_bytes(b"another")
        assert repeated(settings) == steps_of_it, path
    assert repeated(settings._replace(min_sdk="27")) == steps_of_it


def test_an_apk_has_the_libraries_of_its_own_abis_alone(made_tools, monkeypatch):
    monkeypatch.setattr(package, "page_size", lambda *_: package.PAGE)
    for abi in ("arm64-v8a", "x86_64"):
        (made_tools.runtime / abi).mkdir()
        (made_tools.runtime / abi / "libexecutorch.so").write_bytes(b"")
    app = made_tools.project.app._replace(abis=["arm64-v8a"])
    tools = made_tools._replace(project=made_tools.project._replace(app=app))
    assert set(package.native_libraries(tools)) == {"lib/arm64-v8a/libexecutorch.so"}

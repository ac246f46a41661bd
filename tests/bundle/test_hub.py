"""Bundles to a hub and back, through the command line, against a server that keeps what it is given."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub import Store
from huggingface_hub import ModelCard, constants
from huggingface_hub.constants import DOWNLOAD_CHUNK_SIZE as PIECE
from huggingface_hub.utils import close_session
from made_bundle import PTE, make_bundle, make_gate

from et_pipeline import manifest as bundle
from et_pipeline.cli import bundle as commands

REPOSITORY = "someone/tiny"
COMMAND = Path(sys.executable).parent / "et-bundle"


@pytest.fixture
def folder(tmp_path):
    return make_bundle(tmp_path / "tiny")


@pytest.fixture
def store(tmp_path):
    store = Store(REPOSITORY, tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty folder, in which commands run."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def run(store, work, monkeypatch, capfd):
    """Run et-bundle in this process, against this hub; huggingface_hub read its own settings when it was imported."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", store.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", store.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(work / "no_token"))

    def run(*arguments, token="secret", offline=False, xet=False):
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)
        monkeypatch.setattr(sys, "argv", ["et-bundle", *map(str, arguments)])
        close_session()
        with pytest.raises(SystemExit) as ended:
            commands.main()
        captured = capfd.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


@pytest.fixture
def start(store, work, tmp_path):
    """The same in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    places = {"HF_ENDPOINT": store.address, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}

    def begin(*arguments, before=()):
        return subprocess.Popen(
            [*before, COMMAND, *arguments], env={**kept, **places}, stderr=subprocess.PIPE, text=True
        )

    return begin


@pytest.fixture
def published(store, folder, tmp_path):
    """The bundle is on the hub."""
    store.revisions["main"] = shutil.copytree(folder, tmp_path / "store" / "0")


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_sentence(answer, sentence, code=2):
    assert (answer[0], answer[1]) == (code, ""), answer
    assert answer[2].count("\n") == 1, answer[2]
    assert sentence in answer[2]


def test_what_is_published_is_pulled_byte_for_byte(store, run, folder, tmp_path):
    code, out, err = run("publish", folder, REPOSITORY, "--private")
    assert code == 0, err
    assert store.private
    assert len(store.commits) == 1
    assert out == f"{store.address}/{REPOSITORY}/commit/{Path(out.strip()).name}\n"
    assert [bundle.read(folder).files[PTE].sha256] == list(store.objects)  # in the large file storage, once
    code, out, err = run("pull", REPOSITORY)
    assert (code, err) == (0, "")
    assert out.startswith("bundles/tiny: ")
    pulled = tmp_path / "work" / "bundles" / "tiny"
    assert content(pulled) == content(folder)
    assert [path.name for path in pulled.parent.iterdir()] == ["tiny"]
    code, _, err = run("inspect", "bundles/tiny")
    assert code == 0, err


def test_the_hub_finds_the_cards_header_right(store, run, folder):
    what = bundle.read(folder).what
    source = what.source.model_copy(update={"source": "org/model", "revision": "v2"})
    made = bundle.read(folder).model_copy(update={"what": what.model_copy(update={"source": source})})
    bundle.write(made, folder)
    code, _, err = run("publish", folder, REPOSITORY)
    assert code == 0, err
    card = ModelCard((store.revisions["main"] / "README.md").read_text(encoding="utf-8"))
    assert card.data.to_dict() == {
        "base_model": "org/model",
        "base_model_relation": "quantized",
        "library_name": "executorch",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["executorch", "et_pipeline", "xnnpack", "on-device"],
    }
    card.validate()
    assert store.cards == [str(card)] * 2


def test_a_newer_bundle_takes_the_place_of_an_older_one_in_one_commit(store, run, folder, published, tmp_path):
    (store.revisions["main"] / "old.pte").write_bytes(b"of an older bundle")
    (store.revisions["main"] / "picture.png").write_bytes(b"of the owner")
    made = bundle.read(folder)
    bundle.write(made.model_copy(update={"what": made.what.model_copy(update={"name": "newer"})}), folder)
    code, _, err = run("publish", folder, REPOSITORY)
    assert code == 0, err
    assert len(store.commits) == 1
    names = set(content(store.revisions["main"]))
    assert names == {*made.files, "manifest.json", "README.md", "picture.png"}
    code, _, err = run("pull", REPOSITORY, "--to", "newer")
    assert code == 0, err
    assert content(tmp_path / "work" / "newer") == content(folder)


def test_a_dry_run_asks_nobody(store, run, folder):
    code, out, err = run("publish", folder, REPOSITORY, "--dry-run", token="", offline=True)
    assert (code, err) == (0, "")
    assert out.startswith("---\nlibrary_name: executorch\n")
    assert all(name in out for name in bundle.read(folder).files)
    assert store.asked == []


def test_a_bundle_whose_gate_failed_goes_only_if_that_is_wanted(store, run, tmp_path):
    failed = make_bundle(tmp_path / "failed", quality=bundle.Quality(gate=make_gate(passed=False)))
    answer = run("publish", failed, REPOSITORY)
    assert_sentence(answer, "tiny failed its quality gate (model.pte: top1 against original is 0.5, threshold 0.9)", 3)
    assert store.asked == []
    code, _, err = run("publish", failed, REPOSITORY, "--failed")
    assert code == 0, err
    assert "**The quality gate failed.** model.pte: top1 against original is 0.5" in store.cards[0]
    code, out, _ = run("pull", REPOSITORY)
    assert code == 0
    assert out.endswith("its quality gate FAILED\n")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: (f / PTE).write_bytes(b"x" * 9000), "'model.pte' was altered"),
        (lambda f: os.truncate(f / PTE, 10), "'model.pte' is truncated"),
        (lambda f: (f / "extra").write_text("x"), "'extra' is not listed in the manifest"),
    ],
)
def test_a_broken_bundle_is_not_published(store, run, folder, spoil, sentence):
    spoil(folder)
    assert_sentence(run("publish", folder, REPOSITORY), sentence)
    assert store.asked == []


@pytest.mark.parametrize(
    ("repository", "given", "sentence"),
    [
        (REPOSITORY, {"token": ""}, "publish needs a token that may write: log in with `hf auth login`"),
        (REPOSITORY, {"token": "wrong"}, "someone/tiny: the hub does not know your token; log in with `hf auth"),
        (REPOSITORY, {"offline": True}, "someone/tiny: the hub cannot be reached; HF_HUB_OFFLINE is set"),
        ("tiny", {}, "tiny names no owner: give it as OWNER/tiny."),
        ("some one/tiny", {}, "some one/tiny is not a valid hub id"),
    ],
)
def test_what_cannot_be_published_where(store, run, folder, repository, given, sentence):
    assert_sentence(run("publish", folder, repository, **given), sentence)
    assert store.revisions == {}


@pytest.mark.parametrize(
    ("end", "refusal", "sentence"),
    [
        (
            "/create",
            (403, "", "You don't have the rights"),
            "your token does not allow this upload; 403 Forbidden: You",
        ),
        ("/commit/main", (500, "", "no"), "someone/tiny: the upload broke off (Server error '500"),
        ("/commit/main", (413, "", "too large"), "someone/tiny: the upload broke off (Client error '413"),
    ],
)
def test_a_hub_that_refuses(store, run, folder, end, refusal, sentence):
    store.refusals[end] = refusal
    assert_sentence(run("publish", folder, REPOSITORY), sentence)
    assert store.commits == []


def test_a_file_that_cannot_be_uploaded(store, run, folder):
    store.refusals[bundle.read(folder).files[PTE].sha256] = (403, "", "expired")
    assert_sentence(run("publish", folder, REPOSITORY), "someone/tiny: the upload broke off (403 Forbidden: expired")
    assert store.commits == []


def test_a_hub_without_the_storage_that_huggingface_hub_prefers(store, run, folder):
    answer = run("publish", folder, REPOSITORY, xet=True)
    assert_sentence(answer, "someone/tiny: the upload broke off (")
    assert store.commits == []


def test_a_card_that_the_hub_does_not_take(store, run, folder):
    store.wrong.append("license")
    assert_sentence(
        run("publish", folder, REPOSITORY), "the hub refuses this (Invalid metadata in README.md. - license is"
    )
    assert store.objects == {}


def test_what_the_hub_says_of_a_card_is_shown(store, run, folder):
    store.hints.append("a licence_link would help")
    code, _, err = run("publish", folder, REPOSITORY)
    assert code == 0, err
    assert "a licence_link would help" in err


def test_a_repository_of_something_else_is_left_alone(store, run, folder, published):
    (store.revisions["main"] / "manifest.json").unlink()
    assert_sentence(run("publish", folder, REPOSITORY), "someone/tiny is there and no bundle")
    assert store.commits == []


def test_a_public_repository_does_not_become_private_in_silence(store, run, folder, published):
    assert_sentence(run("publish", folder, REPOSITORY, "--private"), "someone/tiny is there and public")


def test_no_hub(store, run, folder):
    store.close()
    assert_sentence(run("publish", folder, REPOSITORY), "someone/tiny: the upload broke off (")
    assert_sentence(run("pull", REPOSITORY), "someone/tiny: the download broke off (")


@pytest.mark.parametrize(
    ("arguments", "given", "sentence"),
    [
        (["someone/else"], {}, "someone/else is not a repository on the hub (or it is private)"),
        ([REPOSITORY, "--revision", "v9"], {}, "someone/tiny has no --revision v9"),
        ([REPOSITORY], {"token": "wrong"}, "someone/tiny: the hub does not know your token"),
        ([REPOSITORY], {"offline": True}, "someone/tiny: the hub cannot be reached; HF_HUB_OFFLINE is set"),
        ([REPOSITORY, "--to", "."], {}, ". is there already: name another folder with --to"),
        ([REPOSITORY, "--to", "~nobody-at-all/x"], {}, "--to ~nobody-at-all/x: ~nobody-at-all is nobody's home here"),
        (["some one/tiny"], {}, "some one/tiny is not a valid hub id"),
    ],
)
@pytest.mark.usefixtures("published")
def test_what_cannot_be_pulled(run, arguments, given, sentence, tmp_path):
    assert_sentence(run("pull", *arguments, **given), sentence)
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.usefixtures("published")
def test_a_gated_bundle_wants_a_token(store, run):
    store.token = "secret"
    assert_sentence(run("pull", REPOSITORY, token=""), "someone/tiny is gated; accept its licence on the hub and log")
    code, _, err = run("pull", REPOSITORY)
    assert code == 0, err


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: (f / "manifest.json").unlink(), "someone/tiny is no bundle: it has no manifest.json at its top"),
        (lambda f: (f / PTE).unlink(), "someone/tiny: 'model.pte' is missing, and the manifest lists it"),
        (lambda f: os.truncate(f / PTE, 10), "someone/tiny: 'model.pte' is truncated"),
        (lambda f: (f / PTE).write_bytes(b"x" * 9000), "someone/tiny: 'model.pte' is not what the manifest says"),
        (lambda f: (f / "manifest.json").write_text("{}"), "someone/tiny/manifest.json is no bundle manifest"),
    ],
)
@pytest.mark.usefixtures("published")
def test_what_is_no_whole_bundle_is_not_pulled(store, run, spoil, sentence, tmp_path):
    spoil(store.revisions["main"])
    assert_sentence(run("pull", REPOSITORY), sentence)
    left = [path.name for path in (tmp_path / "work").rglob("*") if path.is_file()]
    assert left == ([] if "not what" not in sentence else ["manifest.json"])


@pytest.mark.usefixtures("published")
def test_an_older_revision(store, run, folder, tmp_path):
    store.revisions["v1"] = store.revisions["main"]
    newer = shutil.copytree(folder, tmp_path / "store" / "1")
    bundle.write(bundle.read(folder).model_copy(update={"samples": []}), newer)
    store.revisions["main"] = newer
    code, _, err = run("pull", REPOSITORY, "--revision", "v1")
    assert code == 0, err
    assert content(tmp_path / "work" / "bundles" / "tiny") == content(folder)


def test_a_killed_pull_goes_on_where_it_was(store, run, start, folder, tmp_path):
    (folder / PTE).write_bytes(os.urandom(3 * PIECE))
    bundle.write(bundle.read(folder).model_copy(update={"files": bundle.describe_files(folder)}), folder)
    store.revisions["main"] = folder
    store.stall = 2 * PIECE + 1000
    first = start("pull", REPOSITORY)
    assert store.stalled.wait(60)
    deadline = time.monotonic() + 60
    parts = lambda: list((tmp_path / "work").rglob(f"{PTE}.incomplete"))  # noqa: E731
    while time.monotonic() < deadline and not any(path.stat().st_size for path in parts()):
        time.sleep(0.05)
    first.kill()
    first.communicate()
    (part,) = parts()
    there = part.stat().st_size
    assert there > 0
    assert not (tmp_path / "work" / "bundles" / "tiny").exists()
    store.stall = None
    code, _, err = run("pull", REPOSITORY)
    assert code == 0, err
    ranges = [part for method, path, part in store.asked if method == "GET" and path.endswith(PTE)]
    assert ranges == [None, f"bytes={there}-"]
    assert content(tmp_path / "work" / "bundles" / "tiny") == content(folder)
    assert [path.name for path in (tmp_path / "work" / "bundles").iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    ("room", "sentence"),
    [("4k", "no space left on the disk of small; free some, or choose another --to"), ("20k", "someone/tiny needs ")],
)
@pytest.mark.usefixtures("published")
def test_too_little_room(start, room, sentence):
    """On a real disk, which ends within the manifest, or behind it."""
    mount = f'mkdir small; mount -t tmpfs -o size={room} tmpfs small || exit 77; exec "$0" "$@"'
    ended = start("pull", REPOSITORY, "--to", "small/tiny", before=["unshare", "--mount", "sh", "-c", mount])
    _, err = ended.communicate(timeout=120)
    if ended.returncode in (1, 77) and "small" not in err:
        pytest.skip("mounting a file system needs rights that this user does not have")
    assert_sentence((ended.returncode, "", err), sentence)

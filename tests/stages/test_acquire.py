import hashlib

import pytest

from et_pipeline import tiny_assistant
from et_pipeline.errors import UserError
from et_pipeline.models.facts import Facts
from et_pipeline.settings import Checkpoint, ExportForm
from et_pipeline.stages import acquire

FORM = ExportForm(max_context=64, prefill_chunk=16)


def ignore(done, total):
    pass


def test_resolve_finds_the_built_in_model_and_folders(tiny_llama):
    assert acquire.resolve(Checkpoint(source="builtin:tiny_assistant")) == tiny_assistant.CHECKPOINT
    assert acquire.resolve(Checkpoint(source=str(tiny_llama))) == tiny_llama.resolve()


def test_resolve_reads_a_downloaded_snapshot_without_the_network(tiny_llama, tmp_path, monkeypatch):
    """The hub's own layout: refs name a commit, snapshots hold links to blobs."""
    repository = tmp_path / "models--someone--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / commit
    (repository / "refs").mkdir(parents=True)
    (repository / "blobs").mkdir()
    snapshot.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for path in tiny_llama.iterdir():
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    folder = acquire.resolve(Checkpoint(source="someone/tiny"))
    assert folder == snapshot
    assert "model.safetensors" in acquire.hash_files(folder, ignore)


def test_hash_files_depends_on_content_not_on_place(tiny_llama, tmp_path):
    import shutil

    copy = shutil.copytree(tiny_llama, tmp_path / "copy")
    assert acquire.hash_files(copy, ignore) == acquire.hash_files(tiny_llama, ignore)


@pytest.mark.parametrize("source", ["a/b/c", "./x", "/x/y", "~nobody-here/x", "just-a-name"])
def test_resolve_refuses_what_is_neither_folder_nor_hub_id(source):
    with pytest.raises(UserError, match=r"model\.source="):
        acquire.resolve(Checkpoint(source=source))


def test_run_writes_the_facts(tiny_llama, tmp_path):
    files = acquire.hash_files(tiny_llama, ignore)
    figures, _ = acquire.run(tiny_llama, files, FORM, tmp_path)
    facts = Facts.read(tmp_path)
    assert (facts.family, facts.layers, facts.kv_heads, facts.head_dim, facts.tied_head) == ("llama", 2, 2, 32, True)
    assert facts.eos_ids == (1,)
    assert facts.chat.is_plain
    assert figures["parameters"] == facts.parameters

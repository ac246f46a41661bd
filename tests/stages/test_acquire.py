import json
import shutil

from et_pipeline import tiny_assistant
from et_pipeline.checkpoints.facts import Facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.runtime.embedding import for_one_text
from et_pipeline.settings import ExportForm
from et_pipeline.stages import acquire

FORM = ExportForm(max_context=64, prefill_chunk=16)


def ignore(done, total):
    pass


def test_run_writes_the_facts(tiny_llama, tmp_path):
    figures = acquire.run({"checkpoint": tiny_llama}, tmp_path, ignore, form=FORM)
    facts = Facts.read(tmp_path)
    assert (facts.family, facts.layers, facts.kv_heads, facts.head_dim, facts.tied_head) == ("llama", 2, 2, 32, True)
    assert facts.eos_ids == (1,)
    assert facts.chat.is_plain
    assert figures.parameters == facts.parameters


def test_an_encoders_tokenizer_is_written_as_its_program_takes_texts(make_checkpoint, tmp_path):
    folder = make_checkpoint("bert", num_hidden_layers=1, max_position_embeddings=64)
    acquire.run({"checkpoint": folder}, tmp_path, ignore, form=FORM)
    for_one_text(Folder(folder).tokenizer, FORM.max_context).save(str(tmp_path / "expected.json"))
    assert (tmp_path / "tokenizer.json").read_bytes() == (tmp_path / "expected.json").read_bytes()
    assert len(Folder(tmp_path).tokenizer.encode("a" * 100).ids) == FORM.max_context


def test_what_the_tokenizer_leaves_to_the_caller_and_what_android_makes_otherwise_is_told(tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_assistant.CHECKPOINT, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for token in content["added_tokens"]:
        token["rstrip"] = token["content"] == "<|user|>"
    rare = max(content["model"]["vocab"], key=content["model"]["vocab"].get)
    content["model"]["merges"] = [merge for merge in content["model"]["merges"] if "".join(merge) != rare]
    content["model"]["ignore_merges"] = True
    path.write_text(json.dumps(content), encoding="utf-8")
    (warning,) = acquire.run({"checkpoint": folder}, tmp_path, ignore, form=FORM).warnings
    assert "does not know ignore_merges: 1 words of the vocabulary" in warning
    told = Facts.read(tmp_path).manifest_tokenizer()
    assert (told.lstrip, told.rstrip, told.bos_token) == ([], ["<|user|>"], "<|begin|>")
    assert told.parity.mended == ["white space behind <|user|> is left out by the caller"]
    assert warning.endswith(told.parity.android[0])

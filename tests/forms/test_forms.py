"""The table of forms, and that no other room asks what kind of program is made."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import et_pipeline
from et_pipeline import cache, forms
from et_pipeline.settings import Backend, ExportForm

PACKAGE = Path(et_pipeline.__file__).parent
SIZES = ExportForm(max_context=64, prefill_chunk=16)


@pytest.mark.parametrize(
    ("task", "backend", "name", "signature", "chunk"),
    [
        ("text-generation", Backend(name="xnnpack"), "decoder", "tokens", 16),
        ("text-generation", Backend(name="coreml"), "static_decoder", "tokens", 1),
        ("text-generation", Backend(name="qnn", soc="SM8650"), "static_decoder", "tokens", 1),
        ("text-generation", Backend(name="qnn", soc="SM8650", prefill=True), "external_cache", "tokens_cache", 16),
        ("embedding", Backend(name="xnnpack"), "encoder", "tokens", 16),
        ("embedding", Backend(name="vulkan"), "static_encoder", "tokens_mask", 16),
    ],
)
def test_the_form_follows_from_task_and_backend(task, backend, name, signature, chunk):
    kind = forms.choose(task, backend)
    form = forms.get(kind)
    assert (kind.name, form.signature, form.fit(SIZES).prefill_chunk) == (name, signature, chunk)
    assert form.embeds == (task == "embedding")
    assert set(form.methods) == ({"prefill_forward", "kv_forward"} if backend.prefill else {"forward"})


def test_what_a_form_says_of_itself_needs_no_torch():
    names = [*dict.fromkeys(forms.FORMS.values())]
    code = f"""
import sys
from et_pipeline import cache, forms
for name in {names}:
    forms.get(forms.Kind(name=name))
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_other_room_asks_which_form_it_is():
    """But for what forms are built from, and for the caller's side of a program whose cache the caller holds."""
    package = Path(et_pipeline.__file__).parent
    asked = re.compile(
        r"\.static\b|backend\.prefill\b|form\.embeds|(static_|Static|external_|External)(decoder|Decoder|encoder|Encoder|cache|Cache)"
    )
    found = {
        path.relative_to(package).as_posix()
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0] not in ("forms", "models", "backends")
        for line in path.read_text().splitlines()
        if asked.search(line)
    }
    assert found == {"runtime/program.py", "bench/families.py"}  # the latter tries them all


@pytest.mark.parametrize("stage", ["export", "lower", "verify", "measure"])
def test_a_stages_key_holds_the_code_of_forms_and_not_that_of_commands(stage, monkeypatch):
    read = set()
    monkeypatch.setattr(cache, "sha256_file", lambda path: read.add(path.relative_to(PACKAGE).as_posix()) or "")
    cache.code_version.__wrapped__(f"et_pipeline.stages.{stage}")
    assert {f"forms/{name}.py" for name in forms.FORMS.values()} <= read
    assert {"models/encoder.py", "models/static_decoder.py", "models/external_cache.py"} <= read
    assert not {name for name in read if name.startswith(("cli/", "job/", "bundle/", "pipeline/", "report/"))}

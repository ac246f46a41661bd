"""`et-bundle adapters add --about`; what lies in an adapter is in `tests/bundle/test_bundle_adapters.py`."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from made_bundle import PTE, make_gate, make_manifest, write_files

from et_pipeline import manifest as bundle
from et_pipeline.bundle import adapters
from et_pipeline.checkpoints import swappable
from et_pipeline.upstream import tensor_file


@pytest.fixture
def takes_adapters(tmp_path, monkeypatch):
    """A bundle whose program takes adapters; what is in one, and how good it is, is made up."""
    folder = tmp_path / "takes"
    write_files(folder)
    (folder / "model.ptd").write_bytes(b"zeros")
    files = bundle.describe_files(folder)
    program = make_manifest(files).programs[0].model_copy(update={"weights": ["model.ptd"], "adapter_rank": 4})
    assert program.file == PTE
    bundle.write(make_manifest(files, programs=[program]), folder)
    near = bundle.Agreement(positions=9, cosine=1.0, min_cosine=1.0, max_abs_diff=0.0, kl=0.0, top1=1.0)
    quality = bundle.AdapterQuality(
        agreement=near,
        greedy=bundle.GreedyAgreement(prompts=1, equal=1, tokens=9, agreement=1.0),
        gate=make_gate(passed=True),
    )

    @contextmanager
    def opened(*_):
        yield SimpleNamespace(lora=SimpleNamespace(rank=4, base=None), files={"adapter_model.safetensors": "0" * 64})

    monkeypatch.setattr(adapters, "_opened", opened)
    monkeypatch.setattr(adapters, "_tried", lambda *_: (quality, []))
    monkeypatch.setattr(swappable, "fit", lambda *_: {})
    monkeypatch.setattr(tensor_file, "tensor_shapes", lambda *_: {})
    monkeypatch.setattr(tensor_file, "with_tensors", lambda *_: b"weights")
    return folder


def test_what_an_adapter_is_for_stays_until_it_is_said_anew(run, takes_adapters):
    def about(*option):
        code, _, err = run("adapters", "add", takes_adapters, "formal", *option)
        assert code == 0, err
        (adapter,) = bundle.read(takes_adapters).adapters
        return adapter.about

    assert about() is None
    assert about("--about", "A formal tone") == "A formal tone"
    assert "A formal tone" in run("adapters", "list", takes_adapters)[1]
    assert about() == "A formal tone"
    assert about("--about", "Letters") == "Letters"


def test_a_text_that_no_file_can_hold_is_refused_at_the_start(run, takes_adapters, monkeypatch):
    monkeypatch.setattr(adapters, "_tried", lambda *_: pytest.fail("it was tried first"))
    before = bundle.read(takes_adapters)
    code, _, err = run("adapters", "add", takes_adapters, "formal", "--about", "Schr\udcf6der")  # Latin-1 in a shell
    assert (code, err) == (
        2,
        "--about has half a character in it, which no manifest can hold: give it as text in UTF-8\n",
    )
    assert bundle.read(takes_adapters) == before

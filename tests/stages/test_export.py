"""What cannot be exported says so in a sentence; see tests/models for what is exported."""

import pytest

from et_pipeline import forms
from et_pipeline.checkpoints.facts import read_facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.errors import UserError
from et_pipeline.settings import Backend, Quantization
from et_pipeline.stages import export, quantize
from tests.conftest import FORM

FLOATS = Quantization(scheme="fp32", group_size=0, mapping="symmetric", embedding_bits=32, embedding_group_size=0)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("nemotron", "NemotronAttention hands its attention none of the call's settings"),
        ("diffllama", "family diffllama cannot be exported: .*must be Tensor"),
    ],
)
def test_a_family_that_computes_in_another_way_is_refused(family, message, make_checkpoint, tmp_path):
    folder = make_checkpoint(family)
    inputs = {"checkpoint": folder}
    for name in ("acquire", "quantize", "export"):
        inputs[name] = tmp_path / name
        inputs[name].mkdir()
    read_facts(Folder(folder)).write(inputs["acquire"])
    quantize.run(inputs, inputs["quantize"], lambda *_: None, quantization=FLOATS)
    backend = Backend(name="xnnpack")
    kind = forms.choose("text-generation", backend)
    settings = {"kind": kind, "quantization": FLOATS, "form": FORM, "backend": backend}
    with pytest.raises(UserError, match=message) as caught:
        export.run(inputs, inputs["export"], lambda *_: None, **settings)
    assert "\n" not in str(caught.value)

"""Adapters in a loaded program: it computes what peft computes with them on the same base."""

import shutil
from functools import partial

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from et_pipeline.backends import get_backend
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.checkpoints.swappable import fit, read_lora
from et_pipeline.errors import UserError
from et_pipeline.models.adapted import is_adapter, make_adaptable
from et_pipeline.models.decoder import Decoder, export_decoder, load_program, metadata, save_program
from et_pipeline.quantization.torchao_config import quantize_module
from et_pipeline.runtime.adapters import AdapterSlot
from et_pipeline.runtime.program import Program, check_weights_file
from et_pipeline.settings import ExportForm, Quantization
from et_pipeline.upstream.tensor_file import tensor_shapes, with_tensors

RANK = 6
FORM = ExportForm(max_context=64, prefill_chunk=16, adapter_rank=RANK)
TOKENS = torch.randint(2, 512, (1, 16), generator=torch.Generator().manual_seed(0))
FP32 = Quantization(scheme="fp32", group_size=0, mapping="symmetric", embedding_bits=32, embedding_group_size=0)
INT4 = Quantization(
    scheme="8da4w", group_size=32, mapping="symmetric_no_clipping_error", embedding_bits=8, embedding_group_size=0
)
KINDS = {
    "a": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
    "b": {"r": 6, "lora_alpha": 4, "use_rslora": True, "target_modules": ["q_proj", "down_proj"]},
}


@pytest.fixture(scope="module")
def adapters(tiny_llama, tmp_path_factory):
    """Folders of peft adapters, as large as what they change, and what peft computes with them."""
    made = {}
    for seed, (name, settings) in enumerate(KINDS.items()):
        model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
        torch.manual_seed(seed)
        tuned = get_peft_model(model, LoraConfig(init_lora_weights=False, **settings))
        folder = tmp_path_factory.mktemp(name)
        tuned.save_pretrained(folder)
        again = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32), folder
        ).eval()
        with torch.no_grad():
            made[name] = folder, again(TOKENS).logits[0, -1]
    return made


@pytest.fixture(scope="module", params=[FP32, INT4], ids=["fp32", "8da4w"])
def lowered(request, tiny_llama, adapters, tmp_path_factory):
    """A folder with a program and adapters for it, and the eager decoder that it was made of."""
    model = load_model(tiny_llama, partial(quantize_module, q=request.param))
    make_adaptable(model, RANK)
    decoder, folder = Decoder(model, FORM), tmp_path_factory.mktemp("lowered")
    save_program(export_decoder(decoder), folder)
    get_backend("xnnpack").lower(load_program(folder), metadata(decoder, 0, [1]), folder / "model.pte")
    empty = folder / "model.ptd"
    for name, (peft, _) in adapters.items():
        tensors = fit(read_lora(peft), tensor_shapes(empty))
        (folder / f"{name}.ptd").write_bytes(with_tensors(empty, tensors))
    return folder, decoder, request.param


@pytest.fixture
def slot(lowered):
    return AdapterSlot(lowered[0] / "model.ptd")


def eager(lowered, adapters, name):
    folder, decoder, _ = lowered
    tensors = {} if name is None else fit(read_lora(adapters[name][0]), tensor_shapes(folder / "model.ptd"))
    with torch.no_grad():
        for key, parameter in decoder.named_parameters():
            if is_adapter(key):
                parameter.copy_(tensors.get(key, torch.zeros_like(parameter)))
        return decoder(TOKENS, torch.tensor([0])).reshape(-1)


def test_a_program_computes_what_the_eager_model_with_that_adapter_does(lowered, adapters, slot):
    program = Program(lowered[0] / "model.pte", 1, slot.path)
    for name in (None, *adapters):
        slot.put(None if name is None else lowered[0] / f"{name}.ptd")
        assert torch.allclose(program.forward(TOKENS, 0), eager(lowered, adapters, name), atol=1e-4, rtol=1e-4), name


def test_a_program_computes_what_peft_does(lowered, adapters, slot, tiny_llama):
    folder, _, recipe = lowered
    program = Program(folder / "model.pte", 1, slot.path)
    with torch.no_grad():
        base = load_model(tiny_llama)(TOKENS).logits[0, -1]
    rounding = (program.forward(TOKENS, 0) - base).norm()  # what quantization costs without any adapter
    for name, (_, expected) in adapters.items():
        slot.put(folder / f"{name}.ptd")
        found = program.forward(TOKENS, 0)
        if recipe == FP32:
            assert torch.allclose(found, expected, atol=1e-3, rtol=1e-4), name
            assert (base - expected).norm() > 10, name
        else:
            assert (found - expected).norm() < 1.5 * rounding, name


def test_changing_to_and_fro_gives_the_same_each_time(lowered, slot):
    folder = lowered[0]
    program, found = Program(folder / "model.pte", 1, slot.path), {}
    for name in ("a", "b", "model", "a", "model", "b"):
        slot.put(None if name == "model" else folder / f"{name}.ptd")
        answer = program.greedy(TOKENS[0, :5].tolist(), 20, [])
        fresh = Program(folder / "model.pte", 1, folder / f"{name}.ptd").greedy(TOKENS[0, :5].tolist(), 20, [])
        assert answer == found.setdefault(name, fresh), name
    assert len({tuple(answer) for answer in found.values()}) == 3


def test_the_cache_is_of_the_adapter_before_until_it_is_filled_anew(lowered, slot):
    folder = lowered[0]
    program = Program(folder / "model.pte", 1, slot.path)
    program.forward(TOKENS[:, :8], 0)
    slot.put(folder / "a.ptd")
    stale = program.forward(TOKENS[:, 8:], 8)
    program.forward(TOKENS[:, :8], 0)
    right = program.forward(TOKENS[:, 8:], 8)
    assert not torch.allclose(stale, right, atol=1e-2)


def test_an_adapter_for_another_program_is_refused(lowered, slot, tmp_path):
    folder = lowered[0]
    with pytest.raises(UserError, match="does not exist"):
        slot.put(tmp_path / "none.ptd")
    other = tmp_path / "other.ptd"
    data = bytearray((folder / "a.ptd").read_bytes())
    other.write_bytes(data[:-1000])
    with pytest.raises(UserError, match="truncated"):
        slot.put(other)
    data[data.index(b"q_proj")] ^= 1
    other.write_bytes(data)
    with pytest.raises(UserError, match="for another program"):
        slot.put(other)
    assert slot.path.read_bytes() == (folder / "model.ptd").read_bytes()


def test_the_base_lies_in_the_program_once_and_an_adapter_beside_it(lowered, tiny_llama, tmp_path):
    folder, _, recipe = lowered
    decoder = Decoder(load_model(tiny_llama, partial(quantize_module, q=recipe)), FORM)
    plain = metadata(decoder, 0, [1])
    found = get_backend("xnnpack").lower(export_decoder(decoder), plain, tmp_path / "model.pte")
    assert not (tmp_path / "model.ptd").exists()
    check_weights_file(folder / "model.ptd")
    numbers = sum(RANK * sum(shape) - RANK * RANK for shape in tensor_shapes(folder / "model.ptd").values())
    assert (folder / "model.ptd").stat().st_size < 4 * numbers + 20_000
    # Nothing of the adapter is in the program but where it goes: and nothing more runs beside the delegate.
    more = (folder / "model.pte").stat().st_size - (tmp_path / "model.pte").stat().st_size
    assert 0 < more < 20_000
    again = tmp_path / "again"
    again.mkdir()
    shutil.copyfile(folder / "weights.pt", again / "weights.pt")
    shutil.copyfile(folder / "program.pt2", again / "program.pt2")
    adapted = get_backend("xnnpack").lower(load_program(again), plain, again / "model.pte")
    assert adapted.fallback_operators == found.fallback_operators
    assert adapted.delegates == found.delegates

"""Qualcomm's compiler for real: one small program through it and through its simulator; and everything it may lack."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from et_pipeline.backends import get_backend
from et_pipeline.errors import UserError
from et_pipeline.settings import Quantization
from tests.make_embedder import EMBEDDERS, make_embedder

BACKEND = get_backend("qnn", "SM8650")


def quantization(scheme, group_size=0):
    bits = 32 if scheme == "fp16" else 8
    return Quantization(
        scheme=scheme, group_size=group_size, mapping="symmetric", embedding_bits=bits, embedding_group_size=0
    )


@pytest.mark.parametrize(("scheme", "group"), [("16a4w", 0), ("16a4w", 32), ("16a8w", 0), ("8a8w", 0), ("fp16", 0)])
def test_supported(scheme, group):
    assert BACKEND.supports(quantization(scheme, group)).ok


@pytest.mark.parametrize(
    ("scheme", "group", "reason", "instead"),
    [
        ("8da4w", 32, "calibration", "16a4w"),
        ("fp32", 0, "calibration", "16a4w"),
        ("16a8w", 32, "4-bit weights only", "group_size=0"),
        ("fp16", 32, "4-bit weights only", "group_size=0"),
        ("16a4w", 20, "multiples of 16", "group_size=16"),
    ],
)
def test_refused(scheme, group, reason, instead):
    support = BACKEND.supports(quantization(scheme, group))
    assert not support.ok
    assert reason in support.reason
    assert instead in support.instead


@pytest.mark.parametrize("changes", [{"embedding_bits": 4}, {"embedding_bits": 32}, {"embedding_group_size": 32}])
def test_another_embedding_is_refused(changes):
    support = BACKEND.supports(quantization("16a4w").model_copy(update=changes))
    assert not support.ok
    assert "recipe.embedding_bits=8" in support.instead


@pytest.mark.parametrize("soc", [None, "SM9999", "Google Tensor G3"])
def test_an_unknown_chip_is_refused(soc):
    with pytest.raises(UserError, match=f"backend.soc={soc} is not a Qualcomm chip .*SM8650, SM8750"):
        get_backend("qnn", soc).check()


# In a process of its own, as in the pipeline: the libraries print, and may take the process down with them.
COMPILE = """
import json, sys
from pathlib import Path
import torch
from et_pipeline.backends import get_backend
from et_pipeline.evaluation.agreement import compare
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.models.static_decoder import StaticDecoder, export_static, static_metadata
from et_pipeline.runtime.program import Program
from et_pipeline.settings import ExportForm, Quantization

torch.set_num_threads(1)
checkpoint, out = map(Path, sys.argv[1:3])
backend = get_backend("qnn", "SM8650")
q = Quantization.model_validate_json(sys.argv[3])
form = ExportForm(max_context=32, prefill_chunk=1)
decoder = StaticDecoder(load_model(checkpoint), form, unclean=q.scheme == "fp16")
methods = static_metadata(decoder, 0, [1])
tokens = torch.randint(2, 500, (12,), generator=torch.Generator().manual_seed(0))

def feed(call):
    return torch.stack([call(t.view(1, 1), torch.tensor([at])).reshape(-1) for at, t in enumerate(tokens)])

quantized = backend.quantize(export_static(decoder), q, feed)
with torch.no_grad():
    expected = feed(quantized.module())
delegation = backend.lower(quantized, methods, out)
backend.prepare()
program = Program(out)
found = feed(lambda token, at: program.forward(token, int(at)))
embedding = []
if q.scheme != "fp16":
    rows = next(node.args[0] for node in quantized.graph.nodes if node.target == torch.ops.aten.embedding.default)
    buffers = quantized.graph_signature.inputs_to_buffers
    weight, scales = (quantized.state_dict[buffers[node.name]] for node in rows.args[:2])
    embedding = [str(weight.dtype), len(scales)]
result = {"cosine": compare(found, expected).min_cosine, "embedding": embedding}
result |= {**delegation.model_dump(), **program.metadata}
Path(sys.argv[4]).write_text(json.dumps(result))
"""


@pytest.mark.parametrize(
    ("scheme", "group", "cosine"),
    [
        ("16a4w", 32, 0.9999),
        pytest.param("16a4w", 0, 0.9999, marks=pytest.mark.slow),
        pytest.param("16a8w", 0, 0.9999, marks=pytest.mark.slow),
        # Where the two round apart, it is by a step of 8 bits.
        pytest.param("8a8w", 0, 0.995, marks=pytest.mark.slow),
        pytest.param("fp16", 0, 0.9999, marks=pytest.mark.slow),
    ],
)
def test_the_simulator_agrees_with_quantized_eager(make_checkpoint, tmp_path, scheme, group, cosine):
    report = tmp_path / "report.json"
    command = [sys.executable, "-c", COMPILE, str(make_checkpoint("llama")), str(tmp_path / "model.pte")]
    subprocess.run([*command, quantization(scheme, group).model_dump_json(), str(report)], check=True, timeout=800)
    found = json.loads(report.read_text())
    assert found["delegates"] == 1
    assert found["fallback_operators"] == {}
    assert found["cosine"] >= cosine
    assert found["embedding"] == ([] if scheme == "fp16" else ["torch.int8", 512])  # one scale per row
    assert found["qairt"].startswith("v2.")
    assert (found["get_max_seq_len"], found["get_max_context_len"]) == (1, 32)


ENCODE = """
import json, sys
from pathlib import Path
import torch
from et_pipeline.backends import get_backend
from et_pipeline.evaluation.embedding import near as compare
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.pooling import read_pooling
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.models.encoder import embed_batch
from et_pipeline.models.static_encoder import StaticEncoder, export_static_encoder, static_encoder_metadata
from et_pipeline.runtime.embedding import embed, padded
from et_pipeline.runtime.program import Program
from et_pipeline.settings import Quantization

torch.set_num_threads(1)
checkpoint, out = map(Path, sys.argv[1:3])
backend = get_backend("qnn", "SM8650")
model, pooling = load_model(checkpoint), read_pooling(Folder(checkpoint))
generator = torch.Generator().manual_seed(1)
texts = [torch.randint(3, 250, (length,), generator=generator).tolist() for length in (1, 2, 7, 31, 48)]
original = embed_batch(model, texts, pooling)
encoder = StaticEncoder(model, pooling, 48)
methods = static_encoder_metadata(encoder)

def feed(call):
    return torch.cat([call(*padded(text, 48, 0)) for text in texts])

quantized = backend.quantize(export_static_encoder(encoder), Quantization.model_validate_json(sys.argv[3]), feed)
with torch.no_grad():
    expected = feed(quantized.module())
delegation = backend.lower(quantized, methods, out)
backend.prepare()
program = Program(out)
found = torch.stack([embed(program, text) for text in texts])
result = {
    "quantized": compare(found, expected).min_cosine,
    "original": compare(found, original).min_cosine,
    **delegation.model_dump(),
}
Path(sys.argv[4]).write_text(json.dumps(result))
"""


# Causal masks, windows to both sides, the last token, linear layers: all of it in one delegate.
@pytest.mark.parametrize("name", ["bert", *EMBEDDERS])
def test_the_simulator_agrees_with_a_quantized_encoder(name, make_checkpoint, tmp_path):
    report = tmp_path / "report.json"
    if name == "bert":
        checkpoint = make_checkpoint("bert", num_hidden_layers=1, max_position_embeddings=64)
    else:
        checkpoint = make_embedder(tmp_path / name, name)
    command = [sys.executable, "-c", ENCODE, str(checkpoint), str(tmp_path / "model.pte")]
    subprocess.run([*command, quantization("16a8w").model_dump_json(), str(report)], check=True, timeout=800)
    found = json.loads(report.read_text())
    assert (found["delegates"], found["fallback_operators"], found["fallback_reasons"]) == (1, {}, {})
    assert found["quantized"] >= 0.9999
    assert found["original"] >= 0.999


# Two methods, which share their weights; or, where the simulator is to take them, each with its own.
COMPILE_PREFILL = """
import json, sys
from pathlib import Path
import torch
from et_pipeline.backends import get_backend
from et_pipeline.evaluation.agreement import compare
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.models.external_cache import CacheDriver, ExternalCacheDecoder, export_external, external_metadata
from et_pipeline.runtime.program import DrivenProgram
from et_pipeline.settings import ExportForm, Quantization

torch.set_num_threads(1)
checkpoint, folder = map(Path, sys.argv[1:3])
backend = get_backend("qnn", "SM8650")
q = Quantization.model_validate_json(sys.argv[3])
decoder = ExternalCacheDecoder(load_model(checkpoint), ExportForm(max_context=32, prefill_chunk=8))
methods = external_metadata(decoder, 0, [1])
tokens = torch.randint(2, 500, (24,), generator=torch.Generator().manual_seed(0)).tolist()
driver = CacheDriver(lambda method, inputs: (), methods)

def calibrate(call):
    driver.call = lambda method, inputs: call(*inputs)
    driver.feed(tokens)

quantized = backend.quantize_alike(export_external(decoder, methods), q, calibrate)
modules = {name: program.module() for name, program in quantized.items()}
driver.call = lambda method, inputs: modules[method](*inputs)
with torch.no_grad():
    expected, *others = [driver.feed(tokens, chunk=size) for size in (8, 5, 1)]
first, second = [program.state_dict for program in quantized.values()]
result = {
    "weights": len(first),
    "equal": sum(torch.equal(tensor, second[name]) for name, tensor in first.items()),
    "eager": [compare(found, expected).min_cosine for found in others],
    "simulator": [],
}
for shared in json.loads(sys.argv[4]):
    out = folder / f"{shared}.pte"
    delegation = backend.lower_together(quantized, methods, out, shared)
    result |= delegation.model_dump() | {str(shared): out.stat().st_size}
    try:
        program = DrivenProgram(out)
    except RuntimeError:
        continue
    result |= program.metadata
    for size in (8, 5, 1):
        starts = range(0, len(tokens), size)
        rows = [program.forward(torch.tensor([tokens[at : at + size]]), at) for at in starts]
        ends = [min(at + size, len(tokens)) - 1 for at in starts]
        result["simulator"].append(compare(torch.stack(rows), expected[ends]).min_cosine)
(folder / "report.json").write_text(json.dumps(result))
"""


@pytest.mark.parametrize("kinds", [[False], pytest.param([True, False], marks=pytest.mark.slow)])
def test_prefill_and_decode_agree_on_the_simulator(make_checkpoint, tmp_path, kinds):
    arguments = [make_checkpoint("llama"), tmp_path, quantization("16a4w", 32).model_dump_json(), json.dumps(kinds)]
    subprocess.run([sys.executable, "-c", COMPILE_PREFILL, *map(str, arguments)], check=True, timeout=800)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["equal"] == found["weights"] > 0
    assert min(found["eager"]) >= 1 - 1e-6  # keys that went out and in again are what they were
    assert (found["delegates"], found["fallback_operators"]) == (2, {})
    assert len(found["simulator"]) == 3  # which took the unshared file alone
    assert min(found["simulator"]) >= 0.9999
    assert (found["get_max_seq_len"], found["get_max_context_len"], found["get_windows"]) == (8, 32, [32])
    if True in kinds:
        assert found["True"] < 0.7 * found["False"]


def test_a_killed_compiler_is_one_sentence(command, monkeypatch):
    """Whatever ends Qualcomm's libraries, it is not the end of the run; what was made before stays in the cache."""
    from et_pipeline.pipeline import acquiring, steps
    from et_pipeline.stages import acquire
    from et_pipeline.worker import StageKilled

    ran = []

    def run_stage(module, inputs, out, config, *rest):
        if module == acquire.__name__:
            return acquire.run(inputs, out, lambda *_: None, **config).model_dump(), {
                "wall_s": 0.0,
                "cpu_s": 0.0,
                "peak_rss_bytes": 0,
            }
        ran.append(module.rpartition(".")[2])
        if ran[-1] == "lower":
            raise StageKilled("…", "was ended by SIGKILL")
        (out / "made").touch()
        return {"bytes": 0}, {"wall_s": 0.0, "cpu_s": 0.0, "peak_rss_bytes": 0}

    for module in (acquiring, steps):
        monkeypatch.setattr(module, "run_stage", run_stage)
    arguments = ("backend=qnn", "recipe=16a4w", "device=galaxy_s24_snapdragon", "format=json")
    code, out, err = command(*arguments)
    assert (code, out, ran) == (2, "", ["sample", "export", "quantize", "lower"])
    assert "stage lower: Qualcomm's libraries took their process down (it was ended by SIGKILL" in err
    command(*arguments)
    assert ran == ["sample", "export", "quantize", "lower", "lower"]


# Before the compile: what executorch gets when Qualcomm's compiler returns an error.
REFUSE = """
from executorch.backends.qualcomm.python import PyQnnManagerAdaptor
PyQnnManagerAdaptor.QnnManager.Compile = lambda *_: b""
"""


@pytest.mark.slow
def test_a_refusal_of_the_compiler_is_one_sentence(make_checkpoint, tmp_path):
    program = COMPILE.replace("delegation =", REFUSE + "delegation =")
    arguments = [str(make_checkpoint("llama")), str(tmp_path / "model.pte"), quantization("16a8w").model_dump_json()]
    run = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=800)
    assert "StageError: Qualcomm's compiler gave up (Failed to generate Qnn context binary); lower.log" in run.stderr


def no_more_memory(child):
    """Let the process have no more address space than it has now."""
    import resource

    pages = int(Path(f"/proc/{child}/statm").read_text().split()[0])
    resource.prlimit(child, resource.RLIMIT_AS, (pages * resource.getpagesize(), resource.RLIM_INFINITY))


@pytest.mark.slow
def test_the_real_compiler_is_out_of_memory_or_killed(make_checkpoint, tmp_path):
    """One sentence and exit code 2 either way; then the same command goes on where it was."""
    log = tmp_path / "run" / "lower.log"
    command = [
        *(Path(sys.executable).parent / "et-pipeline", "model=custom", f"model.source={make_checkpoint('llama')}"),
        *("task=chat", "backend=qnn", "recipe=16a4w", "device=galaxy_s24_snapdragon", "model.max_context=64"),
        *("model.prefill_chunk=16", "measure.prompt_tokens=8", "measure.decode_tokens=4", "until=lower"),
        *("recipe.calibration.tokens=16", f"paths.cache={tmp_path / 'cache'}", f"hydra.run.dir={log.parent}"),
    ]

    def run(interfere):
        log.unlink(missing_ok=True)
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        while interfere and process.poll() is None:
            if log.is_file() and "Processing Method" in log.read_text(errors="replace"):  # the compiler is at work
                interfere(int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()))
                interfere = None
            time.sleep(0.01)
        _, err = process.communicate()
        assert interfere is None
        return process.returncode, err.splitlines()[-1]

    code, said = run(no_more_memory)
    assert code == 2
    assert re.match(r"et-pipeline: stage lower.* (took their process down|ran out of memory)", said)
    code, said = run(lambda child: os.kill(child, signal.SIGKILL))
    assert code == 2
    assert re.match(r"et-pipeline: stage lower: Qualcomm's libraries .* \(it was ended by SIGKILL", said)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*/*/entry.json")}
    assert {path.parts[-3] for path in made} >= {"export", "quantize"}
    assert run(None)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert len(list((tmp_path / "cache" / "lower").glob("*/model.pte"))) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("recipe=8da4w", "device=galaxy_s25"),
            "does not run on backend=qnn: Qualcomm's NPU takes .* use recipe=16a4w",
        ),
        (("recipe=16a4w", "device=pixel_9"), "backend.soc=.* is not a Qualcomm chip"),
        (("recipe=16a4w", "device=galaxy_s25", "model.kv_cache=int8"), "model.kv_cache=int8 is for backend=xnnpack"),
        (
            ("recipe=16a4w", "device=galaxy_s25", "+backend.external_weights=true"),
            "external_weights=true is for backend=x",
        ),
        (
            ("recipe=16a4w", "device=galaxy_s25", "backend.prefill=true", "model.prefill_chunk=1"),
            "backend.prefill=true takes several tokens at once, and model.prefill_chunk=1",
        ),
        (
            ("recipe=fp16", "device=galaxy_s25", "backend.prefill=true"),
            "recipe.scheme=fp16 has none; use recipe=16a4w",
        ),
        (
            ("recipe=16a8w", "device=galaxy_s25", "backend.prefill=true", "model=minilm"),
            "backend.prefill=true is for models that answer",
        ),
        (("recipe=16a4w", "device=galaxy_s25", "recipe.calibration.source=no.txt"), "no.txt cannot be read"),
        (("recipe=16a4w", "device=galaxy_s25", "mode=plan"), "mode=plan forecasts backend=xnnpack"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(command, arguments, sentence):
    code, out, err = command("backend=qnn", *arguments)
    assert (code, out) == (2, "")
    assert re.search(sentence, err)
    assert len(err.splitlines()) == 1

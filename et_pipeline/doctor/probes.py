"""What is tried, a function each: it returns what it saw, or raises; see `trial`."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from et_pipeline import CONF, host
from et_pipeline.backends import get_backend
from et_pipeline.errors import UserError
from et_pipeline.report.words import size
from et_pipeline.upstream.yaml_parser import quick_yaml


def _imported(*names: str) -> str:
    """Import what these distributions are for; their versions."""
    modules = {"mkdocs-material": "material", "lm_eval": "lm_eval.evaluator"}
    for name in names:
        importlib.import_module(modules.get(name, name.replace("-", "_")))
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


def processor() -> str:
    """Which one, and the instructions that make 8-bit recipes fast."""
    import torch

    known = torch.cpu.get_capabilities()
    fast = [name for name, there in known.items() if there is True and ("vnni" in name or "dot" in name)]
    return f"{host.machine()}; 8-bit dot products: {', '.join(fast) or 'none known, so recipes of 8da* are slower'}"


def memory() -> str:
    """All of it."""
    return size(host.memory_bytes()) if host.memory_bytes() else "unknown"


def hub() -> str:
    """Where it is, by which variables; of a token only whether there is one."""
    from huggingface_hub import constants, get_token

    asked = [f"{name}={os.environ[name]}" for name in ("HF_HUB_OFFLINE", "HF_HOME") if name in os.environ]
    token = "a token" if get_token() else "no token, which gated models ask for (hf auth login)"
    return ", ".join([constants.ENDPOINT, token, *asked])


def xnnpack() -> str:
    """Export a layer, lower it, run the program; it must give what torch gives."""
    import torch

    with quick_yaml():
        importlib.import_module("executorch.exir")
    from executorch.runtime import Runtime

    layer, values = torch.nn.Linear(8, 8), torch.ones(1, 8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.pte"
        made = get_backend("xnnpack").lower(torch.export.export(layer, (values,)), {}, path)
        assert made.delegates == 1, f"{made.delegates} delegates"
        (given,) = Runtime.get().load_program(path.read_bytes()).load_method("forward").execute([values])
    torch.testing.assert_close(given, layer(values))
    return f"a layer was exported, lowered and run; {_imported('torch', 'torchao', 'executorch')}"


def gpu() -> str:
    """Compute something on it."""
    import torch

    if not torch.cuda.is_available():
        raise UserError(f"PyTorch {torch.__version__} sees none; the processor does it")
    torch.ones(1, device="cuda").sum().item()
    return torch.cuda.get_device_name()


def qnn() -> str:
    """Load Qualcomm's compiler and simulator."""
    from et_pipeline.backends.qnn_sdk import load_sdk

    return f"Qualcomm's libraries {load_sdk()}"


def coreml() -> str:
    """Load Apple's converter."""
    get_backend("coreml").check()
    return _imported("coremltools")


def adapt() -> str:
    """Import what trains and what reads adapters."""
    return _imported("accelerate", "peft")


def llama_cpp() -> str:
    """Load llama.cpp."""
    importlib.import_module("cyllama.llama.llama_cpp")
    return _imported("cyllama")


def encoders() -> str:
    """Import it."""
    return _imported("sentence-transformers")


def datasets() -> str:
    """Import what reads them."""
    importlib.import_module("pyarrow.parquet")
    return _imported("pyarrow")


def eval() -> str:
    """Import EleutherAI's harness."""
    return _imported("lm_eval")


def report() -> str:
    """Import what draws."""
    importlib.import_module("matplotlib.figure")
    return _imported("matplotlib", "plotly")


def sweeps() -> str:
    """Import what runs jobs elsewhere, and what searches."""
    return _imported("joblib", "submitit", "optuna")


def docs() -> str:
    """Import what builds the site."""
    return _imported("mkdocs", "mkdocs-material", "mkdocstrings")


def phone() -> str:
    """Ask adb."""
    from et_pipeline.runtime.phone import require_phone

    return f"one is ready, by {require_phone()}"


def app() -> str:
    """Find the JDK as the app's build does."""
    tools = CONF.parent / "android_demo" / "tools"
    if not tools.is_dir():
        raise UserError("the app is built in a checkout of the repository")
    sys.path.insert(0, str(tools))
    from steps import BuildError, jdk

    try:
        return f"JDK 17 in {jdk()}"
    except BuildError as error:
        raise UserError(str(error)) from error

"""Fixtures for all tests: small random checkpoints in Hugging Face layout."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from et_pipeline.architecture import ENCODERS
from et_pipeline.settings import ExportForm, Quantization

if TYPE_CHECKING:
    from et_pipeline.backends import Delegation

VOCABULARY = 512

FORM = ExportForm(max_context=64, prefill_chunk=16)

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    # Ten times the usual spread: attention is peaked, so that a wrong mask or cache shows in the logits.
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}

# Under `make test`, a make that a test runs is no part of that one, and prints nothing of it.
for name in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is only for Linux is skipped elsewhere, with its reason."""
    for item in items if sys.platform != "linux" else ():
        for mark in item.iter_markers("linux"):
            item.add_marker(pytest.mark.skip(reason=f"for Linux: {mark.args[0]}"))


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a seeded random checkpoint of a family, with a byte-level tokenizer; keywords go into its config."""

    def make(family: str = "llama", **settings: Any) -> Path:
        import torch
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

        folder = tmp_path_factory.mktemp(family)
        config = AutoConfig.for_model(family, **{**SHAPE, **settings})
        torch.manual_seed(0)
        kind = AutoModel if family in ENCODERS else AutoModelForCausalLM
        model = kind.from_config(config, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # biases and norms too: left at 0 and 1 they would hide a fault
                torch.nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.1)
        model.save_pretrained(folder)
        write_tokenizer(folder / "tokenizer.json")
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_llama(make_checkpoint: Callable[..., Path]) -> Path:
    """A two-layer Llama with grouped-query attention and a tied head."""
    return make_checkpoint("llama", tie_word_embeddings=True)


def write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path))


class Lowered(NamedTuple):
    """A program, what it was made of, and what its delegates hold."""

    checkpoint: Path
    quantization: Quantization
    pte: Path
    delegation: Delegation


@pytest.fixture(scope="session")
def lower_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Lowered]:
    """Load, quantize, export and lower a checkpoint for XNNPACK; keywords change the 8da4w recipe."""

    def lower(checkpoint: Path, form: ExportForm = FORM, **changes: Any) -> Lowered:
        from et_pipeline.backends import get_backend
        from et_pipeline.checkpoints.reader import load_model
        from et_pipeline.models.decoder import Decoder, export_decoder, metadata
        from et_pipeline.quantization.torchao_config import quantize_module

        settings = {
            "scheme": "8da4w",
            "group_size": 32,
            "mapping": "symmetric_no_clipping_error",
            "embedding_bits": 8,
            "embedding_group_size": 0,
        }
        q = Quantization(**{**settings, **changes})
        decoder = Decoder(load_model(checkpoint, partial(quantize_module, q=q)), form)
        pte = tmp_path_factory.mktemp("lowered") / "model.pte"
        delegation = get_backend("xnnpack").lower(export_decoder(decoder), metadata(decoder, 0, [1]), pte)
        return Lowered(checkpoint, q, pte, delegation)

    return lower


@pytest.fixture(scope="session")
def tiny_program(make_checkpoint: Callable[..., Path], lower_checkpoint: Callable[..., Lowered]) -> Lowered:
    """A one-layer Llama as a .pte: the one real lowering of the fast tests."""
    return lower_checkpoint(make_checkpoint("llama", num_hidden_layers=1, tie_word_embeddings=True))


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run et-pipeline in this process, in an empty folder with an empty cache: exit code, standard output and error."""
    from et_pipeline import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ET_PIPELINE_CACHE", str(tmp_path / "cache"))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["et-pipeline", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    yield run
    for handler in list(logging.getLogger().handlers):  # Hydra's; pytest has its own
        if type(handler).__module__ == "logging":
            logging.getLogger().removeHandler(handler)


@pytest.fixture
def quantization() -> Quantization:
    """4-bit weights in groups of 32 with 8-bit activations, and 8-bit embeddings."""
    return Quantization(
        scheme="8da4w",
        group_size=32,
        mapping="symmetric_no_clipping_error",
        embedding_bits=8,
        embedding_group_size=0,
    )

"""export: the quantized model in export form, a decoder with a KV cache; write the program and `metadata.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from et_pipeline.architecture import ENCODERS, FAMILIES
from et_pipeline.backends import get_backend
from et_pipeline.checkpoints.config import reason
from et_pipeline.checkpoints.facts import Facts
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.errors import UserError
from et_pipeline.models.decoder import Decoder, export_decoder, metadata, save_program
from et_pipeline.models.encoder import Encoder, export_encoder
from et_pipeline.models.encoder import metadata as encoder_metadata
from et_pipeline.models.external_cache import ExternalCacheDecoder, export_external, external_metadata, save_programs
from et_pipeline.models.static_decoder import StaticDecoder, export_static, static_metadata
from et_pipeline.models.static_encoder import StaticEncoder, export_static_encoder, static_encoder_metadata
from et_pipeline.quantization.torchao_config import load_quantized
from et_pipeline.settings import Backend, ExportForm, Quantization
from et_pipeline.worker import Tick

METADATA = "metadata.json"


def run(
    inputs: dict[str, Path], out: Path, tick: Tick, *, quantization: Quantization, form: ExportForm, backend: Backend
) -> dict[str, Any]:
    """Trace the model with torch.export: quantized, or as it was if the backend quantizes the program."""
    chosen = get_backend(backend.name)
    if chosen.calibrated:
        model = load_model(inputs["checkpoint"])
    else:
        model = load_quantized(inputs["checkpoint"], inputs["quantize"], quantization)
    facts = Facts.read(inputs["acquire"])
    with _tried(facts.family):
        methods = _export(model, facts, out, quantization, form, backend)
    (out / METADATA).write_text(json.dumps(methods, indent=2, sort_keys=True))
    return {"bytes": sum(file.stat().st_size for file in out.rglob("*") if file.is_file())}


@contextmanager
def _tried(family: str) -> Iterator[None]:
    """A family that nobody has tried may compute in a way that has no export form; in others it is our fault."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if family in (*FAMILIES, *ENCODERS):
            raise
        raise UserError(f"family {family} cannot be exported: {reason(error)}") from error


def _export(
    model: Any, facts: Facts, out: Path, quantization: Quantization, form: ExportForm, backend: Backend
) -> dict[str, Any]:
    """Write the program; returns its constant methods."""
    chosen = get_backend(backend.name)
    methods: dict[str, Any]
    if facts.pooling is not None and chosen.static:
        padded = StaticEncoder(model, facts.pooling, form.max_context)
        save_program(export_static_encoder(padded), out)
        methods = static_encoder_metadata(padded)
    elif facts.pooling is not None:
        encoder = Encoder(model, facts.pooling, form.max_context)
        save_program(export_encoder(encoder), out)
        methods = encoder_metadata(encoder)
    elif backend.prefill:
        external = ExternalCacheDecoder(model, form)
        methods = external_metadata(external, facts.bos_id or 0, facts.eos_ids)
        save_programs(export_external(external, methods), out)
    elif chosen.static:
        # Qualcomm's delegate allocates the cache and leaves what is in that memory.
        static = StaticDecoder(model, form, unclean=quantization.scheme == "fp16")
        save_program(export_static(static), out)
        methods = static_metadata(static, facts.bos_id or 0, facts.eos_ids)
    else:
        decoder = Decoder(model, form)
        save_program(export_decoder(decoder), out)
        methods = metadata(decoder, facts.bos_id or 0, facts.eos_ids)
    return methods

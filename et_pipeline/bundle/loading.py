"""Choosing and loading a program of a bundle on this computer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.errors import UserError
from et_pipeline.manifest import Manifest, ProgramInfo
from et_pipeline.report.words import size

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from et_pipeline.runtime.adapters import AdapterSlot
    from et_pipeline.runtime.program import Program

log = logging.getLogger(__name__)


def first_runnable(manifest: Manifest) -> ProgramInfo:
    """The first program that this computer can run, on a simulator only if there is no other."""
    from et_pipeline.backends import get_backend

    hindrances, simulated = {}, None
    for info in manifest.programs:
        hindrance = hindrance_of(info)
        if hindrance is not None:
            hindrances[info.backend] = hindrance
        elif get_backend(info.backend).timed:
            return info
        else:
            simulated = simulated or info
    if simulated is not None:
        return simulated
    backends, why = ", ".join(sorted(hindrances)), "; ".join(hindrances.values())
    raise UserError(f"This computer cannot run {manifest.what.name}: its programs are for {backends} only ({why}).")


def hindrance_of(info: ProgramInfo) -> str | None:
    """Why this computer cannot run a program; None if it can, and then what that takes is loaded."""
    from et_pipeline.backends import get_backend

    try:
        backend = get_backend(info.backend)
        if not (backend.can_execute and info.executed):
            return f"this computer has no {info.backend} that runs it"
        backend.prepare()
    except UserError as error:
        return str(error)
    return None


def weights_of(folder: Path, info: ProgramInfo) -> Path | None:
    """The file with a program's external weights; this runtime takes one."""
    if len(info.weights) > 1:
        raise UserError(f"{info.file} has its weights in {len(info.weights)} files, and only one is supported.")
    return folder / info.weights[0] if info.weights else None


def _packed(cache: Path, info: ProgramInfo, manifest: Manifest) -> Path | None:
    """Where a program's packed weights are kept, if that is worth their space on the disk."""
    from et_pipeline.runtime import packed_weights

    files = [manifest.files[name] for name in (info.file, *info.weights)]
    total = sum(file.size for file in files)
    if info.backend != "xnnpack" or total < packed_weights.WORTHWHILE_BYTES:
        return None
    entry = packed_weights.find_entry(cache, [file.sha256 for file in files], total)
    if entry is not None and not entry.exists():
        log.warning("Packs the weights for this processor and keeps about %s in %s.", size(total), entry.parent)
    return entry


def load_program(
    folder: Path,
    info: ProgramInfo,
    manifest: Manifest,
    tokenizer: Tokenizer,
    threads: int | None,
    cache: Path | None = None,
    slot: AdapterSlot | None = None,
) -> Program:
    """Loads a program and compares what it says about itself with the manifest, where it says it.

    With a slot it computes with the adapter that is put in there.
    """
    from et_pipeline.runtime.program import Program

    packed = _packed(cache, info, manifest) if cache else None
    weights = weights_of(folder, info) if slot is None else slot.path
    try:
        program = Program(folder / info.file, threads=threads, weights=weights, packed=packed)
    except RuntimeError as error:
        raise UserError(f"{info.file} cannot be loaded by the ExecuTorch runtime ({error}).") from error
    expected: dict[str, Any] = {
        "get_max_context_len": info.max_context,
        "get_max_seq_len": info.prefill_chunk,
        "get_eos_ids": manifest.tokenizer.eos_ids,
    }
    if manifest.tokenizer.bos_id is not None:
        expected["get_bos_id"] = manifest.tokenizer.bos_id
    for key, value in expected.items():
        found = program.metadata.get(key, value)
        if found != value:
            raise UserError(
                f"{info.file} does not belong to this manifest: its {key} is {found}, and the manifest says {value}."
            )
    # The runtime ends the whole process on an id that the model does not have.
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    vocabulary = program.metadata.get("get_vocab_size", highest + 1)
    if highest >= vocabulary:
        raise UserError(
            f"{info.file} does not belong to {manifest.tokenizer.file}: it knows {vocabulary} tokens, and the "
            f"tokenizer has an id {highest}."
        )
    return program


def load_tokenizer(folder: Path, manifest: Manifest) -> Tokenizer:
    """The tokenizer of a bundle."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / manifest.tokenizer.file))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{manifest.tokenizer.file} is no tokenizer in Hugging Face's format ({error}).") from error

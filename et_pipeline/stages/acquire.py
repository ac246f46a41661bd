"""acquire: find the checkpoint, prove that its files are whole, read what it says about the model."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from et_pipeline import tiny_assistant
from et_pipeline.cache import sha256_file
from et_pipeline.errors import UserError
from et_pipeline.models.facts import read_facts
from et_pipeline.settings import Checkpoint, ExportForm, closest
from et_pipeline.worker import Tick

BUILTIN = {"tiny_assistant": tiny_assistant.CHECKPOINT}
CHECKSUMS = "SHA256SUMS"
_PATTERNS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
    "*.safetensors",
    "README.md",
    "LICENSE*",
)


def resolve(checkpoint: Checkpoint) -> Path:
    """Return the folder of the checkpoint, downloading it if it is a hub id.

    Raises:
        UserError: there is no such built-in model, folder or repository.
    """
    source = checkpoint.source
    if source.startswith("builtin:"):
        name = source.removeprefix("builtin:")
        if name not in BUILTIN:
            raise UserError(f"model.source={source} does not exist{closest(name, BUILTIN)}")
        return BUILTIN[name]
    folder = Path(os.path.expanduser(source))  # noqa: PTH111  Path's own raises for an unknown user
    if folder.is_dir():
        return folder.resolve()
    if source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise UserError(f"model.source={source} is neither a folder nor a hub id such as HuggingFaceTB/SmolLM2-135M")
    return _download(source, checkpoint.revision)


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"model.source={repository}"
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(_PATTERNS)))
    except GatedRepoError as error:
        raise UserError(f"{name} is gated; accept its licence on the hub and log in with `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{name} is not a folder here and not a repository on the hub (or it is private)") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{name} has no model.revision={revision}") from error
    except HFValidationError as error:
        raise UserError(f"{name} is neither a folder here nor a valid hub id") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(f"{name} is not a folder here, is not downloaded yet, and the hub cannot be reached") from error


def hash_files(folder: Path, tick: Tick) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint that the pipeline may read, by name.

    A `SHA256SUMS` file (the format of `sha256sum`) in the folder is checked.

    Raises:
        UserError: there are no weights in safetensors form, or a file is not what `SHA256SUMS` says.
    """
    paths = sorted({path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()})
    if not any(path.suffix == ".safetensors" for path in paths):
        pickled = next((p.name for p in sorted([*folder.glob("*.bin"), *folder.glob("*.pt*")])), None)
        if pickled:
            raise UserError(
                f"{folder} has its weights in {pickled}, a pickle, which can run any code when it is read; "
                "save the model with safe_serialization=True and use that"
            )
        raise UserError(f"{folder} has no .safetensors file")
    hashes = {}
    for number, path in enumerate(paths):
        tick(number, len(paths))
        hashes[path.name] = sha256_file(path)
    sums = folder / CHECKSUMS
    if sums.is_file():
        for line in sums.read_text().splitlines():
            expected, _, name = line.partition(" ")
            name = name.lstrip(" *")
            if name in hashes and hashes[name] != expected:
                raise UserError(
                    f"{folder / name} is damaged or altered: its sha256 is {hashes[name][:12]}…, "
                    f"{CHECKSUMS} says {expected[:12]}…"
                )
            if name and not (folder / name).is_file():
                raise UserError(f"{folder / name} is missing; {CHECKSUMS} lists it")
    return hashes


def run(folder: Path, files: dict[str, str], form: ExportForm, out: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Read and check the checkpoint's small files and headers; write `facts.json`.

    Raises:
        UserError: a file is missing, broken or does not fit the others, or the context is longer than the model's.
    """
    started, started_cpu = time.monotonic(), time.process_time()
    facts = read_facts(folder)
    if form.max_context > facts.max_position:
        raise UserError(
            f"model.max_context={form.max_context} exceeds the {facts.max_position} positions of this model; "
            f"choose at most {facts.max_position}"
        )
    facts.write(out)
    figures = {"parameters": facts.parameters, "files": len(files)}
    return figures, {
        "wall_s": round(time.monotonic() - started, 2),
        "cpu_s": round(time.process_time() - started_cpu, 2),
        "peak_rss_bytes": 0,
    }

"""A bundle from the Hugging Face hub; its folder appears when every file is what the manifest says."""

from __future__ import annotations

import shutil
from pathlib import Path

from et_pipeline import cache, manifest
from et_pipeline.checkpoints import hub
from et_pipeline.checkpoints.shards import check_room
from et_pipeline.errors import UserError
from et_pipeline.manifest import FILE_NAME, MAX_MANIFEST_BYTES, Manifest
from et_pipeline.worker import Tick


def pull(repository: str, revision: str | None, folder: Path, tick: Tick) -> Manifest:
    """Download a bundle into a folder that is not there yet; a run that was killed goes on where it was.

    Args:
        repository: its name on the hub.
        revision: a branch, tag or commit; None for the main branch.
        folder: what to make.
        tick: takes how many bytes are there, and how many there will be.

    Raises:
        UserError: it cannot be had, is no bundle, or a file is not what its manifest says.
    """
    from huggingface_hub import HfApi

    if folder.exists():
        raise UserError(f"{folder} is there already: name another folder with --to, or remove it.")
    asked = f"--revision {revision}" if revision else ""
    with hub.one_sentence(repository, asked, room=(folder.parent, "--to")):
        info = HfApi().model_info(repository, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        if not 0 < sizes.get(FILE_NAME, 0) <= MAX_MANIFEST_BYTES:
            raise UserError(f"{repository} is no bundle: it has no {FILE_NAME} at its top.")
        commit = str(info.sha)
        part = folder.with_name(f".{folder.name}.{commit[:12]}.part")
        for other in folder.parent.glob(f".{folder.name}.{'?' * 12}.part"):
            if other != part:
                shutil.rmtree(other)
        if not (part / FILE_NAME).exists():
            hub.fetch_file(repository, FILE_NAME, commit, part / FILE_NAME, lambda done, total: None)
        try:
            read = manifest.parse((part / FILE_NAME).read_bytes(), f"{repository}/{FILE_NAME}")
            manifest.check_sizes({name: size for name, size in sizes.items() if name in read.files}, read, repository)
        except UserError:
            shutil.rmtree(part)
            raise
        total = sum(file.size for file in read.files.values())
        here = [path for path in part.rglob("*") if path.is_file() and path != part / FILE_NAME]
        check_room(folder.parent, total - sum(path.stat().st_size for path in here), repository, "--to")
        done = 0
        for name, expected in read.files.items():
            if not (part / name).exists():
                hub.fetch_file(repository, name, commit, part / name, lambda now, _, at=done: tick(at + now, total))
            found = cache.sha256_file(part / name)
            if found != expected.sha256:
                (part / name).unlink()
                raise UserError(
                    f"{repository}: '{name}' is not what the manifest says: its SHA-256 is {found[:12]}…, and the "
                    f"manifest says {expected.sha256[:12]}…; if it was damaged on the way, the same command mends it."
                )
            done += expected.size
        cache.publish(part, folder)
    return read

"""A bundle to the Hugging Face hub, with a model card, in one commit."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from et_pipeline.bundle.opened import Bundle
from et_pipeline.checkpoints.hub import one_sentence
from et_pipeline.errors import GateError, UserError
from et_pipeline.manifest import FILE_NAME
from et_pipeline.report import card
from et_pipeline.settings import first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger(__name__)

_OF_A_BUNDLE = (".pte", ".ptd")  # what an older bundle may have left in the repository


def prepare(bundle: Bundle, repository: str, failed: bool) -> tuple[str, dict[str, Path]]:
    """The model card, and the bundle's files by their name in the repository.

    Args:
        bundle: opened, so that every file's hash is known to be right.
        repository: owner/name.
        failed: publish it though its quality gate failed.

    Raises:
        UserError: there can be no such repository, or the bundle has a card of its own.
        GateError: the gate failed, and nobody asked for such a bundle.
    """
    from huggingface_hub.utils import validate_repo_id

    manifest = bundle.manifest
    with one_sentence(repository):
        validate_repo_id(repository)
    if "/" not in repository:
        raise UserError(f"{repository} names no owner: give it as OWNER/{repository}.")
    if card.FILE in manifest.files:
        raise UserError(f"{card.FILE} is a file of the bundle, and the model card takes its place: rename it.")
    missed = card.failed_checks(manifest)
    if missed and not failed:
        raise GateError(
            f"{manifest.what.name} failed its quality gate ({missed[0]}): --failed publishes it all the same, and its "
            "card says so."
        )
    files = {name: bundle.folder / name for name in sorted([*manifest.files, FILE_NAME])}
    return card.model_card(manifest, repository), files


def upload(described: str, files: dict[str, Path], repository: str, private: bool) -> str:
    """Make the repository if there is none, and put the files there in one commit; returns the commit's address.

    Raises:
        UserError: the hub cannot be reached or refuses, or the repository is something else than a bundle's.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    if get_token() is None:
        raise UserError("publish needs a token that may write: log in with `hf auth login`, or set HF_TOKEN.")
    api = HfApi()
    with one_sentence(repository, doing="upload"):
        there = _repository(api, repository, private)
        stale = [name for name in there if name.endswith(_OF_A_BUNDLE) and name not in files]
        adds = [CommitOperationAdd(name, path) for name, path in files.items()]
        adds.append(CommitOperationAdd(card.FILE, described.encode()))
        # Not upload_folder, which makes several commits of a large folder: somebody would pull half a bundle.
        try:
            with warnings.catch_warnings(record=True) as hints:  # of the hub, on the card's header
                made = api.create_commit(
                    repository,
                    [*adds, *(CommitOperationDelete(name) for name in stale)],
                    commit_message="Publish a bundle of et_pipeline",
                )
        except ValueError as error:
            raise UserError(f"{repository}: the hub refuses this ({' '.join(str(error).split())}).") from error
        except RuntimeError as error:  # of hf_xet, or of a thread that uploads, whose cause says more
            why = first_line(error.__cause__ or error)
            raise UserError(
                f"{repository}: the upload broke off ({why}); the same command goes on where it was"
            ) from error
    for hint in hints:
        log.warning("%s", hint.message)
    return made.commit_url


def _repository(api: HfApi, repository: str, private: bool) -> list[str]:
    """The files of a repository, which is made if there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.model_info(repository)
    except RepositoryNotFoundError:
        api.create_repo(repository, private=private or None)
        return []
    names = [file.rfilename for file in info.siblings or ()]
    if FILE_NAME not in names and not {*names} <= {".gitattributes", card.FILE}:
        raise UserError(f"{repository} is there and no bundle: its model card would be replaced; name another one.")
    if private and not info.private:
        raise UserError(f"{repository} is there and public: --private is for a new repository; name another one.")
    return names

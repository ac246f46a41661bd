"""Downloads from the Hugging Face hub, which go on where they stopped, and what can go wrong, in one sentence each."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from et_pipeline import cache
from et_pipeline.checkpoints.files import PATTERNS
from et_pipeline.checkpoints.place import Place
from et_pipeline.checkpoints.shards import check_room
from et_pipeline.errors import UserError
from et_pipeline.settings import first_line

SECONDS = 5  # a forecast does not wait longer for the hub to answer
_PARTIAL = ".incomplete"  # huggingface_hub's own word for it


def download(
    repository: str,
    revision: str | None,
    place: Place,
    key: str = "model.source",
    wanted: Sequence[str] = (*PATTERNS, "adapter_config.json"),
) -> Path:
    """The folder of a repository's snapshot, downloaded if it is not there.

    Args:
        repository: its name.
        revision: a branch, tag or commit; None for the main branch.
        place: shows progress.
        key: the setting that names it.
        wanted: patterns of the files that are read.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import DryRunError

    name, wanted = f"{key}={repository}", list(wanted)
    store = Path(constants.HF_HUB_CACHE).expanduser()
    with one_sentence(name, revision, "a folder here and not "):
        try:
            listed = snapshot_download(
                repository, revision=revision, allow_patterns=wanted, tqdm_class=quiet_bar(), dry_run=True
            )
        except DryRunError:  # the hub does not answer: what is here already may do
            listed = []
        missing = [(file.filename, file.commit_hash, file.file_size or 0) for file in listed if file.will_download]
        blobs = store / f"models--{repository.replace('/', '--')}" / "blobs"
        begun = sum(path.stat().st_size for path in blobs.glob(f"*{_PARTIAL}"))
        check_room(store, sum(size for _, _, size in missing) - begun, name, "HF_HUB_CACHE")
        for filename, commit, size in missing:
            if filename.endswith(".safetensors") and size <= constants.MAX_HTTP_DOWNLOAD_SIZE:
                _fetch_weights(repository, filename, commit, blobs, place, name)
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted, tqdm_class=quiet_bar()))


def _fetch_weights(repository: str, filename: str, commit: str, blobs: Path, place: Place, name: str) -> None:
    """Download a file to where huggingface_hub's cache looks for it, going on where a killed run stopped.

    huggingface_hub itself begins such a file anew.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers()
    url = hf_hub_url(repository, filename, revision=commit)
    metadata = get_hf_file_metadata(url, headers=headers)
    if metadata.etag is None or metadata.size is None:
        return
    total = metadata.size
    if metadata.location.split("/")[2] != url.split("/")[2]:  # a file store, which has its own signature in the address
        headers.pop("authorization", None)
    blob, part = blobs / metadata.etag, blobs / f"{metadata.etag}{_PARTIAL}"
    with cache.locked(place.root / "hub" / metadata.etag, place.wait):
        if blob.exists():
            return
        blobs.mkdir(parents=True, exist_ok=True)
        if part.exists() and part.stat().st_size > total:
            part.unlink()

        class Bar:
            """What http_get needs of a tqdm."""

            def __init__(self, **settings: Any) -> None:
                self.done = settings.get("initial", 0)

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *error: object) -> None:
                pass

            def update(self, count: float | None = 1) -> None:
                self.done += count or 0
                place.tick(int(self.done), total)

        with part.open("ab") as stream:
            http_get(
                metadata.location,
                stream,
                resume_size=stream.tell(),
                headers=headers,
                expected_size=total,
                tqdm_class=Bar,
            )
            stream.flush()
            os.fsync(stream.fileno())
        # A file of the large file storage is named by its sha256, any other one by a git hash.
        if len(metadata.etag) == 64 and cache.sha256_file(part) != metadata.etag:
            part.unlink()
            raise UserError(f"{name}: {filename} arrived damaged; the same command fetches it again")
        part.replace(blob)


def download_config(repository: str, revision: str | None) -> Path:
    """The folder of a repository's config.json, of which nothing else is downloaded."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import RepositoryNotFoundError

    # It logs each of its retries, and the sentence below says enough.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    name, file, unreachable = f"model.source={repository}", "config.json", False
    with one_sentence(name, beside="a folder here and not "):
        try:
            try:  # once: a hub that does not answer is asked six times by hf_hub_download, for half a minute
                get_hf_file_metadata(hf_hub_url(repository, file, revision=revision), timeout=SECONDS)
            except RepositoryNotFoundError:
                raise
            except network_errors():
                unreachable = True
            return Path(hf_hub_download(repository, file, revision=revision, local_files_only=unreachable)).parent
        except RepositoryNotFoundError:  # or gated
            raise
        except (OSError, ValueError) as error:
            raise UserError(
                f"{name} is not a folder here, its config.json is not downloaded yet, and the hub cannot be reached; "
                "mode=plan also takes its content as model.architecture"
            ) from error


@contextmanager
def one_sentence(name: str, revision: str | None = None, beside: str = "") -> Iterator[None]:
    """Turn the hub's errors into a `UserError` about a repository.

    Args:
        name: the setting that names it, with its value.
        revision: what `model.revision` asks for.
        beside: what else the value could have been, such as "a folder here and not ".
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        CachedRepoTreeNotFoundError,
        GatedRepoError,
        HFValidationError,
        IncompleteSnapshotError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    offline = "; HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    try:
        yield
    except GatedRepoError as error:
        raise UserError(f"{name} is gated; accept its licence on the hub and log in with `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{name} is not {beside}a repository on the hub (or it is private)") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{name} has no model.revision={revision}") from error
    except HFValidationError as error:
        raise UserError(f"{name} is not {beside}a valid hub id") from error
    except IncompleteSnapshotError as error:
        raise UserError(f"{name} is downloaded in part only, and the hub cannot be reached{offline}") from error
    except (LocalEntryNotFoundError, CachedRepoTreeNotFoundError) as error:
        at = f" at model.revision={revision}" if revision else ""
        raise UserError(f"{name} is not {beside}downloaded yet{at}, and the hub cannot be reached{offline}") from error
    except network_errors() as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            store = Path(constants.HF_HUB_CACHE).expanduser()
            raise UserError(
                f"no space left on the disk of {store}; free some, or choose another HF_HUB_CACHE"
            ) from error
        raise UserError(
            f"{name}: the download broke off ({first_line(error)}); the same command goes on where it was"
        ) from error


def network_errors() -> tuple[type[Exception], ...]:
    """What a connection can fail with: the hub's own errors, and those of the HTTP client it is built on."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError"))


def quiet_bar() -> Any:
    """A progress bar for huggingface_hub that shows nothing: ours is on the terminal already."""
    from huggingface_hub.utils import tqdm

    class Quiet(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    return Quiet

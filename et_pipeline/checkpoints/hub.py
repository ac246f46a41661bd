"""What can go wrong with the Hugging Face hub, in one sentence each."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from et_pipeline.errors import UserError
from et_pipeline.settings import first_line


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

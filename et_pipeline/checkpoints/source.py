"""Where the checkpoint is that `model.source` names, as far as a forecast needs to know: without downloading it."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from et_pipeline import tiny_assistant
from et_pipeline.checkpoints.hub import network_errors, one_sentence
from et_pipeline.errors import UserError
from et_pipeline.settings import Checkpoint, closest

BUILTIN = {"tiny_assistant": tiny_assistant.CHECKPOINT}
HUB_SECONDS = 5  # a forecast does not wait longer for the hub to answer
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def on_hub(source: str) -> bool:
    """Whether that is a repository's name, and not a folder's here."""
    return _HUB_ID.fullmatch(source) is not None and not Path(source).is_dir()


def config_folder(checkpoint: Checkpoint) -> Path:
    """A folder with the checkpoint's config.json; of a repository on the hub nothing else is downloaded.

    Raises:
        UserError: there is none.
    """
    source = checkpoint.source
    if source == "random" or source.endswith(".gguf"):
        raise UserError(f"model.source={source} has no config.json; mode=plan needs its content in model.architecture")
    name = source.removeprefix("builtin:")
    if name != source:
        if name not in BUILTIN:
            raise UserError(f"model.source={source} does not exist{closest(name, BUILTIN)}")
        return BUILTIN[name]
    folder = Path(os.path.expanduser(source))  # noqa: PTH111  Path's own raises for an unknown user
    if folder.is_dir():
        return folder.resolve()
    if not on_hub(source):
        raise UserError(f"model.source={source} is neither a folder nor a hub id such as HuggingFaceTB/SmolLM2-135M")
    return _config_on_hub(source, checkpoint.revision)


def _config_on_hub(source: str, revision: str | None) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import RepositoryNotFoundError

    # It logs each of its retries, and the sentence below says enough.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    name, file, unreachable = f"model.source={source}", "config.json", False
    with one_sentence(name, beside="a folder here and not "):
        try:
            try:  # once: a hub that does not answer is asked six times by hf_hub_download, for half a minute
                get_hf_file_metadata(hf_hub_url(source, file, revision=revision), timeout=HUB_SECONDS)
            except RepositoryNotFoundError:
                raise
            except network_errors():
                unreachable = True
            return Path(hf_hub_download(source, file, revision=revision, local_files_only=unreachable)).parent
        except RepositoryNotFoundError:  # or gated
            raise
        except (OSError, ValueError) as error:
            raise UserError(
                f"{name} is not a folder here, its config.json is not downloaded yet, and the hub cannot be reached; "
                "mode=plan also takes its content as model.architecture"
            ) from error

"""How a sentence-transformers checkpoint makes one vector of a text: read without torch.

`modules.json` lists the steps, `1_Pooling/config.json` says how the tokens' vectors are joined, and
`sentence_bert_config.json` names the longest text (https://sbert.net, arXiv:1908.10084). A checkpoint without these
files is taken as sentence-transformers itself takes it: the mean.
"""

from __future__ import annotations

from typing import Any

from et_pipeline.checkpoints.folder import Folder
from et_pipeline.errors import UserError
from et_pipeline.models.pooling import Pooling

MODULES, SETTINGS, POOLING = "modules.json", "sentence_bert_config.json", "1_Pooling"
PROMPTS = "config_sentence_transformers.json"
NO_LIMIT = 1_000_000  # tokens; transformers writes 1e30 where it knows none
FILES = (MODULES, SETTINGS, PROMPTS, f"{POOLING}/config.json")
_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_KINDS = ("Transformer", "Pooling", "Normalize")


def read_pooling(folder: Folder) -> Pooling:
    """Read how the checkpoint pools; the mean of length 1 where it does not say.

    Raises:
        UserError: a file is broken, or asks for a step or a mode that this version does not have.
    """
    kinds, name = _kinds(folder), f"{POOLING}/config.json"
    path = folder.path / name
    if not path.exists():
        return Pooling(normalised="Normalize" in kinds)
    config = folder.settings(name)
    if config.get("include_prompt") is False and _prompts(folder):
        raise UserError(f"{path} has include_prompt=false: to leave a prompt's tokens out is not supported")
    asked = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    named = config.get("pooling_mode")  # as newer versions write it
    modes = [_MODES.get(key, key) for key in asked] or ([named] if named is not None else [])
    if modes not in (["mean"], ["cls"]):
        raise UserError(f"{path} asks for {' and '.join(map(str, modes)) or 'no pooling'}; mean and cls are supported")
    return Pooling(mode=modes[0], normalised="Normalize" in kinds)


def read_max_tokens(folder: Folder) -> int | None:
    """The longest text that the checkpoint's authors allow, if they say.

    Raises:
        UserError: the file is broken.
    """
    path, settings = folder.path / SETTINGS, folder.json(SETTINGS)
    longest = settings.get("max_seq_length") if isinstance(settings, dict) else None
    limit = folder.tokenizer_config.get("model_max_length")
    if settings is None and isinstance(limit, int) and 0 < limit < NO_LIMIT:  # as sentence-transformers takes it then
        return limit
    if longest is not None and (type(longest) is not int or longest < 1):
        raise UserError(f"{path} has max_seq_length={longest!r}, expected a positive integer")
    return longest


def check_case(folder: Folder, normalizer: Any) -> None:
    """Refuse a checkpoint whose text is lowercased by sentence-transformers, and not by its tokenizer.

    Args:
        folder: the checkpoint.
        normalizer: that of its tokenizer.json.

    Raises:
        UserError: says what to do to the tokenizer.
    """
    path, settings = folder.path / SETTINGS, folder.json(SETTINGS)
    asked = isinstance(settings, dict) and settings.get("do_lower_case")
    steps = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    if asked and not any(
        step["type"] == "Lowercase" or (step["type"] == "BertNormalizer" and step["lowercase"]) for step in steps
    ):
        raise UserError(
            f"{path} has do_lower_case={asked!r}, and the normalizer of tokenizer.json does not lowercase; save the "
            'model by sentence-transformers anew, or put {"type": "Lowercase"} first in that normalizer'
        )


def prompt_warnings(folder: Folder) -> list[str]:
    """What sentence-transformers puts before a text by itself, or on request; here that is the caller's to do."""
    prompts = _prompts(folder)
    if not prompts:
        return []
    default = folder.settings(PROMPTS).get("default_prompt_name")
    said = f"{folder.path / PROMPTS} has prompts ({', '.join(f'{name}: {text!r}' for name, text in prompts.items())})"
    if default in prompts:
        return [f"{said}, of which sentence-transformers puts {default!r} before each text; here the caller does"]
    return [f"{said}; whoever wants one puts it before the text"]


def _prompts(folder: Folder) -> dict[str, Any]:
    settings = folder.json(PROMPTS)
    if isinstance(settings, dict) and settings.get("truncate_dim") is not None:
        raise UserError(
            f"{folder.path / PROMPTS} has truncate_dim={settings['truncate_dim']!r}: to give a part of the numbers "
            "only is not supported; set it to null"
        )
    prompts = settings.get("prompts") if isinstance(settings, dict) else None
    return {name: text for name, text in prompts.items() if text} if isinstance(prompts, dict) else {}


def _kinds(folder: Folder) -> list[str]:
    """The names of the steps, such as Transformer, Pooling, Normalize."""
    path, modules = folder.path / MODULES, folder.json(MODULES)
    if modules is None:
        return list(_KINDS)
    try:
        steps = [(str(step["type"]).rpartition(".")[2], step["path"]) for step in modules]
    except (TypeError, KeyError) as error:
        raise UserError(f"{path} is not a list of sentence-transformers modules ({error!r})") from error
    kinds = [kind for kind, _ in steps]
    if kinds not in (list(_KINDS), list(_KINDS[:2])):
        raise UserError(f"{path} lists {', '.join(kinds) or 'nothing'}; {', '.join(_KINDS)} in this order is known")
    if steps[1][1] != POOLING:
        raise UserError(f"{path} has its pooling in {steps[1][1]!r}, expected {POOLING!r}")
    return kinds

"""How a sentence-transformers checkpoint makes one vector of a text: read without torch.

`modules.json` lists the steps, `1_Pooling/config.json` says how the tokens' vectors are joined, `2_Dense/config.json`
and the like describe linear layers behind that, `sentence_bert_config.json` names the longest text, and
`config_sentence_transformers.json` what is put before a text (https://sbert.net, arXiv:1908.10084). A checkpoint
without these files is taken as sentence-transformers itself takes it: the mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError

from et_pipeline.architecture import read_sizes
from et_pipeline.checkpoints.config import FILE as CONFIG
from et_pipeline.checkpoints.folder import MODULES, Folder
from et_pipeline.errors import UserError
from et_pipeline.models.pooling import Activation, Dense, Mode, Pooling

SETTINGS, POOLING = "sentence_bert_config.json", "1_Pooling"
PROMPTS = "config_sentence_transformers.json"
NO_LIMIT = 1_000_000  # tokens; transformers writes 1e30 where it knows none
FILES = (MODULES, SETTINGS, PROMPTS, f"{POOLING}/config.json", "*_Dense/config.json", "*_Dense/model.safetensors")
# Shorter embeddings that a model was trained for (arXiv:2205.13147): of its config.json, and of PROMPTS.
MATRYOSHKA, TRUNCATE = "matryoshka_dimensions", "truncate_dim"
_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
}
_BEGIN, _END = ("Transformer", "Pooling"), "Normalize"


def read_pooling(folder: Folder) -> Pooling:
    """Read how the checkpoint pools; the mean of length 1 where it does not say.

    Raises:
        UserError: a file is broken, or asks for a step or a mode that this version does not have.
    """
    steps, name = _steps(folder), f"{POOLING}/config.json"
    normalised = steps[-1][0] == _END
    dense = tuple(_dense(folder, place) for kind, place in steps if kind == "Dense")
    path = folder.path / name
    if not path.exists():
        return Pooling(normalised=normalised, dense=dense)
    config = folder.settings(name)
    asked = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    named = config.get("pooling_mode")  # as newer versions write it
    modes = [_MODES.get(key, key) for key in asked] or ([named] if named is not None else [])
    if len(modes) != 1 or modes[0] not in get_args(Mode):
        raise UserError(
            f"{path} asks for {' and '.join(map(str, modes)) or 'no pooling'}; mean, cls and lasttoken are supported"
        )
    return Pooling(mode=modes[0], normalised=normalised, dense=dense)


def _dense(folder: Folder, place: str) -> Dense:
    """A linear layer behind the pooling."""
    path, config = folder.path / place / "config.json", folder.settings(f"{place}/config.json")
    for key, usual in (("use_residual", False), ("module_input_name", "sentence_embedding")):
        if config.get(key, usual) != usual:
            raise UserError(f"{path} has {key}={config[key]!r}, and only {usual!r} is supported")
    if config.get("module_output_name") not in (None, "sentence_embedding"):
        raise UserError(f"{path} has module_output_name={config['module_output_name']!r}, which is not supported")
    given = {key: config[key] for key in ("bias",) if key in config}
    if "activation_function" in config:
        given["activation"] = str(config["activation_function"]).rpartition(".")[2].lower()
        if given["activation"] not in get_args(Activation):
            raise UserError(
                f"{path} has activation_function={config['activation_function']!r}; {', '.join(get_args(Activation))} "
                "are supported"
            )
    try:
        return Dense(folder=place, inputs=config.get("in_features"), outputs=config.get("out_features"), **given)
    except ValidationError as error:
        raise UserError(f"{path} does not describe a linear layer: {error.errors()[0]['msg']}") from error


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


class Usage(NamedTuple):
    """What a caller does before and after the program.

    Attributes:
        prompts: texts that go before a text, by what it is for, such as query and document.
        default: the one that goes before a text of which nothing is said; None for none.
        dimensions: lengths below the whole one to which an embedding may be cut.
    """

    prompts: dict[str, str]
    default: str | None
    dimensions: tuple[int, ...]


def read_usage(folder: Folder) -> Usage:
    """Read what sentence-transformers puts before texts, and which shorter embeddings the model was trained for.

    Raises:
        UserError: a file is broken, or asks for what this version does not do.
    """
    path, settings = folder.path / PROMPTS, folder.settings(PROMPTS)
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise UserError(f"{path} has prompts={prompts!r}, expected texts by name")
    default = settings.get("default_prompt_name")
    own = f"{POOLING}/config.json"
    if folder.settings(own).get("include_prompt") is False and any(prompts.values()):
        path = folder.path / own
        raise UserError(f"{path} has include_prompt=false: to leave a prompt's tokens out is not supported")
    if default is not None and default not in prompts:
        there = ", ".join(prompts) or "none"
        raise UserError(f"{path} has default_prompt_name={default!r}, and its prompts are {there}")
    # An empty prompt stays: it says that nothing goes before a document, also where a default would.
    listed = (folder.path / CONFIG, MATRYOSHKA, folder.config.get(MATRYOSHKA))
    shorter = _dimensions(folder, [(path, TRUNCATE, settings.get(TRUNCATE)), listed])
    return Usage({name: text or "" for name, text in prompts.items()}, default, shorter)


def _dimensions(folder: Folder, said: list[tuple[Path, str, Any]]) -> tuple[int, ...]:
    """What any of the files says, without the whole length."""
    whole, found = read_pooling(folder).dimension(read_sizes(folder.config, str(folder.path)).hidden_size), set[int]()
    for path, key, value in said:
        for each in value if isinstance(value, list) else [value]:
            if each is None:
                continue
            if not (type(each) is int and 0 < each <= whole):
                raise UserError(f"{path} has {key}={value!r}, expected sizes of at most {whole}")
            found.add(each)
    return tuple(sorted(found - {whole}, reverse=True))


def _steps(folder: Folder) -> list[tuple[str, str]]:
    """Kind and folder of the steps, such as Transformer, Pooling, Dense and Normalize in this order."""
    path = folder.path / MODULES
    if not path.is_file():
        return [("Transformer", ""), ("Pooling", POOLING), (_END, "")]
    steps = folder.modules
    kinds = [kind for kind, _ in steps]
    between = kinds[2:-1] if kinds[-1:] == [_END] else kinds[2:]
    if kinds[:2] != list(_BEGIN) or {*between} - {"Dense"}:
        raise UserError(
            f"{path} lists {', '.join(kinds) or 'nothing'}; {', '.join(_BEGIN)}, any number of Dense, {_END} in this "
            "order is known"
        )
    if steps[1][1] != POOLING:
        raise UserError(f"{path} has its pooling in {steps[1][1]!r}, expected {POOLING!r}")
    if steps[0][1]:
        raise UserError(f"{path} has its Transformer in {steps[0][1]!r}, expected it beside that file")
    return steps

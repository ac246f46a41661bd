"""generation_config.json: how the model's makers want answers to be drawn."""

from __future__ import annotations

from pydantic import ValidationError

from et_pipeline import manifest
from et_pipeline.checkpoints.folder import GENERATION, Folder
from et_pipeline.errors import UserError

# What transformers' generate() does besides what `manifest.Sampling` has, and the value with which it does nothing.
_ANSWERS = {
    "encoder_repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "typical_p": 1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "num_beams": 1,
    "guidance_scale": 1,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "sequence_bias": None,
    "stop_strings": None,
    "min_length": 0,
    "min_new_tokens": 0,
    "forced_eos_token_id": None,
    "penalty_alpha": 0,
}


def read_sampling(folder: Folder) -> dict[str, float | int]:
    """Settings of generation_config.json: all that we have if it asks for random answers, else its penalty.

    Raises:
        UserError: the file is broken, or one has a value that it cannot have.
    """
    generation = folder.generation
    names = manifest.Sampling.model_fields if generation.get("do_sample") else ("repetition_penalty",)
    given = {name: generation[name] for name in names if generation.get(name) is not None}
    try:
        manifest.Sampling.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{folder.path / GENERATION} has {first['loc'][0]}={first['input']!r}: {first['msg'].lower()}"
        ) from error
    return given


def generation_warnings(folder: Folder) -> list[str]:
    """Settings of generation_config.json that change answers, and that no program here has."""
    values = folder.generation
    found = [
        f"{key}={values[key]!r}" for key, nothing in _ANSWERS.items() if values.get(key) not in (None, [], nothing)
    ]
    return [f"{folder.path / GENERATION} has {', '.join(found)}, and answers are made without that"] if found else []

"""What a run refuses before anything heavy starts, in a sentence that names the setting."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from et_pipeline import cache, forms
from et_pipeline.architecture import ENCODERS
from et_pipeline.backends import get_backend
from et_pipeline.checkpoints.config import FILE as CONFIG
from et_pipeline.checkpoints.facts import Facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.errors import UserError
from et_pipeline.evaluation import calibration, perplexity, text_source
from et_pipeline.evaluation.tasks import evaluation_file, read_items
from et_pipeline.pipeline.order import calibration_of, evidence
from et_pipeline.pipeline.search import CHOSEN
from et_pipeline.pruned import check_prunable
from et_pipeline.settings import OWN, RANDOM, Settings
from et_pipeline.survey import check_recipe


def check(settings: Settings) -> None:
    """Refuse a recipe that the backend has no kernel for, before any work is done.

    Raises:
        UserError: says why, and what works.
    """
    recipe, name = settings.recipe, settings.backend.name
    backend = get_backend(name, settings.backend.soc)
    support = backend.supports(recipe.quantization)
    if recipe.prefer is not None:
        _check_search(settings, support.ok and not backend.calibrated)
    if not support.ok:
        raise UserError(
            f"recipe.scheme={recipe.scheme} with recipe.group_size={recipe.group_size} and "
            f"recipe.mapping={recipe.mapping} does not run on backend={settings.backend.name}: "
            f"{support.reason}; {support.instead}"
        )
    _check_algorithm(settings)
    adapt = settings.adapt
    if (adapt.distill or adapt.qat) and find_spec("accelerate") is None:
        key = "distill" if adapt.distill else "qat"
        raise UserError(
            f"adapt.{key}=true trains with accelerate, which is not installed: pip install 'et-pipeline[adapt]'"
        )
    if settings.adapt.qat and backend.calibrated:
        raise UserError(
            f"adapt.qat=true trains weights before the export, and backend={name} quantizes what was exported; leave "
            "qat out of adapt"
        )
    if settings.sweep.memory_gb is not None and name != "xnnpack":
        raise UserError(
            f"sweep.memory_gb={settings.sweep.memory_gb} goes by the forecast of backend=xnnpack, and backend={name} "
            "has none; leave it out, and run fewer jobs at once"
        )
    backend.check()
    if settings.backend.external_weights and name != "xnnpack":
        raise UserError(f"backend.external_weights=true is for backend=xnnpack; backend={name} keeps weights inside")
    forms.get(forms.choose(settings.model.task, settings.backend)).check(settings)


def _check_search(settings: Settings, searchable: bool) -> None:
    """Refuse `recipe=auto` where it has nothing to measure, and beside it what it chooses itself.

    Args:
        settings: of the program.
        searchable: the backend has what is tried.
    """
    recipe, model = settings.recipe, settings.model
    if model.task == "embedding":
        raise UserError("recipe=auto compares answers, and this model embeds texts; choose a recipe, as recipe=8da8w")
    for name, standard in CHOSEN.items():
        if getattr(recipe, name) != standard:
            raise UserError(
                f"recipe.{name}={getattr(recipe, name)} is for a recipe that is named, and recipe=auto chooses it "
                f"itself; add recipe=8da4w or another, or leave recipe.{name} out"
            )
    if not searchable:
        raise UserError(
            f"recipe=auto does not search for backend={settings.backend.name}; choose a recipe, for several backends "
            "one each, as recipe=[auto,16a4w] (--help lists them)"
        )
    if model.source == RANDOM and settings.until != "acquire":
        raise UserError(
            f"recipe=auto measures answers, and model.source={RANDOM} has none that mean anything; choose a recipe, as "
            "recipe=8da4w"
        )
    if recipe.calibration is None:
        raise UserError("recipe.calibration=null leaves recipe=auto nothing to calibrate with; leave it out")


def _check_algorithm(settings: Settings) -> None:
    """Refuse another rounding than to the nearest, and what goes with it, where it has no place."""
    recipe = settings.recipe
    asked = [
        (f"recipe.algorithm={recipe.algorithm}", recipe.algorithm != "rtn", "use recipe.algorithm=rtn"),
        (f"recipe.transform={recipe.transform}", recipe.transform != "none", "use recipe.transform=none"),
        (f"recipe.mixed_bits={recipe.mixed_bits}", recipe.mixed_bits is not None, "use recipe.mixed_bits=null"),
    ]
    for key, wanted, instead in asked:
        if not wanted:
            continue
        # Where activations are rounded, what makes them rounder helps weights of 8 bits too.
        eased = key.startswith("recipe.transform") and recipe.scheme == "8da8w" and recipe.transform != "awq"
        if recipe.scheme not in ("8da4w", "int4_weight_only") and not eased:
            raise UserError(
                f"{key} is for 4-bit weights, and recipe.scheme={recipe.scheme} has none that are quantized before the "
                f"export; {instead}, or recipe=8da4w"
            )
        if recipe.mapping == "asymmetric":
            raise UserError(f"{key} has no zero points; use recipe.mapping=symmetric_no_clipping_error")
        if settings.model.task == "embedding" and recipe.algorithm != "hqq":
            raise UserError(f"{key} is for models that answer; with model.task=embedding use recipe=8da4w as it is")
    if recipe.mixed_bits is not None and recipe.scheme != "8da4w":
        raise UserError(f"recipe.mixed_bits={recipe.mixed_bits} is for recipe.scheme=8da4w; use it, or leave it out")
    if recipe.calibrated and recipe.calibration is None:
        key = next(key for key, wanted, _ in asked if wanted)
        raise UserError(f"{key} needs recipe.calibration, a text to calibrate with; recipe=8da4w_gptq has one")


def check_task(settings: Settings, facts: Facts) -> None:
    """Refuse a model of another kind than `model.task` says; a checkpoint's files tell it."""
    found = "text-generation" if facts.pooling is None else "embedding"
    if settings.model.task != found:
        what = "generates text, as no modules.json of sentence-transformers says that it embeds"
        instead = "model=custom task=chat"
        if facts.pooling is not None:
            known = facts.family in ENCODERS
            what = "is an encoder, which embeds texts" if known else "embeds texts, as its modules.json says"
            instead = "model=custom_embedding"
        raise UserError(
            f"model.task={settings.model.task}, but model.source={settings.model.source} ({facts.family}) {what}; use "
            f"{instead} with it"
        )


def check_family(settings: Settings, facts: Facts, checkpoint: Folder) -> None:
    """Refuse what is to be done with a model where its family's layers do not let it, before anything heavy starts.

    Raises:
        UserError: says what would work.
    """
    adapt = settings.adapt
    changes = [*adapt.prunes, *(name for name in ("distill", "qat") if getattr(adapt, name))]
    if changes and checkpoint.senses:
        raise UserError(
            f"{checkpoint.path} also sees or hears ({', '.join(checkpoint.senses)}), which does not go with "
            f"adapt={changes[0]}; save its language model by itself (model.language_model in transformers)"
        )
    check_prunable(checkpoint.config, str(checkpoint.path / CONFIG), adapt.prunes)
    check_recipe(facts.family, settings.recipe)
    forms.get(forms.choose(settings.model.task, settings.backend)).check_model(settings, facts)


def given_texts(settings: Settings) -> dict[str, tuple[Path, str]]:
    """The path and the content's hash of each file that a run reads beside the checkpoint, by name; no built-in text.

    Raises:
        UserError: one does not exist, is no text, or holds no items.
    """
    found = {}
    held_out = evaluation_file(settings.task)
    if held_out is not None:
        read_items(held_out)  # a broken line is better found now than after the export
        found["evaluation"] = (held_out, cache.sha256_file(held_out))
    chosen = calibration_of(settings)
    sources = {"calibration": (calibration.KEY, chosen.source)} if chosen and chosen.source != OWN else {}
    adapt = settings.adapt
    if (adapt.prunes or adapt.distill or adapt.qat) and adapt.text.source != OWN:
        sources["training_text"] = (calibration.LEARNED, adapt.text.source)
    if settings.verify.text is not None:
        sources["text"] = (perplexity.KEY, settings.verify.text)
    for name, (key, source) in sources.items():
        path = text_source.resolve(key, source)
        if path is not None:
            files = text_source.files(key, source, path)
            found[name] = (path, cache.digest([cache.sha256_file(file) for file in files]))
    return found


def check_texts(settings: Settings, facts: Facts, checkpoint: Folder, paths: Mapping[str, Path]) -> None:
    """Refuse too short a text, or one of tokens that the model does not have, before anything heavy starts."""
    tokenizer, chosen = checkpoint.tokenizer, calibration_of(settings)
    if settings.verify.text is not None:
        count = evidence(settings).text_tokens
        perplexity.text_ids(settings.verify.text, paths.get("text"), count, facts, tokenizer)
    if chosen is not None and chosen.source != OWN:
        calibration.sequences(chosen, paths.get("calibration"), facts, tokenizer, settings.model.max_context)

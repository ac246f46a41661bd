"""Combinations of settings that cannot work."""

from __future__ import annotations

import logging
import string

from et_pipeline.errors import UserError
from et_pipeline.settings.groups import Settings

log = logging.getLogger(__name__)


def check_combination(settings: Settings) -> None:
    """Refuse what can be known to fail before any work is done."""
    model, measure = settings.model, settings.measure
    _check_adapt(settings)
    if model.task == "embedding" and model.kv_cache != "fp32":
        raise UserError(f"model.kv_cache={model.kv_cache} is of no use to {model.name}, which has none; use fp32")
    if model.task == "embedding":
        _check_embedding(settings)
        return
    for key in ("prompts", "dimensions", "sentence"):
        if getattr(model, key):
            raise UserError(f"model.{key} is for a model that embeds texts; with it set model.task=embedding")
    if model.prefill_chunk > model.max_context:
        raise UserError(
            f"model.prefill_chunk={model.prefill_chunk} exceeds model.max_context={model.max_context}; "
            f"choose at most {model.max_context}"
        )
    if measure.prompt_tokens + measure.decode_tokens > model.max_context:
        raise UserError(
            f"measure.prompt_tokens={measure.prompt_tokens} plus measure.decode_tokens={measure.decode_tokens} "
            f"do not fit into model.max_context={model.max_context}; lower one of them or raise the context"
        )
    _check_text(settings)
    for name, use_case in settings.task.use_cases.items():
        try:
            given = {field for _, field, _, _ in string.Formatter().parse(use_case.template) if field is not None}
        except ValueError as error:
            raise UserError(f"task.use_cases.{name}.template={use_case.template!r} is malformed: {error}") from error
        wanted = {"text", *use_case.choices}
        if given != wanted:
            raise UserError(
                f"task.use_cases.{name}.template={use_case.template!r} must hold exactly the fields "
                f"{', '.join('{' + field + '}' for field in sorted(wanted))}"
            )


def shortened(settings: Settings, positions: int) -> Settings:
    """The settings with as long a context as the model has, where theirs, which nobody typed, is longer.

    Raises:
        UserError: as `check_combination`.
    """
    model = settings.model
    if model.max_context <= positions:
        return settings
    log.warning(
        "model.max_context=%d, as this model has no more positions; %d is the default", positions, model.max_context
    )
    chunk = positions if model.prefill_chunk == model.max_context else model.prefill_chunk  # a text in one call
    made = model.model_copy(update={"max_context": positions, "prefill_chunk": chunk})
    shorter = settings.model_copy(update={"model": made})
    check_combination(shorter)
    return shorter


def _check_adapt(settings: Settings) -> None:
    """Refuse to change a model in a way that has no sense."""
    adapt, model = settings.adapt, settings.model
    if adapt.merge_lora and model.adapter is None:
        raise UserError("adapt.merge_lora=true merges model.adapter, which is null; give a folder or a hub id")
    changes = ["model.adapter"] if model.adapter is not None else []
    changes += [f"adapt.{name}=true" for name in (*adapt.prunes, "distill") if getattr(adapt, name)]
    if model.adapter_rank and changes:
        raise UserError(
            f"model.adapter_rank={model.adapter_rank} is for adapters of the model as it is, and {changes[0]} makes "
            "another one of it; make that first (until=acquire), then the bundle with model.source at its folder"
        )
    learns = [name for name in (*adapt.prunes, "distill", "qat") if getattr(adapt, name)]
    if learns and model.task == "embedding":
        raise UserError(
            f"adapt.{learns[0]}=true compares answers, and model.task=embedding has none; choose adapt=none"
        )
    if adapt.distill and not adapt.prunes and adapt.teacher is None:
        raise UserError(
            "adapt.distill=true learns from the model itself where nothing is pruned; add prune_width or prune_depth, "
            "as adapt=[prune_width,distill], or give adapt.teacher, a larger model of the same vocabulary"
        )
    if adapt.teacher is not None and not adapt.distill:
        raise UserError(f"adapt.teacher={adapt.teacher} is for adapt.distill=true; add distill to adapt")
    if adapt.qat and settings.recipe.scheme not in ("8da4w", "int4_weight_only"):
        raise UserError(
            f"adapt.qat=true trains integers of 4 bits, and recipe.scheme={settings.recipe.scheme} has none; choose "
            "recipe=8da4w_gptq or another of 4 bits, or leave qat out of adapt"
        )


def _check_text(settings: Settings) -> None:
    """Refuse windows over a text that do not fit the model or leave tokens out."""
    model, verify = settings.model, settings.verify
    if verify.text is None:
        return
    if verify.window > model.max_context:
        raise UserError(
            f"verify.window={verify.window} exceeds model.max_context={model.max_context}; choose at most "
            f"{model.max_context}"
        )
    if verify.stride >= verify.window:
        raise UserError(
            f"verify.stride={verify.stride} leaves no token of verify.window={verify.window} to begin a window with; "
            f"choose at most {verify.window - 1}"
        )


def _check_embedding(settings: Settings) -> None:
    """Refuse what a model that embeds texts has no use for."""
    model, task, measure = settings.model, settings.task, settings.measure
    if settings.verify.text is not None:
        raise UserError(
            f"verify.text={settings.verify.text} is for models that answer; model.task=embedding predicts no tokens, "
            "so set verify.text=null"
        )
    for key, value in (("use_cases", task.use_cases), ("system_prompt", task.system_prompt)):
        if value:
            raise UserError(
                f"model.task=embedding makes vectors of texts and does not answer, but task.{key} is for a model that "
                "does; choose task=embedding"
            )
    if task.evaluation is not None:
        raise UserError(
            f"task.evaluation={task.evaluation} holds conversations, which model.task=embedding cannot answer; choose "
            "task=embedding"
        )
    if model.prefill_chunk != model.max_context:
        raise UserError(
            f"model.prefill_chunk={model.prefill_chunk} differs from model.max_context={model.max_context}, but "
            f"model.task=embedding takes a text in one call; set model.prefill_chunk={model.max_context}"
        )
    if measure.prompt_tokens > model.max_context:
        raise UserError(
            f"measure.prompt_tokens={measure.prompt_tokens} exceeds model.max_context={model.max_context}, the longest "
            f"text; choose at most {model.max_context}"
        )

"""Every family of transformers' causal LMs, scaled down: it computes what transformers computes, or is refused.

`python -m et_pipeline.bench.families` tries all of them in all our forms and writes `docs/results/families.json`, of
which `et_pipeline.bench.docs` makes the table of families. A family that is new in transformers is tried by itself: its
config class is asked for its sizes. Only what that cannot tell is in the table `OVERRIDES`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from et_pipeline.architecture import ENCODERS
from et_pipeline.bench.family_table import OVERRIDES, TINY, VOCABULARY, WINDOW
from et_pipeline.checkpoints.config import senses
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.reader import load_model, prepare
from et_pipeline.errors import UserError
from et_pipeline.forecast import architecture_of
from et_pipeline.models.decoder import Decoder
from et_pipeline.models.dry_run import check_attention
from et_pipeline.models.external_cache import CacheDriver, ExternalCacheDecoder, external_metadata
from et_pipeline.models.rope import freeze_rope
from et_pipeline.models.static_decoder import StaticDecoder
from et_pipeline.settings import ExportForm

# transformers builds what sees in it with timm only; its language model is gemma3n_text.
NOT_BUILT = {"gemma3n"}
FAMILIES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - NOT_BUILT))
FORM = ExportForm(max_context=48, prefill_chunk=8)
# As long as the context, and three times the window. Each way of feeding starts again at 0 in the same cache.
TOKENS = torch.randint(2, VOCABULARY, (1, 48), generator=torch.Generator().manual_seed(0))
WAYS = (8, 5, 1)
MOST = 2e-5  # greatest error of a logit that counts as equal, relative to the greatest logit
LARGEST = 20_000_000  # parameters of a model that is still tiny
_WINDOWS = ("sliding_window", "sliding_window_size", "attention_window_size")
_MIXED = ("full_attention", "sliding_attention")


class Outcome(NamedTuple):
    """What became of a family.

    Attributes:
        family: `model_type` of its config.
        result: "equal", "refused", or "failed" where it is neither.
        error: the greatest of a logit, relative to the greatest logit.
        sentence: why it was refused, or what failed.
    """

    family: str
    result: str
    error: float = 0.0
    sentence: str = ""


def tiny_config(family: str) -> PreTrainedConfig:
    """The config of a model of a family with two layers."""
    kind: Any = CONFIG_MAPPING[family]
    config: PreTrainedConfig = kind(**_tiny_settings(kind))
    return config


def _tiny_settings(kind: Any) -> dict[str, Any]:
    """What to give a config class, those of its parts included."""
    fields, own = {field.name for field in dataclasses.fields(kind)}, OVERRIDES.get(kind.model_type, {})
    try:
        usual = kind()
    except Exception:  # some classes' own sizes do not fit each other
        usual = None
    settings = {name: value for key, value in TINY.items() if (name := kind.attribute_map.get(key, key)) in fields}
    settings |= {key: WINDOW for key in _WINDOWS if key in fields and getattr(usual, key, None) is not None}
    kinds = getattr(usual, "layer_types", None)
    if "layer_types" in fields and isinstance(kinds, list) and set(kinds) == set(_MIXED):
        settings["layer_types"] = ["sliding_attention", "full_attention"]
    if kind.model_type in ENCODERS:
        settings["is_decoder"] = True  # else it is no causal LM
    for part in kind.sub_configs:
        whole = getattr(usual, part, None)
        if isinstance(whole, PreTrainedConfig):
            settings[part] = {"model_type": whole.model_type, **_tiny_settings(type(whole)), **own.get(part, {})}
    return {
        **settings,
        **{key: value for key, value in own.items() if key not in settings or key not in kind.sub_configs},
    }


def write_config(family: str, folder: Path) -> None:
    """Write a config.json alone: most families that are refused are by it."""
    try:
        config = tiny_config(family)
    except Exception:  # of models that see, sizes are in other places
        config = CONFIG_MAPPING[family]()
    config.save_pretrained(folder)


def write_checkpoint(family: str, folder: Path) -> None:
    """Write a seeded random checkpoint of a family.

    Raises:
        ValueError: the tiny config is none; `OVERRIDES` has to say more.
    """
    config = tiny_config(family)
    with torch.device("meta"):
        size = sum(each.numel() for each in AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{family} has {size} parameters with its tiny config")
    torch.manual_seed(0)
    kind = AutoModelForMultimodalLM if senses(config.to_dict()) else AutoModelForCausalLM
    model = kind.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:  # biases and norms too: left at 0 and 1 they would hide a fault
            torch.nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.1)
    model.save_pretrained(folder)


def reference(folder: Path) -> torch.Tensor:
    """Logits of transformers' own model with its own attention and cache, [tokens, vocabulary]."""
    kind = AutoModelForMultimodalLM if Folder(folder).senses else AutoModelForCausalLM
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    freeze_rope(model, FORM.max_context)
    with torch.no_grad():
        logits: torch.Tensor = model(TOKENS).logits[0]
    return logits


def enter(folder: Path) -> Any:
    """A checkpoint's model by the doors that users go through: the plan's, that of `acquire`, and the reader.

    Raises:
        UserError: it is refused.
    """
    found = Folder(folder)
    architecture_of(found)
    skeleton = prepare(found).model
    check_attention(skeleton, skeleton.config.get_text_config())
    return load_model(folder)


def greatest_error(
    feed: Callable[[torch.Tensor, int], torch.Tensor], expected: torch.Tensor, ways: Iterable[int]
) -> float:
    """Of the logits after each piece, relative to the greatest logit.

    Args:
        feed: takes tokens [1, S] and the position of the first; gives logits, the last token's last.
        expected: of every position.
        ways: tokens of a piece.
    """
    errors = []
    with torch.no_grad():
        for chunk in ways:
            for start in range(0, TOKENS.shape[1], chunk):
                piece = TOKENS[:, start : start + chunk]
                found = feed(piece, start).reshape(-1)[-expected.shape[1] :]
                errors.append((found - expected[start + piece.shape[1] - 1]).abs().max() / expected.abs().max())
    return float(torch.stack(errors).max())


def decoder(model: Any) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """The form of XNNPACK and others, by its name in `forms`."""
    made = Decoder(model, FORM)

    def feed(tokens: torch.Tensor, start: int) -> torch.Tensor:
        logits: torch.Tensor = made(tokens, torch.tensor([start]))
        if made.cache.call.attended != made.attending:
            raise UserError(f"attention in layers {made.cache.call.attended} where {made.attending} were expected")
        return logits

    return feed


def static_decoder(model: Any) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """The form of NPUs."""
    made = StaticDecoder(model, FORM)
    return lambda tokens, start: made(tokens, torch.tensor([start]))


def external_cache(model: Any) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """The form of NPUs with prefill in parallel."""
    made = ExternalCacheDecoder(model, FORM)
    driver = CacheDriver(lambda _, inputs: made(*inputs), external_metadata(made, 0, [1]))
    return lambda tokens, start: driver.feed(tokens[0].tolist(), start)


FORMS: dict[str, tuple[Callable[[Any], Callable[[torch.Tensor, int], torch.Tensor]], tuple[int, ...]]] = {
    "decoder": (decoder, WAYS),
    "static_decoder": (static_decoder, (1,)),
    "external_cache": (external_cache, WAYS),
}


def judge(family: str, folder: Path, form: str = "decoder") -> Outcome:
    """Try a family in a form.

    Args:
        family: one of `FAMILIES`.
        folder: an empty one, or one that this has filled for the same family.
        form: one of `FORMS`.
    """
    try:
        if not (folder / "config.json").exists():
            write_config(family, folder)
        try:
            Folder(folder).config  # noqa: B018  read, which refuses most
        except UserError as refusal:
            return _refused(family, refusal, folder)
        if not (folder / "model.safetensors").exists():
            write_checkpoint(family, folder)
        expected = reference(folder)
        try:
            make, ways = FORMS[form]
            error = greatest_error(make(enter(folder)), expected, ways)
        except UserError as refusal:
            return _refused(family, refusal, folder)
        return Outcome(family, "equal" if error <= MOST else "failed", error)
    except Exception as error:
        return Outcome(family, "failed", sentence=f"{type(error).__name__}: {error}")


def _refused(family: str, refusal: UserError, folder: Path) -> Outcome:
    sentence = str(refusal).replace(f"{folder / 'config.json'} describes a model that ", "")
    return Outcome(
        family, "refused", sentence=sentence.replace(f"{folder}: ", "").replace(str(folder), "the checkpoint")
    )


def measure(families: Iterable[str], tick: Callable[[str], None]) -> dict[str, Any]:
    """Every family in every form, as the documentation keeps it."""
    found = []
    for family in families:
        with tempfile.TemporaryDirectory() as name:
            outcomes = {form: judge(family, Path(name), form) for form in FORMS}
        first = outcomes["decoder"]
        tick(f"{family}: {first.result} {first.error or first.sentence}")
        equal = {form: each.error for form, each in outcomes.items() if each.result == "equal"}
        failed = {form: each.sentence for form, each in outcomes.items() if each.result == "failed"}
        found.append({"family": family, "errors": equal, "refused": first.sentence, "failed": failed})
    return {"transformers": metadata.version("transformers"), "families": found}


def main(arguments: list[str] | None = None) -> None:
    """Try them, and write the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--only", nargs="*", default=FAMILIES, help="families")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    result = measure(asked.only, console.print)
    if asked.json is not None:
        asked.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    failed = [each for each in result["families"] if each["failed"]]
    counts = Counter(
        "failed" if each["failed"] else "equal" if each["errors"] else "refused" for each in result["families"]
    )
    console.print(dict(counts))
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()

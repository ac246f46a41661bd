"""config.json at the door: read once, odd but harmless values put right, wrong ones refused, unknown ones named.

Needs neither torch nor transformers, so that `mode=plan` refuses what a run would refuse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from et_pipeline.architecture import find_family
from et_pipeline.checkpoints.lacks import what_lacks
from et_pipeline.checkpoints.own_sizes import check_own_sizes
from et_pipeline.errors import UserError
from et_pipeline.states import has_mixers

FILE = "config.json"
MOST_LAYERS = 10_000
LARGEST_SIZE = 1 << 31
_PARTS = ("text_config", "vision_config", "audio_config", "speech_config")
_OTHER_SENSES = ("vision_config", "audio_config", "speech_config", "vision_tower", "mm_vision_tower", "visual")
# What a model that also sees or hears says once, of its language model too.
_OF_THE_WHOLE = ("bos_token_id", "eos_token_id", "pad_token_id", "quantization_config")
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
_OPTIONAL_SIZES = (
    "intermediate_size",
    "max_position_embeddings",
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
    "original_max_position_embeddings",
    "type_vocab_size",
)
_POSITIVE = (
    "rms_norm_eps",
    "layer_norm_eps",
    "norm_epsilon",
    "rope_theta",
    "query_pre_attn_scalar",
    "rope_local_base_freq",
)
# How the weights of a file are to be held in memory and computed with elsewhere: here they become float32.
_ELSEWHERE = ("torch_dtype", "dtype", "attn_implementation", "_attn_implementation", "_attn_implementation_internal")
MOST_LABELS = 1 << 20  # of a classifier; transformers makes a table of them for every model
# What rotary settings may hold: a number above 0, a list of these, or anything else that means something.
_ROPE_POSITIVE = (
    "rope_theta",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "partial_rotary_factor",
)
_ROPE_LISTS = ("short_factor", "long_factor")
_ROPE_OTHER = ("rope_type", "type", "truncate", "finetuned", "llama_4_scaling_beta")
_KINDS = ("full_attention", "sliding_attention")
_NO_JSON = ("Infinity", "-Infinity", "NaN")
_PANIC = "PanicException"  # of libraries in Rust, which is no Exception to Python
# Keys that no class has as its field, and that its model reads all the same.
_READ = frozenset(
    {
        "rope_scaling",
        "rope_theta",
        "partial_rotary_factor",
        "head_dim",
        "sliding_window_pattern",
        "_sliding_window_pattern",
        "rope_local_base_freq",
        "is_causal",
        "block_ff_dim",
        "tie_embedding",
        "full_attention_interval",
        "global_head_dim",
        "num_global_key_value_heads",
        "per_layer_config",
    }
)
# Keys that transformers' classes do not have, and that change nothing here.
HARMLESS = {
    "model_type": "chooses the class",
    "auto_map": "names code of the checkpoint's own, which is never run",
    "quantization_config": "read by our own reader",
    "transformers_version": "says what wrote the file",
    "transformers.js_config": "for browsers",
    "unsloth_version": "says what wrote the file",
    "unsloth_fixed": "says what wrote the file",
    "unsloth_tied": "says what wrote the file",
    "_name_or_path": "says where it came from",
    "_commit_hash": "says where it came from",
    "pretraining_tp": "splits sums over devices",
    "_model_name_or_path": "says where it came from",
    "use_cache": "a call's own choice",
    "output_attentions": "a call's own choice",
    "unk_token_id": "the tokenizer's",
    "gradient_checkpointing": "for training",
    "attention_dropout": "for training",
    "attention_probs_dropout_prob": "for training",
    "hidden_dropout": "for training",
    "hidden_dropout_prob": "for training",
    "embd_pdrop": "for training",
    "resid_pdrop": "for training",
    "classifier_dropout": "for training",
    "initializer_range": "for training",
    "max_window_layers": "counts where use_sliding_window is set, and is read there",
    "is_llama_config": "says what wrote the file",
    "rope_interleaved": "says what wrote the file",
    "cache_implementation": "a call's own choice",
    "use_flash_attn": "how attention is computed elsewhere",
    "_flash_attn_2_enabled": "how attention is computed elsewhere",
    "torchscript": "a way of tracing",
    "use_bfloat16": "how weights are held elsewhere",
    "keys_to_ignore_at_inference": "names outputs",
    "matryoshka_dimensions": "read with sentence-transformers' files",
    "is_matryoshka": "says that there are such",
}
# What a config.json of old held and generation_config.json holds today.
_GENERATION = """
bad_words_ids begin_suppress_tokens decoder_start_token_id diversity_penalty do_sample early_stopping
encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty
max_length max_new_tokens min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores
remove_invalid_values repetition_penalty return_dict_in_generate suppress_tokens temperature tf_legacy_loss top_k top_p
typical_p prefix sep_token_id task_specific_params finetuning_task pruned_heads tie_encoder_decoder
cross_attention_hidden_size add_cross_attention tokenizer_class use_return_dict
"""


def senses(config: Mapping[str, Any]) -> list[str]:
    """Keys of the parts that see or hear beside a language model; none where there is no such part of its own."""
    return [key for key in _OTHER_SENSES if config.get(key)] if isinstance(config.get("text_config"), Mapping) else []


def language_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the language model in one that also sees or hears; any other as it is."""
    if not senses(config):
        return config
    text = config["text_config"]
    own = {key: config[key] for key in _OF_THE_WHOLE if key in config and text.get(key) is None}
    tied = config.get("tie_word_embeddings")  # the head is the whole's, not the language model's
    return {**text, **own, **({} if tied is None else {"tie_word_embeddings": tied})}


def put_right(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Leave out of a config what has no meaning here, and refuse what no model can have.

    Args:
        config: the content of a config.json.
        where: what to call it in a message.

    Raises:
        UserError: names the key, the value and what would work.
    """
    right = {key: _with_floats(value) for key, value in config.items() if key not in _ELSEWHERE}
    if right.get("transformers_weights") not in (None, "model.safetensors"):
        raise UserError(
            f"{where} has transformers_weights={_shown(right['transformers_weights'])}, and weights are read from "
            "model.safetensors or by its index; rename that file and leave the key out"
        )
    if right.get("configuration_files"):
        raise UserError(
            f"{where} has configuration_files={_shown(right['configuration_files'])}: another file holds the config "
            "for newer versions of transformers; rename that one config.json"
        )
    if right.get("model_type") == "lfm2" and "tie_embedding" in right:  # likewise
        right["tie_word_embeddings"] = right["tie_embedding"]
    if right.get("model_type") == "mistral" and "layer_types" in right:  # as transformers' AutoConfig reads it
        right["model_type"] = "ministral"
    for part in _PARTS:
        value = right.get(part, ...)
        if value is None:
            del right[part]
        elif value is not ... and not isinstance(value, Mapping):
            raise UserError(f"{where} has {part}={_shown(value)}, expected an object")
    if found := [key for key in _OTHER_SENSES if right.get(key)]:
        raise UserError(
            f"{where} describes a model that sees or hears ({found[0]}) without a text_config, and models of text "
            "alone are supported; use the maker's model of text"
        )
    lacking = what_lacks(right)
    if lacking is not None:
        raise UserError(f"{where} describes a model that {lacking}")
    if "text_config" in right:
        right["text_config"] = put_right(right["text_config"], f"{where} (text_config)")
        return right
    _check_sizes(right, where)
    vocabulary = right["vocab_size"] if isinstance(right.get("vocab_size"), int) else LARGEST_SIZE
    if not _is_id(right.get("pad_token_id"), vocabulary):  # it fills up batches, and here there are none
        right.pop("pad_token_id", None)
        if "pad_token_id" in config:
            right["pad_token_id"] = None
    for key in ("bos_token_id", "eos_token_id"):
        if right.get(key) is not None:
            ids = token_ids(right[key], f"{where} has {key}", vocabulary)
            right[key] = ids if key == "eos_token_id" and isinstance(right[key], list) else next(iter(ids), None)
    return right


def _with_floats(value: Any) -> Any:
    """A value whose numbers that JSON does not have are numbers: transformers writes {"__float__": "Infinity"}."""
    if isinstance(value, list):
        return [_with_floats(each) for each in value]
    if isinstance(value, Mapping) and value.keys() == {"__float__"} and value["__float__"] in _NO_JSON:
        return float(value["__float__"])
    return value


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether a config says that the head's weights are the embedding's, where the file has no other."""
    text = config.get("text_config", config)
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    if tied is not None:
        return bool(tied)
    family = find_family(str(text.get("model_type")))  # transformers leaves the key out where the class says it
    return family is not None and family.tied


def token_ids(value: Any, what: str, vocabulary: int) -> list[int]:
    """Token ids that a file gives as a number or as a list; a null in it names none.

    Args:
        value: what the file has.
        what: the beginning of a message.
        vocabulary: how many tokens the model has.

    Raises:
        UserError: one is no token of the model.
    """
    listed = value if isinstance(value, list) else [value]
    found = [each for each in listed if each is not None]
    for each in found:
        if not _is_id(each, vocabulary):
            raise UserError(f"{what}={_shown(value)}, and the model's tokens are 0 to {vocabulary - 1}")
    return found


def _is_id(value: Any, vocabulary: int) -> bool:
    return type(value) is int and 0 <= value < vocabulary


def _check_sizes(config: Mapping[str, Any], where: str) -> None:
    def size(key: str, needed: bool) -> None:
        value = config.get(key)
        if value is None and not needed:
            return
        each: list[Any] = [value]
        if key == "intermediate_size" and isinstance(value, list):  # Gemma 3n's, of each layer
            each = value
        if not each or any(type(one) is not int or one <= 0 for one in each):
            optional = "" if needed else " or null"
            raise UserError(f"{where} has {key}={_shown(value)}, expected a positive integer{optional}")
        if max(each) >= (MOST_LAYERS if key == "num_hidden_layers" else LARGEST_SIZE):
            raise UserError(f"{where} has {key}={_shown(value)}, which is more than any model has")

    for key in _SIZES:
        size(key, key in config)
    for key in _OPTIONAL_SIZES:
        if key != "sliding_window" or config.get("use_sliding_window") is not False:
            size(key, False)
    for key in _POSITIVE:
        value = config.get(key)
        if value is not None and not _is_positive(value):
            raise UserError(f"{where} has {key}={_shown(value)}, expected a number above 0")
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if heads and config.get("num_key_value_heads") and heads % config["num_key_value_heads"]:
        raise UserError(
            f"{where} has num_key_value_heads={config['num_key_value_heads']}, which does not divide "
            f"num_attention_heads={heads}"
        )
    if heads and hidden and not config.get("head_dim") and hidden % heads:
        raise UserError(f"{where} has hidden_size={hidden}, which num_attention_heads={heads} does not divide")
    kinds, layers = config.get("layer_types"), config.get("num_hidden_layers")
    if kinds is not None and layers and not (isinstance(kinds, list) and len(kinds) >= layers):
        raise UserError(f"{where} has layer_types={_shown(kinds)}, expected a list of {layers}, one for each layer")
    labels = config.get("num_labels")
    if labels is not None and not (type(labels) is int and 0 <= labels <= MOST_LABELS):
        raise UserError(f"{where} has num_labels={_shown(labels)}, expected an integer up to {MOST_LABELS}")
    for key in ("id2label", "label2id"):
        if not isinstance(config.get(key) or {}, Mapping):
            raise UserError(f"{where} has {key}={_shown(config[key])}, expected an object")
    family = find_family(str(config.get("model_type")))
    if isinstance(kinds, list) and (family is None or family.mixed) and not has_mixers(config):
        strange = next((kind for kind in kinds if kind not in _KINDS), None)
        if strange is not None:
            raise UserError(
                f"{where} has a layer of kind {_shown(strange)} in layer_types, which this version cannot export; it "
                f"exports {' and '.join(_KINDS)}"
            )
    for key in ("rope_parameters", "rope_scaling"):
        _check_rope(config.get(key), f"{where} has {key}")
    tied = config.get("tie_word_embeddings")
    if tied is not None and not isinstance(tied, bool):
        raise UserError(f"{where} has tie_word_embeddings={_shown(tied)}, expected true or false")
    check_own_sizes(config, where)


def _check_rope(settings: Any, what: str) -> None:
    if settings is None:
        return
    if not isinstance(settings, Mapping):
        raise UserError(f"{what}={_shown(settings)}, expected an object or null")
    for key, value in settings.items():
        if key in _KINDS:
            _check_rope(value, f"{what}.{key}")
        elif value is not None and (
            (key in _ROPE_POSITIVE and not _is_positive(value))
            or (key in _ROPE_LISTS and not (isinstance(value, list) and value and all(map(_is_positive, value))))
        ):
            raise UserError(
                f"{what}.{key}={_shown(value)}, expected {'numbers' if key in _ROPE_LISTS else 'a number'} above 0"
            )
    low, high = settings.get("low_freq_factor"), settings.get("high_freq_factor")
    if low is not None and high is not None and high <= low:
        raise UserError(f"{what}.high_freq_factor={high}, expected more than low_freq_factor={low}")
    if (settings.get("partial_rotary_factor") or 0) > 1:
        raise UserError(f"{what}.partial_rotary_factor={settings['partial_rotary_factor']}, expected at most 1")


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def unknown_keys(config: Mapping[str, Any], known: frozenset[str]) -> list[str]:
    """Keys that neither the family's class in transformers has nor are known to be harmless; rotary ones with a dot.

    Args:
        config: as `put_right` gives it.
        known: names of the class's fields, and of others for the same.
    """
    rotary = []
    for key in ("rope_parameters", "rope_scaling"):
        settings = config.get(key) or {}
        for each in (settings, *(value for value in settings.values() if isinstance(value, Mapping))):
            meant = {*_ROPE_POSITIVE, *_ROPE_LISTS, *_ROPE_OTHER, *_KINDS}
            rotary += [f"{key}.{name}" for name in each if name not in meant]
    return sorted(set(config) - known - _READ - set(HARMLESS) - set(_GENERATION.split()) - set(_PARTS)) + sorted(rotary)


@contextmanager
def one_sentence(what: str) -> Iterator[None]:
    """Turn whatever a library says of a user's file into one sentence. Only calls of that library go inside.

    Args:
        what: the file, and what was done with it.

    Raises:
        UserError: the library raised.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        raise UserError(f"{what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # huggingface_hub says the field first and what is wrong with it last.
    line = lines[-1] if lines and type(error).__name__.startswith("StrictDataclass") else (lines or [""])[0]
    return (
        f"{type(error).__name__}: {line}"
        if type(error) in (KeyError, AssertionError, AttributeError)
        else line or (type(error).__name__)
    )


def culprit(config: Mapping[str, Any], attempt: Callable[[dict[str, Any]], object]) -> str | None:
    """The key of a config without which an attempt that fails succeeds, with its value, for a message.

    Args:
        config: what fails.
        attempt: raises on a bad config.
    """
    for key in config:
        if key == "model_type":
            continue
        try:
            attempt({name: value for name, value in config.items() if name != key})
        except Exception:
            continue
        return f"{key}={_shown(config[key])}"
    return None


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"

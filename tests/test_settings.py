import pytest
from hydra import compose, initialize_config_dir
from pydantic import ValidationError

from et_pipeline import CONF
from et_pipeline.errors import UserError
from et_pipeline.pipeline import check
from et_pipeline.settings import Quantization, load_settings, setting_names

GROUPS = ("model", "adapt", "recipe", "backend", "device", "task", "experiment")
NPU = ["backend=qnn", "device=galaxy_s25"]
NEEDED = {  # options that leave a key to the user
    "model/custom": ["model.source=somewhere"],
    "model/custom_embedding": ["model.source=somewhere"],
    "adapt/merge_lora": ["model.adapter=somewhere"],
    "adapt/distill": ["adapt.teacher=somewhere"],
    **{f"recipe/{name}": NPU for name in ("16a4w", "16a4w_lpbq", "16a8w", "8a8w", "fp16")},
    "backend/qnn": ["recipe=16a4w", "device=galaxy_s25"],
    "backend/coreml": ["recipe=int4_weight_only"],
    "backend/vulkan": ["recipe=int4_weight_only"],
    "backend/portable": ["recipe=fp32"],
}


def settings(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        made = load_settings(compose("config", overrides=list(overrides)))
    check(made)
    return made


@pytest.mark.parametrize(
    ("group", "option"), [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
)
def test_every_option_of_every_group_composes_to_valid_settings(group, option):
    made = settings(f"{group}={option}", *NEEDED.get(f"{group}/{option}", []))
    assert made.mode == "run"


def test_every_yaml_belongs_to_a_group():
    known = {"hydra", *GROUPS}
    assert {path.relative_to(CONF).parts[0] for path in CONF.rglob("*.yaml")} - known == {"config.yaml"}


def test_every_figure_of_a_device_has_a_source():
    for path in sorted((CONF / "device").glob("*.yaml")):
        device = settings(f"device={path.stem}").device
        figures = {"ram_gb", "app_memory_limit_gb", "memory_bandwidth_gb_s", "prefill_gops", "core_ghz"}
        assert set(device.sources) == figures, path


def test_settings_are_frozen():
    made = settings()
    with pytest.raises(ValidationError):
        made.recipe.group_size = 64


def test_a_stage_sees_only_what_it_reads():
    recipe = settings("recipe=8da4w", "recipe.gate.max_task_drop=3").recipe
    assert recipe.quantization == settings().recipe.quantization
    assert set(recipe.quantization.model_dump()) == set(Quantization.model_fields)


def test_name_follows_model_recipe_and_backend():
    assert settings("recipe.group_size=64").name == "tiny_assistant-8da4w-g64-xnnpack"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["recipe.group_size=abc"], r'recipe.group_size="abc" is not valid: .*integer'),
        (["recipe.group_size=true"], r"recipe.group_size=true is not valid"),
        (["recipe.group_size=1.5"], r"recipe.group_size=1.5 is not valid"),
        (["+recipe.group_sise=3"], r"recipe.group_sise is not a setting; choose from .*group_size"),
        (["recipe.scheme=int3"], r'recipe.scheme="int3" is not valid: .*8da4w'),
        (["model=custom"], r"model.source has no value"),
        *(
            ([f"{key}="], rf'^{key}="" is empty; give it a value, or leave it out$')
            for key in (
                *("model.source", "model.revision", "model.adapter", "adapt.teacher", "adapt.text.source"),
                *("recipe.calibration.source", "task.evaluation", "verify.text"),
            )
        ),
        (["recipe.gate=null"], r"recipe.gate"),
        (["seed=null"], r"seed=null is not valid"),
        (["until=launch"], r'until="launch" is not valid: .*lower'),
        (["name=../escape"], r"name="),
        (["name=${nope}"], r"name cannot be resolved"),
        (["model.prefill_chunk=1024"], r"model.prefill_chunk=1024 exceeds model.max_context=512"),
        (["measure.prompt_tokens=500"], r"do not fit into model.max_context=512"),
        (["recipe=int4_weight_only", "recipe.group_size=32"], r"recipe.group_size=0"),
        (["recipe=int8_weight_only", "recipe.group_size=32"], r"recipe.group_size=0"),
        (["recipe=8da4w", "recipe.mapping=asymmetric"], r"recipe.mapping=symmetric_no_clipping_error"),
        (["recipe=int4_weight_only", "recipe.mapping=asymmetric"], r"does not run on backend=xnnpack"),
        (["recipe=8da8w", "recipe.group_size=32"], r"recipe.group_size=0"),
        (["recipe.group_size=48"], r"recipe.group_size"),
        (["model=minilm", "task=chat"], r"model.task=embedding .* but task.use_cases .*; choose task=embedding"),
        (["model=minilm", "task.system_prompt=hi"], r"but task.system_prompt is for a model that does"),
        (["model=minilm", "task.evaluation=builtin:tiny_assistant"], r"holds conversations, .* choose task=embedding"),
        (
            ["model=minilm", "model.prefill_chunk=64"],
            r"differs from model.max_context=256.*set model.prefill_chunk=256",
        ),
        (["model=minilm", "model.max_context=32"], r"measure.prompt_tokens=64 exceeds model.max_context=32"),
        (
            ["model=minilm", "model.adapter_rank=8"],
            r"adapter_rank=8 is for models that answer on backend=xnnpack",
        ),
        (
            ["model.adapter_rank=8", "recipe=16a4w", *NPU],
            r"adapter_rank=8 is for models that answer on backend=x",
        ),
        (
            ["model.adapter_rank=8", "recipe.transform=rotation"],
            r"model.adapter_rank=8 needs the inputs of the linears",
        ),
        (["model.adapter_rank=8", "recipe=auto"], r"model.adapter_rank=8 needs the inputs of the linears"),
        (
            ["model.adapter_rank=8", "backend.external_weights=true"],
            r"model.adapter_rank=8 has its adapter in the file",
        ),
        (["model=minilm", "model.kv_cache=fp16"], r"model.kv_cache=fp16 is of no use to minilm"),
        (["task.use_cases.chat.template=hello"], r"task.use_cases.chat.template='hello' must hold exactly"),
        (["task.use_cases.chat.template='{text'"], r"task.use_cases.chat.template='{text' is malformed"),
    ],
)
def test_load_settings_names_key_value_and_remedy(overrides, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        settings(*overrides)
    assert "\n" not in str(caught.value)


def test_a_model_that_embeds_texts_chooses_its_task():
    made = settings("model=minilm", "model.max_context=128")
    assert (made.model.task, made.task.name, made.model.prefill_chunk) == ("embedding", "embedding", 128)
    assert settings("model=custom_embedding", "model.source=x").task.name == "embedding"


def test_setting_names_are_dotted():
    assert {"recipe", "recipe.gate.max_task_drop", "paths.cache"} <= set(setting_names())

import pytest
from hydra import compose, initialize_config_dir

from et_pipeline import CONF
from et_pipeline.settings import load_settings
from et_pipeline.stages.bundle import min_runtime


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "1.3.0"),
        (["model.kv_cache=int8", "backend.external_weights=true"], "1.3.0"),
        (["model.kv_cache=fp16"], "1.3.0"),
        (["model=minilm"], "1.3.0"),
        (["backend=portable"], "1.5.1"),
    ],
)
def test_min_runtime_is_one_that_was_seen(overrides, expected):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert min_runtime(load_settings(compose("config", overrides=overrides))) == expected

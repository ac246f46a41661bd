import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_wheel_holds_the_config_tree_the_schema_and_the_built_in_model(tmp_path):
    """Building takes hatchling from the package index."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"et_pipeline/conf/{path.relative_to(ROOT / 'conf').as_posix()}" in names
    assert "et_pipeline/manifest/manifest.schema.json" in names
    assert "et_pipeline/tiny_assistant/checkpoint/model.safetensors" in names
    assert "et_pipeline/tiny_assistant/eval.jsonl" in names
    assert not any("tiny_writer" in name for name in names)

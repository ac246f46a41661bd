"""`python -m et_pipeline.manifest` writes `manifest.schema.json`."""

from et_pipeline.manifest import SCHEMA_PATH, json_schema

SCHEMA_PATH.write_text(json_schema(), encoding="utf-8")

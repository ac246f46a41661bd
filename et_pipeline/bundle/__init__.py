"""Bundles as they are used: opened, packed, talked to, checked. `stages/bundle.py` makes them."""

from et_pipeline.bundle.opened import Bundle, open_bundle
from et_pipeline.bundle.verify import Checked, Verification
from et_pipeline.manifest.archive import peek, write_zip

__all__ = ["Bundle", "Checked", "Verification", "open_bundle", "peek", "write_zip"]

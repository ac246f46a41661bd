"""Bundles as they are used: opened, packed, talked to, checked. `stages/bundle.py` makes them."""

from et_pipeline.bundle.archive import peek, write_zip
from et_pipeline.bundle.opened import Bundle, open_bundle
from et_pipeline.bundle.verify import Checked, Verification

__all__ = ["Bundle", "Checked", "Verification", "open_bundle", "peek", "write_zip"]

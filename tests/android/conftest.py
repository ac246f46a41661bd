from __future__ import annotations

import sys

import pytest


@pytest.fixture
def program():
    """Writes a program in Python; its path is what to run."""

    def write(path, code):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{sys.executable}\nimport sys\n{code}\n")
        path.chmod(0o755)
        return path

    return write

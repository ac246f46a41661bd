"""A small bundle and its manifest."""

import pytest
from made_bundle import make_bundle

from et_pipeline import manifest as bundle


@pytest.fixture
def folder(tmp_path):
    return make_bundle(tmp_path / "tiny")


@pytest.fixture
def manifest(folder):
    return bundle.read(folder)

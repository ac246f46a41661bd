"""Where Qualcomm's libraries are found, and everything that may be missing."""

from importlib import metadata

import pytest

from et_pipeline.backends import qnn_sdk
from et_pipeline.errors import UserError


@pytest.fixture
def no_sdk(monkeypatch):
    monkeypatch.delenv("QNN_SDK_ROOT", raising=False)
    monkeypatch.setattr(qnn_sdk.importlib.util, "find_spec", lambda name: None)


def test_without_libraries_it_says_how_to_get_them(no_sdk):
    with pytest.raises(UserError, match=r"set QNN_SDK_ROOT to .* or install .* 'et-pipeline\[qnn\]'"):
        qnn_sdk.find_sdk()


def test_an_sdk_that_lacks_a_library_is_named(no_sdk, monkeypatch, tmp_path):
    monkeypatch.setenv("QNN_SDK_ROOT", str(tmp_path))
    with pytest.raises(UserError, match=r"QNN_SDK_ROOT=.* has no lib/x86_64-linux-clang/libQnnSystem.so"):
        qnn_sdk.find_sdk()


def test_an_sdk_is_found(no_sdk, monkeypatch, tmp_path):
    folder = tmp_path / qnn_sdk.HOST_LIBRARIES
    folder.mkdir(parents=True)
    for name in qnn_sdk.LIBRARIES:
        (folder / name).touch()
    monkeypatch.setenv("QNN_SDK_ROOT", str(tmp_path))
    assert qnn_sdk.find_sdk() == (folder, tmp_path)


def test_another_version_of_the_package_is_refused(monkeypatch):
    monkeypatch.delenv("QNN_SDK_ROOT", raising=False)
    monkeypatch.setattr(metadata, "version", lambda name: "2.7.0")
    with pytest.raises(UserError, match=r"onnxruntime-qnn==2.7.0 is installed.*pip install onnxruntime-qnn==2.5.0"):
        qnn_sdk.find_sdk()


def test_another_system_is_refused(monkeypatch):
    monkeypatch.setattr(qnn_sdk.platform, "system", lambda: "Darwin")
    with pytest.raises(UserError, match="Linux on x86-64, and this is Darwin"):
        qnn_sdk.find_sdk()

from __future__ import annotations

import io
import tarfile
import zipfile

import artifacts
import pytest
import steps
import toolbox
from artifacts import BuildError

BOTH = ["arm64-v8a", "x86_64"]


def _aar(path, abis):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("classes.jar", "classes")
        for abi in abis:
            archive.writestr(f"jni/{abi}/libexecutorch.so", abi)


def _npm(path, abis):
    files = {"package/android/libs/classes.jar": "classes"}
    files |= {f"package/third-party/android/libs/executorch/{abi}/libexecutorch.so": abi for abi in abis}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))


@pytest.fixture(params=["maven", "npm"])
def unpack(request, tmp_path, monkeypatch):
    """Unpacks a runtime, which has some ABIs, for an app that wants some."""
    monkeypatch.setattr(steps, "BUILD", tmp_path / "build")
    write, name = (_aar, "runtime.aar") if request.param == "maven" else (_npm, "runtime.tgz")

    def unpack(has, wants):
        write(tmp_path / name, has)
        monkeypatch.setattr(toolbox, "fetch", lambda _: tmp_path / name)
        return toolbox.unpack_runtime([artifacts.Artifact("runtime", "g", "a", "1", "aar", "00")], wants)

    return unpack


@pytest.mark.parametrize("wants", [BOTH, BOTH[:1], BOTH[1:]])
def test_the_runtime_has_what_the_tests_load_whatever_the_apk_is_for(unpack, wants):
    folder = unpack(BOTH, wants)
    assert (folder / "classes.jar").read_text() == "classes"
    assert {path.parent.name: path.read_text() for path in folder.rglob("*.so")} == {abi: abi for abi in BOTH}


def test_an_abi_that_the_runtime_lacks_is_named(unpack):
    with pytest.raises(BuildError, match=r"^runtime\.\w+ lacks [\w/-]+/x86/libexecutorch\.so\.$"):
        unpack(BOTH, ["x86"])

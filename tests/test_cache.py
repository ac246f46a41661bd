import json
import multiprocessing
import time

import pytest

from et_pipeline import cache


def _fill(out, text="weights"):
    (out / "sub").mkdir()
    (out / "sub" / "data.bin").write_text(text)
    return {"figure": 1}, {"wall_s": 0.0, "cpu_s": 0.0, "peak_rss_bytes": 0}


def test_build_makes_once_and_reuses(tmp_path):
    folder = tmp_path / "stage" / "key"
    entry, reused = cache.build(folder, _fill, {"a": 1})
    assert (reused, entry.figures) == (False, {"figure": 1})
    again, reused = cache.build(folder, pytest.fail, {"a": 1})
    assert reused
    assert again.content == entry.content


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove", "record"])
def test_build_makes_again_when_an_entry_was_altered(tmp_path, harm):
    folder = tmp_path / "stage" / "key"
    cache.build(folder, _fill, {})
    data = folder / "sub" / "data.bin"
    if harm == "truncate":
        data.write_text("weig")
    elif harm == "flip":
        data.write_text("weightz")
    elif harm == "remove":
        data.unlink()
    else:
        (folder / cache.RECORD).write_text('{"key": ')
    entry, reused = cache.build(folder, _fill, {})
    assert not reused
    assert (entry.folder / "sub" / "data.bin").read_text() == "weights"


def test_build_leaves_nothing_when_making_fails(tmp_path):
    folder = tmp_path / "stage" / "key"

    def fail(out):
        (out / "half").write_text("half")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        cache.build(folder, fail, {})
    assert [path.name for path in folder.parent.iterdir()] == ["key.lock"]


def test_build_removes_what_a_killed_run_left(tmp_path):
    folder = tmp_path / "stage" / "key"
    leftover = folder.parent / "key.abc.tmp"
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("half")
    cache.build(folder, _fill, {})
    assert not leftover.exists()


def _slow_build(folder, made, waited):
    def make(out):
        made.put(1)
        time.sleep(0.5)
        return _fill(out)

    cache.build(folder, make, {}, lambda: waited.put(1))


def test_two_processes_build_one_entry_once(tmp_path):
    context = multiprocessing.get_context("fork")
    made, waited = context.Queue(), context.Queue()
    processes = [context.Process(target=_slow_build, args=(tmp_path / "stage" / "key", made, waited)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert made.get(timeout=1)
    assert waited.get(timeout=1)
    assert made.empty()


def test_publish_replaces_a_folder(tmp_path):
    for text in ("old", "new"):
        temporary = cache.temporary_for(tmp_path / "bundle")
        (temporary / "file").write_text(text)
        cache.publish(temporary, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_figures_have_the_same_order_when_they_are_reused(tmp_path):
    def make(out):
        return {"b": 1, "a": {"d": 2, "c": 3}}, {}

    first, _ = cache.build(tmp_path / "stage" / "key", make, {})
    again, _ = cache.build(tmp_path / "stage" / "key", make, {})
    assert json.dumps(first.figures) == json.dumps(again.figures)


def test_digest_does_not_depend_on_the_order_of_keys():
    assert cache.digest({"a": 1, "b": 2}) == cache.digest({"b": 2, "a": 1})
    assert cache.digest({"a": 1}) != cache.digest({"a": 2})


def test_code_version_follows_imports(tmp_path, monkeypatch):
    package = tmp_path / "et_pipeline"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "top.py").write_text("from et_pipeline.deep import f\n")
    (package / "deep.py").write_text("f = 1\n")
    (package / "other.py").write_text("g = 1\n")
    monkeypatch.setattr(cache, "_PACKAGE", package)

    def version():
        cache.code_version.cache_clear()
        return cache.code_version("et_pipeline.top")

    before = version()
    (package / "other.py").write_text("g = 2\n")
    assert version() == before
    (package / "deep.py").write_text("f = 2\n")
    assert version() != before
    cache.code_version.cache_clear()


def test_record_tells_what_an_entry_depends_on(tmp_path):
    folder = tmp_path / "stage" / "key"
    cache.build(folder, _fill, {"seed": 3})
    record = json.loads((folder / cache.RECORD).read_text())
    assert record["key"] == {"seed": 3}
    assert record["files"]["sub/data.bin"]["size"] == 7

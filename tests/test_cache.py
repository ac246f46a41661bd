import json
import multiprocessing
import os
import stat
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

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


def _temporary(folder):
    return cache.temporary_for(folder)


def test_build_removes_what_a_killed_run_left(tmp_path):
    folder = tmp_path / "stage" / "key"
    folder.parent.mkdir()
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as gone:
        leftover = gone.submit(_temporary, folder).result()
    (leftover / "half").write_text("half")
    cache.build(folder, _fill, {})
    assert not leftover.exists()


@pytest.mark.parametrize("age", [0, 2 * cache.ABANDONED_S])
def test_what_another_host_fills_is_left_to_it_for_a_week(tmp_path, age):
    folder = tmp_path / "stage" / "key"
    theirs = folder.parent / "key.other.host.1.abc.tmp"
    theirs.mkdir(parents=True)
    os.utime(theirs, (time.time() - age,) * 2)
    cache.build(folder, _fill, {})
    assert theirs.exists() == (age == 0)


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


@contextmanager
def _granted(folder, waiting=lambda: None):
    """A lock as of a file system without them: everybody gets it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    yield


def _build_together(folder, everybody, grant):
    """What a process that is not held off comes to, at the same moment as another."""
    if grant:
        cache.locked = _granted

    def make(out):
        everybody.wait(10)
        figures = _fill(out)
        everybody.wait(10)
        return figures

    entry, _ = cache.build(folder, make, {})
    return (entry.folder / "sub" / "data.bin").read_text()


@pytest.mark.parametrize("lost", ["granted to both", "lock file removed"])
def test_where_a_lock_is_lost_work_is_done_twice_and_the_entry_is_whole(tmp_path, lost):
    folder = tmp_path / "stage" / "key"
    with multiprocessing.get_context("fork").Manager() as shared:
        everybody = shared.Barrier(2)
        with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as hosts:
            first = hosts.submit(_build_together, folder, everybody, lost == "granted to both")
            lock = folder.parent / "key.lock"
            while lost == "lock file removed" and not (lock.exists() and list(folder.parent.glob("*.tmp"))):
                time.sleep(0.01)
            lock.unlink(missing_ok=True)
            second = hosts.submit(_build_together, folder, everybody, lost == "granted to both")
            assert (first.result(), second.result()) == ("weights", "weights")
    assert cache.find(folder) is not None
    assert list(folder.parent.glob("*.tmp")) == []


def _publish_often(folder, text, count):
    for _ in range(count):
        temporary = cache.temporary_for(folder)
        (temporary / "file").write_text(text)
        cache.publish(temporary, folder)


def test_processes_that_publish_one_folder_at_a_time_do_not_fail(tmp_path):
    with ProcessPoolExecutor(4, multiprocessing.get_context("fork")) as hosts:
        runs = [hosts.submit(_publish_often, tmp_path / "bundle", str(number) * 1000, 50) for number in range(4)]
        for run in runs:
            run.result()
    assert len(set((tmp_path / "bundle" / "file").read_text())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_entry_that_appears_meanwhile_is_kept(tmp_path):
    folder = tmp_path / "stage" / "key"

    def make(out):
        temporary = cache.temporary_for(folder)
        _fill(temporary, "theirs")
        record = {"key": {}, "files": {}, "figures": {"figure": 2}, "cost": {}}
        (temporary / cache.RECORD).write_text(json.dumps(record))
        cache.publish(temporary, folder)
        return _fill(out)

    entry, reused = cache.build(folder, make, {})
    assert (reused, entry.figures) == (False, {"figure": 2})
    assert (folder / "sub" / "data.bin").read_text() == "theirs"


def test_publish_replaces_a_folder(tmp_path):
    for text in ("old", "new"):
        temporary = cache.temporary_for(tmp_path / "bundle")
        (temporary / "file").write_text(text)
        cache.publish(temporary, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_others_may_read_what_is_made_as_the_user_lets_them(tmp_path):
    before = os.umask(0o027)
    try:
        temporary = cache.temporary_for(tmp_path / "bundle")
    finally:
        os.umask(before)
    assert stat.S_IMODE(temporary.stat().st_mode) == 0o750


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

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from et_pipeline.errors import UserError
from et_pipeline.settings import Backend
from et_pipeline.worker import StageCrash, StageKilled, run_stage, server


@pytest.fixture(autouse=True, params=["forked", "started"])
def way(request, monkeypatch):
    """Both ways to have a process; the second one is that of macOS and Windows."""
    if request.param == "started":
        monkeypatch.setattr("et_pipeline.host.forks", lambda: False)
    elif sys.platform != "linux":
        pytest.skip("nothing is forked on this system")
    return request.param


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Write a stage module that a child process can import, and run it."""
    monkeypatch.syspath_prepend(tmp_path)

    def run(body):
        source = (
            "import os, sys, errno, torch\nfrom pathlib import Path\nfrom et_pipeline.errors import UserError\n"
            "from et_pipeline.settings import Backend\n"
            "def run(inputs, out: Path, tick, *, backend: Backend):\n" + textwrap.indent(textwrap.dedent(body), "    ")
        )
        (tmp_path / "a_stage.py").write_text(source)
        out = tmp_path / "out"
        out.mkdir()
        ticks = []
        result = run_stage(
            "a_stage",
            {"data": tmp_path},
            out,
            {"backend": Backend(name="xnnpack")},
            7,
            tmp_path / "log.txt",
            lambda done, total: ticks.append((done, total)),
        )
        return *result, ticks

    return run


def test_run_stage_returns_figures_cost_and_progress(stage, tmp_path):
    figures, cost, ticks = stage(
        """
        print("noise")
        tick(1, 2); tick(2, 2)
        (out / "x").write_text("x")
        return {"backend": backend.name, "seed": torch.initial_seed(), "inputs": sorted(inputs)}
        """
    )
    assert figures == {"backend": "xnnpack", "seed": 7, "inputs": ["data"]}
    assert ticks[-1] == (2, 2)
    assert cost["wall_s"] > 0
    assert cost["peak_rss_bytes"] > 50e6  # torch is in there
    assert "noise" in (tmp_path / "log.txt").read_text()


@pytest.mark.linux("anonymous memory is told there alone")
def test_peak_memory_is_anonymous_memory(stage, tmp_path):
    (tmp_path / "mapped").write_bytes(bytes(300_000_000))
    _, cost, _ = stage(
        """
        import mmap, time
        with (out.parent / "mapped").open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            sum(mapped[i] for i in range(0, len(mapped), 4096))
        block = torch.ones(400_000_000, dtype=torch.uint8)
        time.sleep(0.3)
        return {}
        """
    )
    (tmp_path / "out").rmdir()
    _, without, _ = stage("import time; time.sleep(0.3); return {}")
    # The block and not the file; what the process had besides differs by some megabytes.
    assert 390e6 < cost["peak_rss_bytes"] - without["peak_rss_bytes"] < 450e6


def test_run_stage_hands_on_a_users_mistake(stage):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        stage("raise UserError('config.json is missing')")


def test_run_stage_shows_the_traceback_of_our_fault(stage):
    with pytest.raises(StageCrash, match="ZeroDivisionError"):
        stage("1 / 0")


@pytest.mark.skipif(os.name == "nt", reason="Windows has exit codes instead of signals")
def test_run_stage_names_the_signal_of_a_native_crash(stage):
    with pytest.raises(StageCrash, match="SIGSEGV"):
        stage("os.kill(os.getpid(), 11)")


def test_run_stage_names_the_exit_code_of_a_library_that_gave_up(stage):
    with pytest.raises(StageKilled, match="exit code 127"):
        stage("os._exit(127)")


@pytest.mark.linux("which holds a process to a limit of memory")
@pytest.mark.parametrize("allocate", ["bytearray(4 << 30)", "torch.ones(1 << 30)"])
def test_run_stage_says_that_memory_ran_out(stage, allocate):
    with pytest.raises(UserError, match=r"^stage \w+ ran out of memory; .*$"):
        stage(
            f"""
            import resource
            size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30), resource.RLIM_INFINITY))
            {allocate}
            """
        )


def test_run_stage_says_that_the_disk_is_full(stage, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"no space left on the disk of paths\.cache="):
        stage(
            """
            import shutil, collections
            shutil.disk_usage = lambda path: collections.namedtuple("usage", "total used free")(1, 1, 0)
            raise RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed")
            """
        )


@pytest.mark.linux("which has /dev/full")
def test_a_full_disk_that_holds_the_log_too_is_said(stage, tmp_path):
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"no space left on the disk of paths\.cache="):
        stage(
            """
            import shutil, collections
            shutil.disk_usage = lambda path: collections.namedtuple("usage", "total used free")(1, 1, 0)
            raise OSError(errno.ENOSPC, "No space left on device")
            """
        )


def test_what_a_library_does_at_its_end_is_done(stage, tmp_path):
    (tmp_path / "temporary").touch()
    stage("import atexit; atexit.register(os.unlink, out.parent / 'temporary'); return {}")
    assert not (tmp_path / "temporary").exists()


def test_an_interruption_that_comes_late_is_one(stage, tmp_path, monkeypatch):
    class Late(KeyboardInterrupt):
        pass

    def tick(done, total):
        time.sleep(0.5)  # the stage has ended, and the server has told so
        raise Late

    (tmp_path / "out").mkdir()
    (tmp_path / "quick.py").write_text("def run(inputs, out, tick):\n    tick(1, 1)\n")
    with pytest.raises(Late):
        run_stage("quick", {}, tmp_path / "out", {}, 0, tmp_path / "log.txt", tick)


def threaded(tmp_path, body):
    """Run a stage in another thread; returns that and the list that takes its figures, or what it raised."""
    (tmp_path / "slow.py").write_text("import time\ndef run(inputs, out, tick):\n" + textwrap.indent(body, "    "))
    found = []

    def run():
        try:
            found.append(run_stage("slow", {}, tmp_path, {}, 0, tmp_path / "slow.txt", lambda *_: None)[0])
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_another_environment_disturbs_no_stage_that_runs(stage, tmp_path, monkeypatch):
    begun = "(open(out / 'begun', 'w'), time.sleep(3))\nreturn 'whole'"
    thread, found = threaded(tmp_path, begun)
    wait_for(tmp_path / "begun")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    figures, _, _ = stage("from huggingface_hub import constants; return constants.HF_HOME")
    assert figures == str(tmp_path)
    thread.join()
    assert found == ["whole"]


@pytest.mark.parametrize("way", ["forked"], indirect=True)
def test_a_server_that_is_killed_takes_no_stage_along_and_is_started_again(stage, tmp_path):
    thread, found = threaded(tmp_path, "(open(out / 'begun', 'w'), time.sleep(2))\nreturn 'whole'")
    wait_for(tmp_path / "begun")
    server._server.process.kill()
    thread.join()
    assert found == ["whole"]
    assert stage("return {'again': True}")[0] == {"again": True}


@pytest.mark.parametrize("way", ["forked"], indirect=True)
def test_a_server_that_still_imports_ends_with_an_interruption(tmp_path):
    program = (
        "from pathlib import Path\nfrom et_pipeline.worker import run_stage\n"
        f"run_stage('none', {{}}, Path({str(tmp_path)!r}), {{}}, 0, Path({str(tmp_path / 'log')!r}), print)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    while not (servers := psutil.Process(parent.pid).children()):
        time.sleep(0.02)
    time.sleep(0.5)  # it ignores what a terminal sends to all
    for each in (*servers, parent):
        each.send_signal(signal.SIGINT)
    parent.wait()
    time.sleep(1)  # imports take several
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in servers)


def test_a_stage_can_have_a_process_of_its_own(stage, tmp_path, way):
    (tmp_path / "inner.py").write_text("import os\ndef run(inputs, out, tick):\n    return os.getppid()\n")
    figures, _, _ = stage(
        f"""
        from et_pipeline import host
        from et_pipeline.worker import run_stage
        host.forks = lambda: {way == "forked"}
        inner, _ = run_stage("inner", {{}}, out, {{}}, 0, out / "log", print)
        return {{"inner": inner, "own": os.getpid(), "outer": os.getppid()}}
        """
    )
    if way == "forked":
        assert figures["inner"] == figures["outer"] == server._server.process.pid
    else:
        assert (figures["inner"], figures["outer"]) == (figures["own"], os.getpid())


@pytest.mark.linux("reads /proc")
def test_stages_leave_nothing_open(stage, tmp_path, way):
    (tmp_path / "quick.py").write_text(
        "import os\ndef run(inputs, out, tick):\n"
        "    return sorted(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task'))\n"
    )

    def run():
        return run_stage("quick", {}, tmp_path, {}, 0, tmp_path / "log.txt", print)[0]

    first = run()
    here = len([*Path("/proc/self/fd").iterdir()])
    assert first[1] == 2  # one waits for the caller's end
    assert [run() for _ in range(5)] == [first] * 5
    assert len([*Path("/proc/self/fd").iterdir()]) == here
    if way == "forked":
        assert Path(f"/proc/{server._server.process.pid}/status").read_text().count("Threads:\t1\n") == 1


@pytest.mark.linux("reads /proc")
def test_child_ends_with_its_parent(tmp_path, way):
    (tmp_path / "b_stage.py").write_text(
        "import os, time\n"
        "def run(inputs, out, tick):\n"
        f"    open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "    time.sleep(600)\n"
    )
    program = (
        "from pathlib import Path\nfrom et_pipeline import host\nfrom et_pipeline.worker import run_stage\n"
        f"host.forks = lambda: {way == 'forked'}\n"
        f"run_stage('b_stage', {{}}, Path({str(tmp_path)!r}), {{}}, 0, Path({str(tmp_path / 'log')!r}), print)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(tmp_path)})
    pid_file = tmp_path / "pid"
    deadline = time.monotonic() + 120
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    child = int(pid_file.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the child lives on")

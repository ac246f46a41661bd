import sys
from multiprocessing import get_context

from et_pipeline.bench import newcomer
from et_pipeline.bench.newcomer import Peer, ask, table

RAISES = """python -c "raise(ValueError('its|words'))" """


def asked(peer, folder):
    with get_context("spawn").Pool(1) as alone:  # without children of other tests
        return alone.apply(ask, (peer, sys.executable, {"checkpoint": __file__}, folder))


def shown(peer, found, monkeypatch):
    monkeypatch.setattr(newcomer, "PEERS", {"theirs": peer})
    return table({"peers": {"theirs": found}, "date": "today", "machine": "this", "checkpoint": "smol"})


def test_what_a_peer_took_and_made_and_how_it_ended(tmp_path, monkeypatch):
    commands = ("cp {checkpoint} made", RAISES, "touch never")
    peer = Peer(("pip",), commands, "3.11 and newer", "a file", "never")
    found = asked(peer, tmp_path)
    assert found["install"]["code"] == 0
    assert [step["code"] for step in found["steps"]] == [0, 1]
    assert found["made"].keys() == {"made"}
    assert 10e6 < found["bytes"] < 100e6  # pip's own
    assert found["gpu_bytes"] == 0
    assert 5e6 < found["steps"][1]["peak_rss_bytes"] < 200e6
    text = shown(peer, found, monkeypatch)
    assert r"**ended with exit code 1**: `ValueError: its\|words`" in text
    assert "Measured today on this, smol." in text


def test_an_error_is_mended_and_the_command_asked_again(tmp_path, monkeypatch):
    peer = Peer(("pip",), ("cat needed", "cp needed made"), "any", "a file", "made", ("touch needed", "touch unasked"))
    found = asked(peer, tmp_path)
    assert [step.get("mend") for step in found["steps"]] == [None, "touch needed", None, None]
    assert [bool(step["code"]) for step in found["steps"]] == [True, False, False, False]
    assert found["made"].keys() == {"made", "needed"}
    text = shown(peer, found, monkeypatch)
    assert "| 2 + 1 for errors |" in text
    assert "No such file or directory`, which asked for `touch needed`" in text
    assert "ended" not in text


def test_an_exit_code_of_zero_is_not_believed(tmp_path, monkeypatch):
    peer = Peer(("pip",), ("echo all is well",), "any", "a file", "made", ("echo mended",))
    found = asked(peer, tmp_path)
    assert [step["code"] for step in found["steps"]] == [0, 0, 0]
    assert "**ended with exit code 0, and made nothing**: `all is well`" in shown(peer, found, monkeypatch)

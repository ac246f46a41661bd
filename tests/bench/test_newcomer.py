import sys

from et_pipeline.bench import newcomer
from et_pipeline.bench.newcomer import Peer, ask, table


def peer(*commands):
    return Peer(("pip",), commands, "3.11 and newer", "a file")


def test_what_a_peer_took_and_made_is_kept(tmp_path):
    found = ask(peer("cp {checkpoint} made", "python -c pass"), sys.executable, {"checkpoint": __file__}, tmp_path)
    assert found["install"]["code"] == 0
    assert [step["code"] for step in found["steps"]] == [0, 0]
    assert found["made"]["made"] > 500
    assert 10e6 < found["bytes"] < 100e6  # pip's own
    assert found["gpu_bytes"] == 0
    assert 5e6 < found["steps"][1]["peak_rss_bytes"] < 200e6


def test_an_error_ends_a_peer_and_is_shown_in_the_table(tmp_path, monkeypatch):
    failing = peer("""python -c "raise(ValueError('its|words'))" """, "touch never")
    found = ask(failing, sys.executable, {}, tmp_path)
    assert len(found["steps"]) == 1
    assert not (tmp_path / "never").exists()
    monkeypatch.setattr(newcomer, "PEERS", {"theirs": failing})
    shown = table({"peers": {"theirs": found}, "date": "today", "machine": "this", "checkpoint": "smol"})
    assert r"**ended with exit code 1**: `ValueError: its\|words`" in shown
    assert "Measured today on this, smol." in shown

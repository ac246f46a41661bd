import sys
from multiprocessing import get_context

from et_pipeline.bench import newcomer
from et_pipeline.bench.newcomer import Peer, ask, table


def test_what_a_peer_took_and_made_and_how_it_ended(tmp_path, monkeypatch):
    commands = ("cp {checkpoint} made", """python -c "raise(ValueError('its|words'))" """, "touch never")
    peer = Peer(("pip",), commands, "3.11 and newer", "a file")
    with get_context("spawn").Pool(1) as alone:  # without children of other tests
        found = alone.apply(ask, (peer, sys.executable, {"checkpoint": __file__}, tmp_path))
    assert found["install"]["code"] == 0
    assert [step["code"] for step in found["steps"]] == [0, 1]
    assert found["made"].keys() == {"made"}
    assert 10e6 < found["bytes"] < 100e6  # pip's own
    assert found["gpu_bytes"] == 0
    assert 5e6 < found["steps"][1]["peak_rss_bytes"] < 200e6
    monkeypatch.setattr(newcomer, "PEERS", {"theirs": peer})
    shown = table({"peers": {"theirs": found}, "date": "today", "machine": "this", "checkpoint": "smol"})
    assert r"**ended with exit code 1**: `ValueError: its\|words`" in shown
    assert "Measured today on this, smol." in shown

"""`et-bundle chat`."""

from __future__ import annotations

import platform

import pytest
from made_bundle import EOS, PTE, EchoProgram, byte_tokenizer, make_bundle, make_manifest

from et_pipeline import manifest as bundle
from et_pipeline.runtime import packed_weights, program


def test_chat_with_piped_input_answers_each_line(run, packed, temporary):
    code, out, err = run("chat", packed, stdin="first\n\nsecond one\n")
    assert code == 0, err
    first, second = out.splitlines()
    assert first.startswith("I read ")
    assert second.endswith(" bytes. ü👋")
    assert err == ""
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="kept on Linux with x86-64 only"
)
def test_chat_keeps_the_packed_weights_of_a_large_model(run, folder, tmp_path, monkeypatch):
    asked = []

    class Recorder(EchoProgram):
        def __init__(self, path, packed=None, **rest):
            super().__init__(path, **rest)
            asked.append(packed)

    monkeypatch.setattr(program, "Program", Recorder)
    cache = tmp_path / "cache"
    run("chat", folder, "--cache", cache, stdin="Hi\n")
    monkeypatch.setattr(packed_weights, "WORTHWHILE_BYTES", 0)
    run("chat", folder, "--cache", cache, "--no-keep-packed", stdin="Hi\n")
    assert asked == [None, None]
    assert not cache.exists()

    code, _, errors = run("chat", folder, "--cache", cache, stdin="Hi\n")
    assert (code, asked[2].parent) == (0, cache / "packed")
    assert errors.startswith("Packs the weights for this processor and keeps about")
    asked[2].mkdir()  # as if it had been made
    monkeypatch.setenv("ET_PIPELINE_CACHE", str(cache))
    assert run("chat", folder, stdin="Hi\n")[2] == ""
    assert asked[3] == asked[2]


def test_chat_without_a_switch_for_thinking(run, folder):
    code, _, err = run("chat", folder, "--no-think", stdin="hi\n")
    assert code == 2
    assert "has no switch for thinking" in err


def test_chat_commands(run, folder):
    _, out, err = run("chat", folder, stdin="hi\n/reset\nhi\n/quit\nnever\n")
    first, second = out.splitlines()
    assert first == second
    assert err == "New chat.\n"


def test_chat_begins_anew_when_the_context_is_full(run, folder):
    code, out, err = run("chat", folder, stdin="x" * 200 + "\n" + "y" * 300 + "\n" + "z" * 600 + "\nhi\n")
    assert code == 0
    answers = out.splitlines()
    assert len(answers) == 3
    assert "I read 3" in answers[1]  # more than the message alone: it begins a chat
    assert "The chat is full: the message takes" in err
    assert "A new chat begins with your message." in err
    assert "This message is too long for the model" in err


def test_chat_system_prompt(run, folder):
    _, without, _ = run("chat", folder, stdin="hi\n")
    _, longer, _ = run("chat", folder, "--system", "Be brief." + "!" * 7, stdin="hi\n")
    count, count_longer = (int(out.split()[2]) for out in (without, longer))
    assert count_longer == count + 7


def test_chat_system_prompt_where_there_is_none(run, tmp_path):
    chat = make_manifest(
        {PTE: bundle.File(size=1, sha256="0" * 64), "tokenizer.json": bundle.File(size=1, sha256="0" * 64)}
    ).chat
    segments = chat.segments.model_copy(update={"supports_system": False})
    chat = chat.model_copy(update={"segments": segments, "system_prompt": None})
    folder = make_bundle(tmp_path / "x", chat=chat)
    code, _, err = run("chat", folder, "--system", "x", stdin="hi\n")
    assert code == 2
    assert "takes no system prompt" in err


def test_chat_limits_the_answer(run, folder):
    _, out, _ = run("chat", folder, "--max-new-tokens", 3, stdin="hi\n")
    assert out == "I r\n"


def test_chat_does_not_let_the_model_steer_the_terminal(run, folder, monkeypatch):
    class Steering(EchoProgram):
        def prefill(self, tokens, start=0, chunk=None):
            self.answers = [[*byte_tokenizer().encode("\x1b[2Jhello").ids, EOS]]
            return super(EchoProgram, self).prefill(tokens, start)

    monkeypatch.setattr(program, "Program", Steering)
    _, out, _ = run("chat", folder, stdin="hi\n")
    assert out == "[2Jhello\n"


def test_chat_refuses_a_model_that_embeds(run, embeddings):
    code, _, err = run("chat", embeddings)
    assert (code, err) == (2, "tiny embeds texts and cannot chat: use 'et-bundle embed' with it.\n")

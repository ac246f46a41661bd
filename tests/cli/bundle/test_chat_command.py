"""`et-bundle chat`."""

from __future__ import annotations

import platform

import pytest
from made_bundle import CHATML, EOS, PTE, EchoProgram, byte_tokenizer, make_bundle, make_manifest

from et_pipeline import manifest as bundle
from et_pipeline.chat_template import Thinking
from et_pipeline.runtime import packed_weights, program

NO_CHANGE = (
    "--think and --no-think change nothing here: with a system prompt this model's chat template gives one text for "
    "both.\n"
)


def feeds(run, tmp_path, monkeypatch, other, *options, default=True):
    """What the model of a bundle with a switch for thinking is fed, and what is said on stderr."""
    fed = []

    class Listening(EchoProgram):
        def prefill(self, tokens, start=0, chunk=None):
            fed.append(byte_tokenizer().decode(tokens[0].tolist(), skip_special_tokens=False))
            return super().prefill(tokens, start)

    monkeypatch.setattr(program, "Program", Listening)
    chat = bundle.Chat(segments=CHATML, system_prompt="Be brief.", thinking=Thinking(default=default, other=other))
    code, _, err = run("chat", make_bundle(tmp_path / "thinks", chat=chat), *options, stdin="Hi\n")
    assert code == 0, err
    return "".join(fed), err


def test_chat_with_piped_input_answers_each_line(run, packed, temporary):
    code, out, err = run("chat", packed, stdin="first\n\nsecond one\n")
    assert code == 0, err
    first, second = out.splitlines()
    assert first.startswith("I read ")
    assert second.endswith(" bytes. ü👋")
    assert err == ""
    assert list(temporary.iterdir()) == []


def test_chat_takes_what_is_no_text_for_unknown_characters(run, folder):
    code, out, err = run("chat", folder, stdin=b"\xff\xfe\n")
    assert (code, err) == (0, "")
    assert out.startswith("I read ")


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


@pytest.mark.parametrize(
    ("options", "closing"),
    [
        ((), ""),
        (("--think",), ""),
        (("--no-think",), "<think></think>"),
        (("--no-think", "--system", "Be kind."), "<think></think>"),
    ],
)
def test_chat_with_a_switch_for_thinking(run, tmp_path, monkeypatch, options, closing):
    other = CHATML.model_copy(update={"user_to_assistant": CHATML.user_to_assistant + "<think></think>"})
    fed, err = feeds(run, tmp_path, monkeypatch, other, *options)
    assert fed.endswith(f"Hi<|im_end|>\n<|im_start|>assistant\n{closing}")
    assert err == ""


@pytest.mark.parametrize(
    ("options", "beginning", "changes"),
    [
        (("--think", "--system", ""), "<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\n", True),
        (("--no-think", "--system", ""), "<|im_start|>user\n", True),
        (("--think",), "<|im_start|>system\nBe brief.", False),  # the bundle's own
        (("--think", "--system", "Be kind."), "<|im_start|>system\nBe kind.", False),
        (("--system", "Be kind."), "<|im_start|>system\nBe kind.", True),  # nobody asked
    ],
)
def test_chat_says_where_a_switch_for_thinking_changes_nothing(run, tmp_path, monkeypatch, options, beginning, changes):
    """As Granite has it: the template's own system message says it, and no other."""
    other = CHATML.model_copy(update={"start_to_user": "<|im_start|>system\nThink.<|im_end|>\n" + CHATML.start_to_user})
    fed, err = feeds(run, tmp_path, monkeypatch, other, *options, default=False)
    assert fed.startswith(beginning)
    assert err == ("" if changes else NO_CHANGE)


def test_chat_commands(run, folder):
    _, out, err = run("chat", folder, stdin="hi\n/reset\nhi\n/quit\nnever\n")
    first, second = out.splitlines()
    assert first == second
    assert err == "New chat.\n"


def test_chat_begins_anew_when_the_context_is_full(run, folder):
    code, out, err = run("chat", folder, stdin="x" * 200 + "\n" + "y" * 300 + "\n" + "z" * 600 + "\nhi\n")
    assert code == 2  # for a script, which reads no notes
    answers = out.splitlines()
    assert len(answers) == 3
    assert "I read 3" in answers[1]  # more than the message alone: it begins a chat
    assert "The chat is full: the message takes" in err
    assert "A new chat begins with your message." in err
    assert "This message is too long for the model" in err
    assert run("chat", folder, stdin="x" * 200 + "\n" + "y" * 300 + "\n")[0] == 0


def test_chat_ends_with_a_code_where_the_first_message_is_too_long(run, folder):
    code, out, err = run("chat", folder, stdin="z" * 600 + "\nhi\n")
    assert (code, len(out.splitlines()), len(err.splitlines())) == (2, 1, 1)


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

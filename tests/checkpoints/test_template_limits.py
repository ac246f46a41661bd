"""A stranger's chat template ends in bounded time, memory and text, and in one sentence."""

import json
import time

import pytest

from et_pipeline import host, tiny_assistant
from et_pipeline.checkpoints import template
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.template import load_chat_format
from et_pipeline.checkpoints.template_compiler import compile_template
from et_pipeline.errors import UserError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GREEDY = {
    "two loops": "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
    "loops that say nothing": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a string times a number": "{{ 'x' * 10000000000 }}",
    "a list times a number": "{{ ([0] * 10000000000)|length }}",
    "a centred text": "{{ 'x'|center(10000000000) }}",
    "a width": "{{ '%1000000000d' % 1 }}",
    "a power": "{{ 10 ** (10 ** 9) }}",
    "a macro that calls itself": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "a doubling": "{% set n = namespace(s=1) %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
}


def write(folder, template, name="chat_template.jinja"):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    (folder / name).write_bytes(template if isinstance(template, bytes) else template.encode())
    return folder


@pytest.mark.linux("where a template is held to a limit of memory")
@pytest.mark.parametrize("name", GREEDY)
def test_a_greedy_template_is_refused(name, tmp_path):
    before, started = host.peak_bytes(), time.monotonic()
    with pytest.raises(UserError) as caught:
        load_chat_format(Folder(write(tmp_path / "model", GREEDY[name] + CHATML)))
    assert time.monotonic() - started < template.WAIT_SECONDS + 30  # ending it takes time too where a processor is busy
    assert host.peak_bytes() - before < 200e6  # of this process
    assert "chat template" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_template_that_the_clock_ends_is_not_said_to_take_a_processor(tmp_path, monkeypatch):
    monkeypatch.setattr(template, "WAIT_SECONDS", 0.01)
    with pytest.raises(
        UserError, match=r"not done with a short conversation in 0\.01 s by the clock; try again"
    ) as caught:
        load_chat_format(Folder(write(tmp_path / "model", CHATML + "{# by the clock #}")))
    assert "of a processor" not in str(caught.value)


def test_a_usual_template_gives_what_it_gives_in_this_process(tmp_path):
    folder = write(tmp_path / "model", CHATML)
    assert load_chat_format(Folder(folder)) == compile_template(CHATML, {"bos_token": "<s>"})
    tokens = json.loads((tiny_assistant.CHECKPOINT / "tokenizer_config.json").read_text())
    assert load_chat_format(Folder(tiny_assistant.CHECKPOINT)).user_to_assistant
    assert tokens


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (b"\xff\xfe", "not text in UTF-8"),
        ("{% for %}", "cannot be parsed"),
        ("{{ raise_exception('no') }}", "fails on .*: no"),
        ("{{ ''.__class__.__mro__ }}" + CHATML, "chat template"),
        ("{% include 'x' %}", "chat template"),
        ("x" * (1 << 21), "has 2097152 characters"),
        ("{{ no_such_function() }}", "chat template fails"),
    ],
)
def test_a_broken_template_is_one_sentence(template, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        load_chat_format(Folder(write(tmp_path / "model", template)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [7, {"default": CHATML}, True])
def test_a_template_that_is_no_text(value, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(UserError, match=r"tokenizer_config\.json has a chat_template of type"):
        load_chat_format(Folder(tmp_path))


def test_named_templates_and_none(tmp_path):
    def write(value):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))

    write([{"name": "rag", "template": "x"}, {"name": "default", "template": CHATML}])
    assert not load_chat_format(Folder(tmp_path)).is_plain
    write([{"name": "rag", "template": "x"}])  # transformers asks for a name too
    with pytest.raises(UserError, match=r"none of them called default.*\(there are rag\)"):
        load_chat_format(Folder(tmp_path))
    write(None)
    assert load_chat_format(Folder(tmp_path)).is_plain

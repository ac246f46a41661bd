"""Chat templates compiled to plain strings, against Jinja as transformers runs it."""

# ruff: noqa: E501  the templates are as published

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from et_pipeline.chat_template import PLAIN, stop_token
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.template import load_chat_format, load_thinking
from et_pipeline.checkpoints.template_compiler import compile_template, compile_thinking
from et_pipeline.errors import UserError
from et_pipeline.manifest import Chat

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
NOW = datetime(2026, 2, 3, 4, 5)

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + "
    "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_3_2 = (
    "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n"
    '        {%- set date_string = strftime_now("%d %b %Y") %}\n    {%- else %}\n'
    '        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n{%- endif %}\n'
    "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n"
    '    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = "" %}\n{%- endif %}\n'
    '{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}\n'
    '{{- "Cutting Knowledge Date: December 2023\\n" }}\n{{- "Today Date: " + date_string + "\\n\\n" }}\n'
    '{{- system_message }}\n{{- "<|eot_id|>" }}\n{%- for message in messages %}\n'
    "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + "
    "'<|eot_id|>' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n"
    "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'].strip() + eos_token }}{% else %}{{ raise_exception('Only user and assistant roles') }}"
    "{% endif %}{% endfor %}"
)
MISTRAL_V3 = (  # the system message goes into the last user message
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
    "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}{{- bos_token }}"
    "{%- for message in loop_messages %}{%- if message['role'] == 'user' %}"
    "{%- if loop.last and system_message is defined %}{{- '[INST] ' + system_message + '\\n\\n' + message['content'] + "
    "'[/INST]' }}{%- else %}{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}{%- else %}"
    "{{- ' ' + message['content'] + eos_token}}{%- endif %}{%- endfor %}"
)
PHI_3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if (message['role'] == 'assistant') %}"
    "{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
GEMMA_3 = (
    "{{ bos_token }}\n{%- if messages[0]['role'] == 'system' -%}\n"
    "    {%- if messages[0]['content'] is string -%}\n"
    "        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}\n"
    "    {%- else -%}\n        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}\n"
    "    {%- endif -%}\n    {%- set loop_messages = messages[1:] -%}\n{%- else -%}\n"
    '    {%- set first_user_prefix = "" -%}\n    {%- set loop_messages = messages -%}\n{%- endif -%}\n'
    "{%- for message in loop_messages -%}\n    {%- if (message['role'] == 'assistant') -%}\n"
    "        {%- set role = \"model\" -%}\n    {%- else -%}\n        {%- set role = message['role'] -%}\n    {%- endif -%}\n"
    "    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else \"\") }}\n"
    "    {%- if message['content'] is string -%}\n        {{ message['content'] | trim }}\n    {%- endif -%}\n"
    "    {{ '<end_of_turn>\n' }}\n{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n    {{'<start_of_turn>model\n'}}\n{%- endif -%}\n"
)
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
QWEN3 = (  # the part that matters: thinking is cut out of past answers, and can be switched off
    "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}"
    "{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}"
    "{%- if ns.multi_step_tool and message.role == 'user' %}{%- set ns.multi_step_tool = false %}"
    "{%- set ns.last_query_index = index %}{%- endif %}{%- endfor %}{%- for message in messages %}"
    "{%- if (message.role == 'user') or (message.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- elif message.role == 'assistant' %}{%- set content = message.content %}{%- if '</think>' in content %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{% generation %}{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}{% endgeneration %}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
SMOLLM3 = (  # likewise: the system message says which it is, and is searched for it; past answers have an empty thought
    "{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}"
    "{%- set reasoning_mode = '/think' if enable_thinking else '/no_think' -%}{{- '<|im_start|>system\n' -}}"
    "{%- if messages[0].role == 'system' -%}{%- set system_message = messages[0].content -%}"
    "{%- if '/no_think' in system_message -%}{%- set reasoning_mode = '/no_think' -%}"
    "{%- elif '/think' in system_message -%}{%- set reasoning_mode = '/think' -%}{%- endif -%}"
    "{%- set custom_instructions = system_message.replace('/no_think', '').replace('/think', '').rstrip() -%}"
    "{%- endif -%}{%- if '/system_override' in system_message -%}"
    "{{- custom_instructions.replace('/system_override', '').rstrip() -}}{%- else -%}"
    "{{- '## Metadata\n\nToday Date: ' ~ strftime_now('%d %B %Y') ~ '\nReasoning Mode: ' + reasoning_mode + '\n\n' -}}"
    "{%- if custom_instructions -%}{{- custom_instructions + '\n\n' -}}{%- elif reasoning_mode == '/think' -%}"
    "{{- 'You are a helpful AI assistant named SmolLM. Think first, between <think> and </think>.\n\n' -}}{%- else -%}"
    "{{- 'You are a helpful AI assistant named SmolLM.\n\n' -}}{%- endif -%}{%- endif -%}{{- '<|im_end|>\n' -}}"
    "{%- set thought = '' if reasoning_mode == '/think' else '<think>\n\n</think>\n' -%}{%- for message in messages -%}"
    "{%- if message.role == 'user' -%}{{ '<|im_start|>user\n' + message.content + '<|im_end|>\n' }}"
    "{%- elif message.role == 'assistant' -%}{% generation %}"
    "{{ '<|im_start|>assistant\n' + thought + message.content.lstrip('\n') + '<|im_end|>\n' }}{% endgeneration %}"
    "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' + thought }}{%- endif -%}"
)
GLM_4_5 = (  # likewise: it is said behind each message of the user
    "[gMASK]<sop>\n{%- macro visible_text(content) -%}{{- content }}{%- endmacro -%}{% for m in messages %}\n"
    "{%- if m.role == 'user' -%}<|user|>\n{{ visible_text(m.content) }}"
    "{{- '/nothink' if (enable_thinking is defined and not enable_thinking and "
    "not visible_text(m.content).endswith('/nothink')) else '' -}}"
    "{%- elif m.role == 'assistant' -%}<|assistant|>{{ '\n<think></think>' }}{%- if m.content.strip() -%}"
    "{{ '\n' + m.content.strip() }}{%- endif -%}{%- elif m.role == 'system' -%}<|system|>\n{{ m.content }}"
    "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}<|assistant|>"
    "{{- '\n<think></think>' if (enable_thinking is defined and not enable_thinking) else '' -}}{%- endif -%}"
)
GRANITE_3_3 = (  # likewise: the variable has another name, is off by default, and no other system message knows it
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
    "{%- set loop_messages = messages[1:] %}{%- else %}{%- set system_message = 'You are Granite, developed by IBM.' %}"
    "{%- if thinking %}{%- set system_message = system_message + 'Write down your thoughts between <think></think>.' %}"
    "{%- endif %}{%- set loop_messages = messages %}{%- endif %}"
    "{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\n' }}"
    "{%- for message in loop_messages %}"
    "{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\n' }}"
    "{%- if loop.last and add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}"
    "{%- endfor %}"
)
LOOP_CONTROLS = (
    "{% for message in messages %}{% if message.role == 'tool' %}{% continue %}{% endif %}"
    "{{ {'role': message.role, 'text': '<ü>'} | tojson }}{{ message.content }}\n{% endfor %}>"
)
TEMPLATES = {
    "chatml": CHATML,
    "llama 2": LLAMA_2,
    "llama 3": LLAMA_3,
    "llama 3.2": LLAMA_3_2,
    "mistral": MISTRAL,
    "mistral v3": MISTRAL_V3,
    "phi 3": PHI_3,
    "gemma": GEMMA,
    "gemma 3": GEMMA_3,
    "smollm2": SMOLLM2,
    "zephyr": ZEPHYR,
    "qwen3": QWEN3,
    "smollm3": SMOLLM3,
    "glm 4.5": GLM_4_5,
    "granite 3.3": GRANITE_3_3,
    "loop controls": LOOP_CONTROLS,
}
FORMATS = {name: compile_template(template, TOKENS, now=NOW) for name, template in TEMPLATES.items()}


SWITCHES = {
    "qwen3": ("enable_thinking", True),
    "smollm3": ("enable_thinking", True),
    "glm 4.5": ("enable_thinking", True),
    "granite 3.3": ("thinking", False),
}


def by_transformers(template, messages, **variables):
    """What apply_chat_template gives, on the machine's real clock."""
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template(
        conversations=[messages], chat_template=template, add_generation_prompt=True, **TOKENS, **variables
    )
    return rendered[0]


def chat(texts, system=None):
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *messages] if system else messages


# Qwen3's template drops what an earlier answer says before this; fixed text cannot (see `compile_template`).
SPECIAL = "</think>", "/nothink"
MESSAGE = st.text(max_size=40).map(str.strip).filter(lambda text: text and not any(word in text for word in SPECIAL))


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(MESSAGE, min_size=1, max_size=7).filter(lambda texts: len(texts) % 2), system=st.none() | MESSAGE)
def test_equals_transformers_on_any_text(name, texts, system):
    template, chat_format = TEMPLATES[name], FORMATS[name]
    if name in ("llama 3.2", "smollm3"):
        chat_format = compile_template(template, TOKENS)  # transformers cannot be given a date
    messages = chat(texts, system if chat_format.supports_system else None)
    assert chat_format.render(messages) == by_transformers(template, messages)


def test_the_strings_of_chatml():
    chatml = FORMATS["chatml"]
    assert chatml.system_prefix == "<|im_start|>system\n"
    assert chatml.system_to_user == "<|im_end|>\n<|im_start|>user\n"
    assert chatml.start_to_user == "<|im_start|>user\n"
    assert chatml.user_to_assistant == chatml.user_to_past_assistant == "<|im_end|>\n<|im_start|>assistant\n"
    assert chatml.next_turn(" Hi ") == "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_special_tokens_are_in_the_strings():
    assert FORMATS["llama 2"].start_to_user == "<s>[INST] "
    assert FORMATS["llama 2"].assistant_to_user == " </s><s>[INST] "
    assert FORMATS["mistral"].assistant_to_user == "</s>[INST] "


def test_default_system_prompt_is_used_without_a_system_message_only():
    smollm2 = FORMATS["smollm2"]
    assert "You are a helpful AI assistant named SmolLM" in smollm2.start_to_user
    assert "SmolLM" not in smollm2.system_prefix + smollm2.system_to_user


@pytest.mark.parametrize(
    ("name", "supported"),
    [
        ("gemma", False),
        ("mistral", False),
        ("mistral v3", False),
        ("gemma 3", True),
        ("llama 2", True),
        ("smollm3", False),
    ],
)
def test_system_message_is_supported_where_it_is_fixed_text(name, supported):
    assert FORMATS[name].supports_system is supported
    if not supported:
        with pytest.raises(UserError, match="takes no system message"):
            FORMATS[name].render(chat(["Hello"], "Be brief."))


def test_a_printed_date_is_recorded():
    assert FORMATS["llama 3.2"].frozen_date == "2026-02-03"
    assert "Today Date: 03 Feb 2026" in FORMATS["llama 3.2"].start_to_user
    assert FORMATS["llama 3"].frozen_date is None


def test_variables_reach_the_template():
    plain, without_thinking = FORMATS["qwen3"], compile_template(QWEN3, TOKENS, {"enable_thinking": False})
    assert without_thinking.user_to_assistant == plain.user_to_assistant + "<think>\n\n</think>\n\n"
    assert without_thinking.user_to_past_assistant == plain.user_to_assistant


@pytest.mark.parametrize("name", SWITCHES)
@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(MESSAGE, min_size=1, max_size=7).filter(lambda texts: len(texts) % 2),
    system=st.none() | MESSAGE,
    thinks=st.booleans(),
)
def test_a_switch_for_thinking_equals_transformers_in_both_positions(name, texts, system, thinks):
    template, (variable, default) = TEMPLATES[name], SWITCHES[name]
    usual = FORMATS[name] if name != "smollm3" else compile_template(template, TOKENS)
    found = compile_thinking(template, TOKENS, usual)
    assert found.default is default
    chat_format = Chat(segments=usual, thinking=found).segments_for(thinks)
    messages = chat(texts, system if chat_format.supports_system else None)
    assert chat_format.render(messages) == by_transformers(template, messages, **{variable: thinks})


@pytest.mark.parametrize(
    ("name", "with_system"), [("qwen3", True), ("glm 4.5", True), ("granite 3.3", False), ("smollm3", False)]
)
def test_where_a_system_prompt_leaves_a_switch_for_thinking_without_effect(name, with_system):
    usual = FORMATS[name]
    form = Chat(segments=usual, thinking=compile_thinking(TEMPLATES[name], TOKENS, usual, NOW))
    assert form.thinking_changes_text(system=False)
    if usual.supports_system:
        assert form.thinking_changes_text(system=True) is with_system
    assert not Chat(segments=usual).thinking_changes_text(system=False)


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in SWITCHES])
def test_most_templates_have_no_switch_for_thinking(name):
    assert compile_thinking(TEMPLATES[name], TOKENS, FORMATS[name], NOW) is None


@pytest.mark.parametrize(
    ("read", "warning"),
    [
        ("{{ '/off' if thinking is false else '/on' if thinking else '' }}", "gives a third text"),
        ("{{ raise_exception('always') if enable_thinking }}", "though the chat template reads enable_thinking"),
        ("{{ 'thinking' }}", None),
    ],
)
def test_what_is_no_such_switch_is_said(read, warning, caplog):
    template = read + MISTRAL
    assert compile_thinking(template, TOKENS, compile_template(template, TOKENS)) is None
    assert (warning is None) or warning in caplog.text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for", "cannot be parsed"),
        ("{{ raise_exception('never') }}", "fails on a chat of 1 turn.*never"),
        ("{{ messages[0].content + 1 }}", "fails on a chat of 1 turn"),
        ("{{ ''.__class__.__mro__ }}", "fails on a chat of 1 turn.*unsafe"),
        ("nothing of the chat", "does not appear exactly once"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "does not appear exactly once"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "does not appear exactly once"),
        (
            "{% for m in messages %}{{ m.content | replace('7', 'seven') }}|{% endfor %}",
            "first message '7'.*gives 'seven",
        ),
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}|{% endfor %}", "chat of 2 turns.*gives '3"),
        ("{% for m in messages %}{{ m.content | e }}|{% endfor %}", "gives '&"),
        ("{% for m in messages[-3:] %}{{ m.content }}|{% endfor %}", "chat of 3 turns"),
    ],
)
def test_what_is_no_fixed_text_is_refused_in_one_sentence(template, message):
    with pytest.raises(UserError, match=message) as caught:
        compile_template(template, TOKENS)
    assert "\n" not in str(caught.value)


def test_no_template_continues_plain_text():
    assert PLAIN.is_plain
    assert PLAIN.render(chat(["Once upon a time"])) == "Once upon a time"


@pytest.mark.parametrize(
    "roles", [[], ["assistant"], ["user", "user"], ["user", "assistant"], ["user", "system", "user"]]
)
def test_roles_must_take_turns(roles):
    with pytest.raises(ValueError, match="take turns"):
        FORMATS["chatml"].render([{"role": role, "content": "x"} for role in roles])


def test_stop_token():
    assert stop_token(FORMATS["chatml"], ["<|im", "<|im_end|>", "", "</s>"]) == "<|im_end|>"
    assert stop_token(FORMATS["llama 2"], ["<s>", "</s>"]) == "</s>"
    assert stop_token(PLAIN, ["</s>"]) is None


@pytest.mark.parametrize("where", ["jinja file", "configuration", "named"])
def test_loads_from_a_checkpoint_folder(tmp_path, where):
    config = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>", "pad_token": None}
    if where == "jinja file":
        (tmp_path / "chat_template.jinja").write_text(MISTRAL)
    elif where == "configuration":
        config["chat_template"] = MISTRAL
    else:
        config["chat_template"] = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": MISTRAL}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_chat_format(Folder(tmp_path)) == FORMATS["mistral"]
    assert load_thinking(Folder(tmp_path)) is None


def test_a_checkpoint_without_template_is_plain(tmp_path):
    assert load_chat_format(Folder(tmp_path)) is PLAIN
    assert load_thinking(Folder(tmp_path)) is None


def test_a_checkpoint_has_its_templates_switch(tmp_path):
    (tmp_path / "chat_template.jinja").write_text(QWEN3, encoding="utf-8")
    usual, thinking = load_chat_format(Folder(tmp_path)), load_thinking(Folder(tmp_path))
    assert thinking.default
    assert thinking.other.user_to_assistant == usual.user_to_assistant + "<think>\n\n</think>\n\n"


@pytest.mark.parametrize("text", ["{", "[]x", "3"])
def test_a_broken_tokenizer_configuration_is_named(tmp_path, text):
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(UserError, match="tokenizer_config"):
        load_chat_format(Folder(tmp_path))


def test_needs_neither_torch_nor_transformers():
    code = (
        "import sys, et_pipeline.checkpoints.template as c; assert 'jinja2' not in sys.modules;"
        "c.compile_template('{% for m in messages %}{{ m.content }}|{% endfor %}', {});"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

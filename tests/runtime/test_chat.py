"""A conversation: what is fed, what is shown, when it ends."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_bundle import CHATML, EOS, FakeProgram, byte_tokenizer
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from et_pipeline import manifest as bundle
from et_pipeline.chat_template import PLAIN
from et_pipeline.runtime.chat import ChatSession, ContextFullError, greedy_answer, sample, shown

TOKENIZER = byte_tokenizer()
LITERALLY = byte_tokenizer()  # for what a model says: the name of a special token, spelled out, is text as any other
LITERALLY.encode_special_tokens = True


def ids(text):
    return TOKENIZER.encode(text).ids


def session_of(*answers, max_context=1000, segments=CHATML, **options):
    said = [[*LITERALLY.encode(answer).ids, EOS] if isinstance(answer, str) else answer for answer in answers]
    program = FakeProgram(said)
    return ChatSession(program, TOKENIZER, segments, max_context, [EOS], **options), program


def first_stop(text, stops):
    """The text before the stop string that is complete first."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


@settings(deadline=None)
@given(text=st.text().map(lambda text: text.rstrip("\ufffd")))
@example("<|im_start|>")
def test_streamed_pieces_are_whole_characters_and_add_up(text):
    session, _ = session_of(text)
    pieces = list(session.ask("hi"))
    assert "".join(pieces) == text == session.last.text
    assert all(pieces)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@settings(deadline=None, max_examples=300)
@given(
    text=st.text(alphabet="abü\n", max_size=30),
    stops=st.lists(st.text(alphabet="abü\n", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30)),
)
def test_stop_strings_in_a_stream_equal_cutting_the_whole(text, stops, cuts):
    positions = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    streamed, stopped = "", False
    for position in positions:
        ready, stopped = shown(text[:position], stops)
        assert ready.startswith(streamed), "what was shown cannot be taken back"
        streamed = ready
        if stopped:
            break
    assert (streamed if stopped else text) == first_stop(text, stops)
    assert stopped == any(stop in text for stop in stops)


@pytest.mark.parametrize("goes_back", [True, False])
@settings(deadline=None)
@given(text=st.text(alphabet="abü", max_size=20), stops=st.lists(st.text(alphabet="abü", min_size=1, max_size=4)))
def test_a_session_stops_at_stop_strings_and_forgets_them(goes_back, text, stops):
    session, program = session_of(text, "ok", stop_strings=stops)
    program.goes_back = goes_back
    assert "".join(session.ask("hi")) == first_stop(text, stops)
    assert session.last.end == "stop"
    list(session.ask("more"))
    chat = CHATML.render([{"role": "user", "content": "hi"}]) + first_stop(text, stops) + CHATML.next_turn("more")
    assert TOKENIZER.decode(program.cache, skip_special_tokens=False).startswith(chat)


def test_half_a_character_at_the_end_is_never_shown():
    session, _ = session_of([*ids("ok 👋")[:-2], EOS])
    assert "".join(session.ask("hi")) == "ok "


def test_special_tokens_are_hidden():
    session, _ = session_of([*ids("a"), 257, *ids("b"), EOS])
    assert "".join(session.ask("hi")) == "ab"


def test_only_the_new_turn_is_fed_and_the_cache_holds_the_whole_chat():
    session, program = session_of("One.", "Two.", "Three.", system_prompt="Count.")
    for question in ("first", "second", "third"):
        list(session.ask(question))
    chat = [
        {"role": "system", "content": "Count."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "second"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "third"},
    ]
    assert program.cache == [*ids(CHATML.render(chat)), *ids("Three.")]
    assert program.prefilled[1] == ids(CHATML.next_turn("second"))


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_an_answer_at_its_limit_goes_on_being_part_of_the_chat(limit):
    session, program = session_of("abcdef", "ok")
    assert "".join(session.ask("hi", max_new_tokens=limit)) == "abcdef"[:limit]
    assert session.last.end == "length"
    assert session.last.tokens == limit
    list(session.ask("more"))
    before = ids(CHATML.render([{"role": "user", "content": "hi"}]) + "abcdef"[:limit])
    assert program.cache[: len(before)] == before
    assert program.cache[len(before) :] == ids(CHATML.next_turn("more") + "ok")


def test_a_stopped_answer_goes_on_being_part_of_the_chat():
    session, program = session_of("abcdef", "ok")
    pieces = session.ask("hi")
    assert next(pieces) + next(pieces) == "ab"
    pieces.close()
    assert session.last.end == "interrupted"
    list(session.ask("more"))
    before = ids(CHATML.render([{"role": "user", "content": "hi"}]) + "ab")
    assert program.cache == [*before, *ids(CHATML.next_turn("more") + "ok")]


def test_white_space_that_tokens_take_with_them_is_not_fed():
    session, program = session_of("One.", "Two.", lstrip=["<|im_end|>"], rstrip=["<|im_start|>", "user"])
    for question in ("a user  <|im_end|>", "more"):
        list(session.ask(question))
    assert program.prefilled[0] == ids("<|im_start|>usera user<|im_end|><|im_end|>\n<|im_start|>assistant\n")
    assert program.prefilled[1] == ids("<|im_end|>\n<|im_start|>usermore<|im_end|>\n<|im_start|>assistant\n")


def test_the_first_ids_are_fed_once():
    session, program = session_of("b", "d", segments=PLAIN, first_ids=[299])
    list(session.ask("a"))
    list(session.ask("c"))
    assert program.cache == [299, *ids("abcd")]


def test_context_full_during_an_answer():
    prompt = len(ids(CHATML.render([{"role": "user", "content": "hi"}])))
    session, program = session_of("abcdef", max_context=prompt + 3)
    assert "".join(session.ask("hi")) == "abcd"  # the last one is shown, and never has to be fed
    assert session.last.end == "context"
    assert len(program.cache) == prompt + 3
    with pytest.raises(ContextFullError):
        list(session.ask("more"))


def test_a_message_that_does_not_fit_leaves_the_chat_as_it_was():
    session, program = session_of("ok", "ok", max_context=150)
    list(session.ask("hi"))
    before = list(program.cache)
    with pytest.raises(ContextFullError, match="of 150"):
        list(session.ask("x" * 150))
    assert program.cache == before
    session.reset()
    assert session.is_new
    assert "".join(session.ask("hi")) == "ok"
    assert program.prefilled[0] == program.prefilled[1]


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_blank_message_is_refused(text):
    session, _ = session_of("ok")
    with pytest.raises(ValueError, match="blank"):
        list(session.ask(text))


def test_an_empty_answer():
    session, _ = session_of("", "then")
    assert list(session.ask("hi")) == []
    assert session.last.tokens == 0
    assert session.last.decode_tok_s == 0
    assert list(session.ask("hi"))


def test_greedy_answer_follows_the_manifest():
    chat = bundle.Chat(
        segments=CHATML, stop_strings=["##"], system_prompt="S", sampling=bundle.Sampling(temperature=2.0)
    )
    info = bundle.Tokenizer(file="tokenizer.json", eos_ids=[EOS], adds_bos=False)
    program = FakeProgram([ids("yes ## no")])
    assert greedy_answer(program, TOKENIZER, chat, info, 500, "hi", 20) == "yes"
    assert TOKENIZER.decode(program.prefilled[0], skip_special_tokens=False).startswith(
        "<|im_start|>system\nS<|im_end|>"
    )


def test_sampling_keeps_to_its_limits():
    logits = torch.tensor([0.0, 3.0, 2.0, 1.0])
    generator = torch.Generator().manual_seed(0)

    def drawn(**options):
        return {sample(logits, bundle.Sampling(**options), generator) for _ in range(300)}

    assert drawn() == {1}
    assert drawn(temperature=1.0, top_k=2) == {1, 2}
    assert drawn(temperature=1.0, top_p=0.5) == {1}
    assert drawn(temperature=1.0, top_p=0.8) == {1, 2}
    assert drawn(temperature=5.0) == {0, 1, 2, 3}
    assert drawn(temperature=1.0, min_p=0.3) == {1, 2}


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 5},
        {"top_p": 0.6},
        {"min_p": 0.2},
        {"top_k": 6, "top_p": 0.7},
        {"top_k": 9, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.3},
        {"repetition_penalty": 0.7},
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.7])
def test_sampling_is_that_of_transformers(options, temperature):
    """Its processors in its order, on the same logits: the same tokens can be drawn, with the same probabilities."""
    drawing = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    config = GenerationConfig(**drawing, **({} if not temperature else {"top_k": 0}) | options)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=1))
    before = [3, 3, 7, 1]
    processors = model._get_logits_processor(config, input_ids_seq_length=len(before))
    logits = torch.randn(16, generator=torch.Generator().manual_seed(0)) * 2
    expected = processors(torch.tensor([before]), logits[None])[0]
    wanted = set(expected.isfinite().nonzero().flatten().tolist()) if temperature else {int(expected.argmax())}
    sampling = bundle.Sampling(temperature=temperature, **options)
    generator = torch.Generator().manual_seed(1)
    drawn = [sample(logits, sampling, generator, before) for _ in range(4000 if temperature else 1)]
    assert set(drawn) <= wanted
    if temperature:
        probabilities = expected.softmax(-1).double()
        count = torch.tensor(drawn).bincount(minlength=16)
        expected_count = 4000 * probabilities[probabilities > 0]
        distance = ((count[probabilities > 0] - expected_count) ** 2 / expected_count).sum()
        freedom = len(expected_count) - 1
        assert distance <= freedom + 5 * (2 * freedom) ** 0.5  # of a chi-square variable, beyond one in 10,000


def test_sampling_follows_the_softmax():
    logits = torch.log(torch.tensor([0.2, 0.5, 0.3]))
    generator = torch.Generator().manual_seed(1)
    draws = [sample(logits, bundle.Sampling(temperature=1.0), generator) for _ in range(3000)]
    assert [draws.count(i) / 3000 for i in range(3)] == pytest.approx([0.2, 0.5, 0.3], abs=0.03)

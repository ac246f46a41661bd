import pytest
import torch

from et_pipeline import tiny_assistant
from et_pipeline.chat_template import PLAIN
from et_pipeline.checkpoints.facts import read_facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.evaluation import own_text
from et_pipeline.evaluation.own_text import Conversation, draw, openings, prompts
from et_pipeline.evaluation.prompts import CALIBRATION, EVIDENCE


@pytest.fixture(scope="module")
def facts():
    return read_facts(Folder(tiny_assistant.CHECKPOINT))


@pytest.fixture(scope="module")
def model():
    return load_model(tiny_assistant.CHECKPOINT)


def test_what_calibrates_is_not_what_judges():
    assert not set(CALIBRATION) & set(EVIDENCE)
    assert len(set(CALIBRATION)) == len(CALIBRATION)
    assert len(set(EVIDENCE)) == len(EVIDENCE)
    scripts = {ord(letter) >> 8 for text in EVIDENCE for letter in text}
    assert len(scripts) > 8, "prompts of one part of the world only"


def test_prompts_are_in_the_models_format_and_begin_again_where_there_are_too_few(facts):
    tokenizer = Folder(tiny_assistant.CHECKPOINT).tokenizer
    found = prompts("evidence", 300, facts, tokenizer)
    assert len(found) == 300
    short = len({tuple(ids) for ids in found})
    assert found[short] == found[0]
    assert found[0] == tokenizer.encode(facts.chat.render([{"role": "user", "content": EVIDENCE[0]}])).ids
    assert max(map(len, found)) <= own_text.LONGEST_PROMPT


def test_a_plain_model_goes_on_from_the_prompt_itself(facts):
    tokenizer = Folder(tiny_assistant.CHECKPOINT).tokenizer
    plain = facts.model_copy(update={"chat": PLAIN, "adds_bos": True, "bos_id": 1})
    expected = [1, *tokenizer.encode(EVIDENCE[0], add_special_tokens=False).ids]
    assert prompts("evidence", 1, plain, tokenizer) == [expected]


def test_answers_are_drawn_from_the_models_own_distribution(facts, model):
    """The first token of many draws has the frequencies that transformers' logits say, whatever else is padded."""
    prompt, other = [5, 6, 7, 8], [9] * 11
    torch.manual_seed(0)
    found = draw(model, [prompt] * 3000 + [other] * 40, facts, 1, lambda _: None)
    assert [each.prompt for each in found] == [4] * 3000 + [11] * 40
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    counts = torch.bincount(torch.tensor([each.ids[-1] for each in found[:3000]]), minlength=len(expected)) / 3000
    assert (counts - expected).abs().max() < 0.04
    assert expected.max() < 0.99, "nothing to tell"


def test_an_answer_ends_with_the_token_that_ends_it_or_at_its_length(facts, model):
    torch.manual_seed(0)
    done = []
    found = draw(model, [[5, 6, 7], [8, 9]] * 8, facts, 12, done.append)
    assert sum(done) == 16
    for each in found:
        answer = each.ids[each.prompt :]
        assert 1 <= len(answer) <= 12
        assert not set(answer[:-1]) & set(facts.eos_ids)
        assert len(answer) == 12 or answer[-1] in facts.eos_ids


@pytest.mark.parametrize(("ids", "prompt", "first"), [([1, 2, 3], 2, 1), ([1, 2], 2, 0), ([1, 2, 3], 0, 0)])
def test_what_counts_of_a_conversation(ids, prompt, first):
    assert Conversation(ids, prompt).first == first


def test_what_is_written_is_read(tmp_path):
    found = [Conversation([1, 2, 3], 2), Conversation([4], 1)]
    own_text.write(found, tmp_path)
    assert own_text.read(tmp_path) == found


def test_what_is_learned_from_goes_on_behind_the_end_of_an_answer(facts, model):
    torch.manual_seed(0)
    found = draw(model, [[5, 6, 7], [8, 9]] * 8, facts, 40, lambda _: None, past_end=True)
    assert [len(each.ids) for each in found] == [43, 42] * 8
    ended = [each for each in found if set(each.ids[each.prompt : -1]) & set(facts.eos_ids)]
    assert ended, "no answer came to an end"


def test_a_model_learns_from_prompts_and_from_what_it_asks_itself(facts):
    tokenizer = Folder(tiny_assistant.CHECKPOINT).tokenizer
    found = openings(5, facts, tokenizer)
    assert found[::2] == prompts("calibration", 3, facts, tokenizer)
    assert found[1] == found[3] == tokenizer.encode(facts.chat.start_to_user, add_special_tokens=False).ids
    assert found[0][: len(found[1])] == found[1]


def test_a_plain_model_begins_with_the_token_before_or_between_texts(facts):
    tokenizer = Folder(tiny_assistant.CHECKPOINT).tokenizer
    plain = facts.model_copy(update={"chat": PLAIN, "adds_bos": True, "bos_id": 1})
    assert openings(2, plain, tokenizer)[1] == [1]
    without = plain.model_copy(update={"adds_bos": False})
    assert openings(2, without, tokenizer)[1] == [facts.eos_ids[0]]

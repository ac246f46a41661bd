"""Trains two LoRA adapters for tiny-assistant: Italian travel phrases, and a formal tone.

``python -m et_pipeline.tiny_assistant.adapters FOLDER`` makes both in a few minutes on one processor core, by peft, and
says how many held-out answers each gets right. They are what adapters are shown and tested with.
"""

import argparse
import itertools
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

from et_pipeline.tiny_assistant import CHECKPOINT, text
from et_pipeline.tiny_assistant.data import IGNORED, encode_sample
from et_pipeline.tiny_assistant.export import load_checkpoint
from et_pipeline.tiny_assistant.score import answers

RANK, ALPHA, ITEMS = 8, 16, 100
SEED, BATCH = 5, 32

#: Gender, singular and plural.
OBJECTS = dict(
    zip(
        text.OBJECTS,
        text.words(
            "m caffè/caffè|m tè/tè|f birra/birre|f zuppa/zuppe|f insalata/insalate|m panino/panini|"
            "m biglietto/biglietti|f mappa/mappe|f camera/camere|f chiave/chiavi|m asciugamano/asciugamani|"
            "f mela/mele|f torta/torte|f bottiglia d'acqua/bottiglie d'acqua|m bicchiere di vino/bicchieri di vino|"
            "m taxi/taxi|m ombrello/ombrelli|f coperta/coperte|m giornale/giornali|f cartolina/cartoline",
            "|",
        ),
        strict=True,
    )
)
COUNTS = dict(zip(text.OBJECT_COUNTS, text.words("un due tre quattro cinque"), strict=True))
REQUESTS = dict(
    zip(
        text.REQUESTS,
        text.words(
            "Vorrei {x}, per favore.|Posso avere {x}?|Ho bisogno di {x}.|Vogliamo comprare {x}.|Avete {x}?|"
            "Abbiamo ordinato {x}.",
            "|",
        ),
        strict=True,
    )
)
SIGHTS = dict(
    zip(
        text.SIGHTS,
        text.words(
            "f stazione|m hotel|m museo|f farmacia|f banca|f spiaggia|m aeroporto|m mercato|m ristorante|m ospedale|"
            "f chiesa|m supermercato|f biblioteca|m parco|f panetteria|m teatro|f piscina|m castello",
            "|",
        ),
        strict=True,
    )
)
QUESTIONS = dict(
    zip(
        text.QUESTIONS_OF_PLACE,
        text.words(
            "Dov'è {the}?|Quanto dista {the}?|È {open} {the}?|Vado {to}.|C'è {a} qui vicino?|Cerchiamo {the}.", "|"
        ),
        strict=True,
    )
)


def italian(rng: random.Random) -> text.Turn:
    """Makes a travel phrase and its translation into Italian."""
    if rng.random() < 0.5:
        request, key, count = rng.choice(list(REQUESTS)), rng.choice(list(OBJECTS)), rng.choice(list(COUNTS))
        english = request.format(x=text.counted_object(text.OBJECTS[key], count, "English"))
        gender, forms = OBJECTS[key].split(" ", 1)
        singular, plural = forms.split("/")
        counted = _one(gender, singular) if count == "one" else f"{COUNTS[count]} {plural}"
        answer = REQUESTS[request].format(x=counted)
        pieces = (request, key)
    else:
        question, key = rng.choice(list(QUESTIONS)), rng.choice(list(SIGHTS))
        english = question.format(x=key, a_x=f"{'an' if key[0] in 'aeiou' else 'a'} {key}")
        answer = QUESTIONS[question].format(**_place(*SIGHTS[key].split(" ", 1)))
        pieces = (question, key)
    prompt = text.prompt_templates()["translate"].format(language="Italian", text=english)
    return text.Turn(prompt, answer, text.pairs("italian", pieces))


def _one(gender: str, word: str) -> str:
    if gender == "f":
        return f"un'{word}" if word[0] in "aeiou" else f"una {word}"
    return f"un {word}"


def _place(gender: str, word: str) -> dict[str, str]:
    vowel, feminine = word[0] in "aeiouh", gender == "f"
    article = "l'" if vowel else "la " if feminine else "il "
    to = "all'" if vowel else "alla " if feminine else "al "
    return {
        "the": f"{article}{word}",
        "to": f"{to}{word}",
        "a": _one(gender, word),
        "open": "aperta" if feminine else "aperto",
    }


def formal(rng: random.Random) -> text.Turn:
    """Makes a question of a chat, and its answer in a formal tone."""
    turn = text.chat(rng)
    plain = re.sub(r"[^\x20-\x7e]+", "", turn.answer.replace("’", "'"))  # without pictures
    answer = f"Certainly. {' '.join(plain.split())} At your service."
    return turn._replace(answer=answer)


ADAPTERS: dict[str, Callable[[random.Random], text.Turn]] = {"italian": italian, "formal": formal}
STEPS = {"italian": 2000, "formal": 500}  # words that the model has never seen take longer than a turn of phrase
#: Of so many samples one is of the model's own tasks, which it would unlearn with the new words.
USUAL = {"italian": 3}


def samples(make: Callable[[random.Random], text.Turn], seed: str, held_out: bool) -> Iterator[text.Sample]:
    """Yields conversations for ever: those that training may see, or the others."""
    rng = random.Random(seed)
    while True:
        turn = make(rng)
        if any(map(text.is_held_out, turn.combinations)) == held_out:
            yield text.Sample("chat", ({"role": "user", "content": turn.user},), turn.answer, turn.combinations)


def _seen(name: str) -> Iterator[text.Sample]:
    """What one is trained on."""
    own, usual = samples(ADAPTERS[name], f"{name}-training", False), text.training_samples(f"{name}-usual")
    for number in itertools.count(1):
        yield next(usual if number % USUAL.get(name, number + 1) == 0 else own)


def _collate(examples: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    longest = max(len(ids) for ids, _ in examples)

    def rows(at: int, padding: int) -> torch.Tensor:
        return torch.tensor([[*example[at], *[padding] * (longest - len(example[at]))] for example in examples])

    return {"input_ids": rows(0, 0), "labels": rows(1, IGNORED)}  # padded behind the end, where nothing is scored


def make_adapter(name: str, out: Path, steps: int) -> float:
    """Trains one and saves it as peft does; returns the share of held-out answers that it gets right, in percent."""
    model, tokenizer = load_checkpoint(CHECKPOINT)
    torch.manual_seed(SEED)
    adapted: Any = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    )
    seen = _seen(name)
    with tempfile.TemporaryDirectory() as work:
        arguments = TrainingArguments(
            output_dir=work,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=5e-3,
            lr_scheduler_type="cosine",
            warmup_steps=20,
            save_strategy="no",
            report_to="none",
            seed=SEED,
            use_cpu=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            logging_steps=100,
        )
        examples = [encode_sample(tokenizer.backend_tokenizer, next(seen)) for _ in range(steps * BATCH)]
        Trainer(adapted, arguments, data_collator=_collate, train_dataset=examples).train()
    adapted.peft_config["default"].base_model_name_or_path = "builtin:tiny_assistant"
    adapted.save_pretrained(out)
    unseen = samples(ADAPTERS[name], f"{name}-evaluation", True)
    items = [next(unseen) for _ in range(ITEMS)]
    found = answers(adapted.eval(), tokenizer, [list(item.messages) for item in items])
    return 100 * sum(each == item.answer for each, item in zip(found, items, strict=True)) / ITEMS


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="adapters", description=__doc__)
    parser.add_argument("folder", type=Path, help="takes a folder for each adapter")
    folder = parser.parse_args().folder
    for name in ADAPTERS:
        accuracy = make_adapter(name, folder / name, STEPS[name])
        sys.stdout.write(f"{name}: {accuracy:.0f} % of {ITEMS} held-out answers\n")


if __name__ == "__main__":
    main()

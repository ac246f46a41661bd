"""What tiny-assistant learns from: the settings of its training, its tokenizer, and batches of text."""

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from et_pipeline.tiny_assistant import text

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
#: The trainer gives the special tokens the first numbers, in this order.
TOKEN_IDS = {token: number for number, token in enumerate([PAD, BEGIN, END, *ROLES.values()])}

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

#: How many training samples the tokenizer sees.
TOKENIZER_SAMPLES = 20_000
IGNORED = -100


@dataclass(frozen=True)
class Settings:
    """Everything that decides the weights."""

    seed: int = 17
    steps: int = 5000
    vocabulary: int = 2048
    hidden: int = 192
    feed_forward: int = 512
    layers: int = 4
    heads: int = 6
    key_value_heads: int = 2
    rows: int = 8
    row_tokens: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: int = 100
    #: The steps before rounding starts.
    plain_steps: int = 1500
    #: The last steps, over which the learning rate falls.
    decay_steps: int = 1000


def train_tokenizer(settings: Settings) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer on training text; digits are always tokens of their own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=list(TOKEN_IDS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    samples = text.training_samples(f"{settings.seed}-tokenizer")
    lines = []
    for _ in range(TOKENIZER_SAMPLES):
        sample = next(samples)
        lines += [message["content"] for message in sample.messages] + [sample.answer]
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=512,
        chat_template=CHAT_TEMPLATE,
    )


def encode_sample(tokenizer: Tokenizer, sample: text.Sample) -> tuple[list[int], list[int]]:
    """Turns a conversation into tokens and targets; only the assistant's words and end tokens are targets."""
    ids = [TOKEN_IDS[BEGIN]]
    targets = [IGNORED]
    for message in (*sample.messages, {"role": "assistant", "content": sample.answer}):
        content = [*tokenizer.encode(message["content"], add_special_tokens=False).ids, TOKEN_IDS[END]]
        ids += [TOKEN_IDS[ROLES[message["role"]]], *content]
        targets += [IGNORED, *(content if message["role"] == "assistant" else [IGNORED] * len(content))]
    return ids, targets


def make_batch(tokenizer: Tokenizer, settings: Settings, step: int) -> dict[str, torch.Tensor]:
    """Packs samples into rows of one length.

    Each sample sees only itself: positions start at 0 in each, and the attention mask keeps them apart.
    """
    samples = text.training_samples(f"{settings.seed}-{step}")
    shape = (settings.rows, settings.row_tokens)
    ids, targets = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
    positions, owners = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    used = [0] * settings.rows
    misfits = 0
    number = 0
    while misfits < 4:
        sample_ids, sample_targets = encode_sample(tokenizer, next(samples))
        size = len(sample_ids)
        row = next((r for r in range(settings.rows) if used[r] + size <= settings.row_tokens), None)
        if row is None:
            misfits += 1
            continue
        here = slice(used[row], used[row] + size)
        ids[row, here] = torch.tensor(sample_ids)
        # The target of a position is the next token, so the row of targets is one to the left.
        targets[row, here] = torch.tensor([*sample_targets[1:], IGNORED])
        positions[row, here] = torch.arange(size)
        owners[row, here] = number
        used[row] += size
        number += 1
    same = owners[:, :, None] == owners[:, None, :]
    causal = torch.ones(settings.row_tokens, settings.row_tokens, dtype=torch.bool).tril()
    return {"ids": ids, "targets": targets, "positions": positions, "mask": (same & causal)[:, None]}

"""What Android's tokenizer has to make of the corpus, for the test that it does: sums of ids, and a program that tells.

`LlmModule` tells no token ids. So the test gives it, for each tokenizer as a bundle ships it, a program that keeps the
prompt it was fed and answers with a weighted sum of its ids, in digits that are tokens, and then with the prompt
itself. Run with the project's own Python: `python tools/parity.py OUT`.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import real
import torch
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge
from pytorch_tokenizers import CppHFTokenizer
from tokenizers import Tokenizer
from torch import nn
from torch.export import Dim, export

from et_pipeline import tiny_assistant, tiny_writer
from et_pipeline.chat_template import ChatFormat
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.template import load_chat_format
from et_pipeline.checkpoints.tokenizer import extensions, mend
from et_pipeline.checkpoints.tokenizer.compare import piece
from et_pipeline.checkpoints.tokenizer.corpus import conversations, corpus, of_tokens, of_words
from et_pipeline.checkpoints.tokenizer.file import SPACE, save

CONTEXT = 1 << 14
DIGITS = 4
STREAMED = 6  # of so many texts one is said again
LONGEST_STREAM = 64  # tokens
WEIGHTS = torch.randint(1, 1 << 30, (CONTEXT,), generator=torch.Generator().manual_seed(0))


class Teller(nn.Module):
    """One forward call of a language model with a cache: it says the digits of the prompt's sum, then the prompt."""

    kept: torch.Tensor
    count: torch.Tensor
    alphabet: torch.Tensor
    powers: torch.Tensor
    ids: torch.Tensor
    places: torch.Tensor
    weights: torch.Tensor

    def __init__(self, alphabet: list[int], vocab_size: int) -> None:
        """Args: the tokens that stand for 0, 1, …; how many the runner looks at."""
        super().__init__()
        self.base = len(alphabet)
        self.register_buffer("kept", torch.zeros(CONTEXT, dtype=torch.long))
        self.register_buffer("count", torch.zeros(1, dtype=torch.long))
        self.register_buffer("alphabet", torch.tensor(alphabet))
        self.register_buffer("powers", torch.tensor([self.base**digit for digit in range(DIGITS)]))
        self.register_buffer("ids", torch.arange(vocab_size))
        self.register_buffer("places", torch.arange(CONTEXT))
        self.register_buffer("weights", WEIGHTS)

    def forward(self, tokens: torch.Tensor, input_pos: torch.Tensor) -> torch.Tensor:
        """`[1, S]` tokens at a position; logits `[1, V]`. Several tokens, or the first, are a prompt."""
        length = tokens.shape[1]
        is_prompt = torch.eq(input_pos, 0) | torch.gt(torch.full((1,), length), 1)
        end = input_pos + length
        self.kept.index_copy_(0, input_pos + self.places[:length], tokens[0])
        self.count.copy_(torch.where(is_prompt, end, self.count))
        total = torch.where(self.places < self.count, self.kept * self.weights, 0).sum()
        step = end - self.count
        power = torch.index_select(self.powers, 0, step % DIGITS)
        letter = torch.div(total, power, rounding_mode="floor") % self.base
        again = torch.index_select(self.kept, 0, torch.clamp(step - DIGITS, min=0))
        chosen = torch.where(torch.lt(step, DIGITS), torch.index_select(self.alphabet, 0, letter), again)
        return torch.eq(self.ids, chosen).float().unsqueeze(0)


def told(ids: list[int], alphabet: list[str]) -> str:
    """What the program answers to these tokens."""
    total = int((torch.tensor(ids, dtype=torch.long) * WEIGHTS[: len(ids)]).sum())
    return " ".join(alphabet[total // len(alphabet) ** digit % len(alphabet)] for digit in range(DIGITS))


def write_program(alphabet: list[int], vocab_size: int, out: Path) -> None:
    """The program's `.pte`, of portable operators."""
    longest = CONTEXT - DIGITS
    example = (torch.zeros(1, 8, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    dynamic = {"tokens": {1: Dim("length", min=1, max=longest)}, "input_pos": None}
    program = export(Teller(alphabet, vocab_size), example, dynamic_shapes=dynamic, strict=False)
    methods = {
        "get_max_seq_len": longest,
        "get_max_context_len": CONTEXT,
        "get_vocab_size": vocab_size,
        "get_n_layers": 1,
        "get_bos_id": 0,
        "get_eos_ids": [vocab_size],  # no token: the prompt may have any
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": False,
        "enable_dynamic_shape": True,
    }
    edge = to_edge(program, constant_methods=methods, compile_config=EdgeCompileConfig(_check_ir_validity=False))
    out.write_bytes(edge.to_executorch(ExecutorchBackendConfig(extract_delegate_segments=False)).buffer)


def alphabet_of(phone: Any, vocab_size: int, count: int = 256) -> dict[str, int]:
    """Tokens whose texts are different, whole, and visible."""
    found: dict[str, int] = {}
    for token in range(vocab_size):
        text = piece(phone, token)
        if text.isascii() and text.isalnum():
            found.setdefault(text.decode(), token)
        if len(found) == count:
            break
    return found


def older(path: Path, shipped: dict[str, Any]) -> Tokenizer:
    """A tokenizer as Android's library of ExecuTorch 1.3 has it.

    It does not know `ignore_merges`, nor an added token that begins with another one.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    longer = extensions([token["content"] for token in shipped["added_tokens"]])
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in longer]
    if content["model"].get("ignore_merges"):
        content["model"]["ignore_merges"] = False
    return Tokenizer.from_str(json.dumps(content))


def with_white_space(folder: Path) -> Path:
    """The built-in model's tokenizer, with tokens that take white space with them, as Phi-3's, and one in another."""
    content = json.loads((tiny_assistant.CHECKPOINT / "tokenizer.json").read_text(encoding="utf-8"))
    size = len(content["model"]["vocab"])
    flags = {"special": True, "normalized": False, "single_word": False}
    sides = {"<u>": (False, True), "<v>": (True, False), "<w>": (True, True), "<x>": (False, False)}
    sides["<x><y>"] = (False, False)
    for at, (name, (left, right)) in enumerate(sides.items()):
        content["added_tokens"].append({"id": size + at, "content": name, "lstrip": left, "rstrip": right, **flags})
    folder.mkdir(parents=True, exist_ok=True)
    save(content, folder / "original.json")
    return folder / "original.json"


def texts_of(content: dict[str, Any], chat: ChatFormat, words: list[str]) -> list[str]:
    """The corpus, and of a tokenizer's own texts some of each kind."""
    own = of_tokens([token for token in content["added_tokens"] if set(token["content"]) != {SPACE}])
    whole = [] if chat.is_plain else conversations(chat)
    return list(dict.fromkeys(text for text in (*corpus(), *own[::5], *of_words(words), *whole) if text))


def originals(scratch: Path) -> dict[str, Path]:
    """The tokenizers that bundles may have, as their makers published them; one is made in a folder."""
    paths = {name: real.tokenizer(name) / "tokenizer.json" for name in real.TOKENIZERS}
    paths |= {"tiny_assistant": tiny_assistant.CHECKPOINT / "tokenizer.json"}
    paths |= {"tiny_writer": tiny_writer.CHECKPOINT / "tokenizer.json"}
    return paths | {"white_space": with_white_space(scratch)}


def main(out: Path) -> None:
    """For each tokenizer a folder with tokenizer.json, model.pte and expected.json."""
    with tempfile.TemporaryDirectory() as made:
        for name, path in originals(Path(made)).items():
            folder = out / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_expected(path, folder)


def write_expected(path: Path, folder: Path) -> None:
    """A program for a tokenizer, and what it has to answer to each text."""
    original = Tokenizer.from_file(str(path))
    size = original.get_vocab_size()
    chat = load_chat_format(Folder(path.parent))
    with tempfile.TemporaryDirectory() as scratch:
        mended = mend(path, size, Path(scratch), chat)
    save(mended.content, folder / "tokenizer.json")
    android = older(path, mended.content)
    phone = CppHFTokenizer()
    phone.load(str(folder / "tokenizer.json"))
    alphabet = alphabet_of(phone, size)
    write_program(list(alphabet.values()), size, folder / "model.pte")
    expected = []
    for at, text in enumerate(texts_of(mended.content, chat, mended.unmerged)):
        right = original.encode(text, add_special_tokens=False).ids
        ids = android.encode(text, add_special_tokens=False).ids
        is_streamed = at % STREAMED == 0 and len(ids) <= LONGEST_STREAM
        said = b"".join(piece(phone, token) for token in ids).decode() if is_streamed else None
        answer = {"text": text, "tokens": len(ids), "told": told(ids, list(alphabet)), "said": said}
        expected.append({**answer, "is_older": ids != right})
    begun = original.encode("Hello there").ids
    bos_token = None
    if begun != original.encode("Hello there", add_special_tokens=False).ids:
        bos_token = original.id_to_token(begun[0])
        answer = {"tokens": len(begun), "told": told(begun, list(alphabet)), "said": None, "is_older": False}
        expected.append({"text": "Hello there", "bos": True, **answer})
    content = {
        "bos_token": bos_token,
        "normalization": mended.normalization,
        "lstrip": mended.lstrip,
        "rstrip": mended.rstrip,
        "texts": expected,
    }
    (folder / "expected.json").write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

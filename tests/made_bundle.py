"""A small bundle and a fake program to test with."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from et_pipeline import manifest as bundle
from et_pipeline.chat_template import ChatFormat

PTE = "model.pte"
EOS = 256
CHATML = ChatFormat(
    system_prefix="<|im_start|>system\n",
    system_to_user="<|im_end|>\n<|im_start|>user\n",
    start_to_user="<|im_start|>user\n",
    user_to_assistant="<|im_end|>\n<|im_start|>assistant\n",
    assistant_to_user="<|im_end|>\n<|im_start|>user\n",
    user_to_past_assistant="<|im_end|>\n<|im_start|>assistant\n",
    supports_system=True,
)


def byte_tokenizer():
    """One token per byte, so that characters are split wherever they can be; then `<|im_end|>`, `<|im_start|>`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_end|>", "<|im_start|>"])
    return tokenizer


class FakeProgram:
    """Answers as told, with the same calls as a `Program`; `cache` is what a KV cache would hold."""

    goes_back = True

    def __init__(self, answers):
        self.answers = [list(answer) for answer in answers]
        self.cache = []
        self.metadata = {"get_max_context_len": 512, "get_max_seq_len": 64, "get_eos_ids": [EOS]}
        self.prefilled = []

    def forward(self, tokens, start):
        assert start <= len(self.cache), "a gap in the cache"
        assert self.goes_back or start in (0, len(self.cache)), "a state that knows what was to be forgotten"
        self.cache[start:] = tokens[0].tolist()
        logits = torch.zeros(300)
        logits[self.rest.pop(0)] = 10.0
        return logits

    def prefill(self, tokens, start=0, chunk=None):
        self.rest = self.answers.pop(0)
        self.prefilled.append(tokens[0].tolist())
        return self.forward(tokens, start)


class EchoProgram(FakeProgram):
    """Stands in for `Program(path)`: says how many bytes it was given."""

    def __init__(self, path, threads=None, weights=None, packed=None):
        super().__init__([])
        assert path.is_file()

    def prefill(self, tokens, start=0, chunk=None):
        text = f"I read {tokens.shape[1]} bytes. ü👋"
        self.answers = [[*byte_tokenizer().encode(text).ids, EOS]]
        return super().prefill(tokens, start)


class EmbeddingProgram:
    """Embeds a text of n bytes as (n, 1), each an exact number: (1, 1) and (2, 1) have a cosine of 3 / sqrt(10)."""

    def __init__(self, path, threads=None, weights=None, packed=None):
        assert path.is_file()
        self.metadata = {"get_max_seq_len": 64, "get_max_context_len": 64, "get_vocab_size": 300}

    def embed(self, tokens):
        return torch.tensor([float(tokens.shape[1]), 1.0])


def write_files(folder):
    (folder / "sub").mkdir(parents=True)
    (folder / PTE).write_bytes(b"a program" * 1000)
    (folder / "sub" / "report.html").write_text("<p>report</p>")
    byte_tokenizer().save(str(folder / "tokenizer.json"))


def make_manifest(files, **changes):
    agreement = bundle.Agreement(positions=100, cosine=0.9999, min_cosine=0.999, max_abs_diff=0.01, kl=1e-5, top1=0.99)
    ways = bundle.WaysOfFeeding(one_piece=agreement, chunked=agreement, token_by_token=agreement)
    figure = bundle.Percentiles(p10=1.0, p50=2.0, p90=3.0)
    score = bundle.TextScore(perplexity=22.25, kl=0.03, top1=0.965)
    parts = {
        "what": bundle.What(
            name="tiny",
            family="llama",
            architecture="LlamaForCausalLM",
            parameters=1_230_000,
            licence="apache-2.0",
            source=bundle.Source(source="builtin:tiny", files={"model.safetensors": "0" * 64}),
            tools={"torch": "2.13.0"},
            settings={"seed": 0, "model": {"name": "tiny"}},
            created="2026-01-02",
        ),
        "files": files,
        "programs": [
            bundle.ProgramInfo(
                file=PTE,
                backend="xnnpack",
                methods=["forward"],
                max_context=512,
                prefill_chunk=64,
                min_runtime="1.3.0",
                executed=True,
                delegates=6,
                fallback_operators={"aten::embedding": 1},
            )
        ],
        "tokenizer": bundle.Tokenizer(
            file="tokenizer.json", eos_ids=[EOS], adds_bos=False, special_tokens=["<|im_end|>", "<|im_start|>"]
        ),
        "chat": bundle.Chat(segments=CHATML, stop_strings=["###"], system_prompt="Be brief."),
        "tasks": {
            "translate": bundle.Task(
                title="Translate",
                template="To {language}: {text}",
                max_new_tokens=40,
                choices={"language": ["German", "French"]},
                disclaimer="May be wrong.",
            )
        },
        "memory": bundle.Memory(
            weights_bytes=9000, kv_cache_bytes=100, resident_bytes=10_000, peak_bytes=20_000, min_device_ram_bytes=10**9
        ),
        "quality": bundle.Quality(
            agreement=bundle.Comparison(quantized=ways, original=ways),
            tasks={"translate": bundle.TaskScore(original=90.0, deployed=89.0, items=100)},
            perplexity=bundle.Perplexity(original=9.0, deployed=9.5),
            text=bundle.TextQuality(
                source="notes.txt", tokens=2047, window=512, stride=256, original=21.5, quantized=score, deployed=score
            ),
            gate=make_gate(passed=True),
        ),
        "speed": [
            bundle.Speed(
                where="a computer",
                threads=2,
                prompt_tokens=128,
                decode_tokens=64,
                load_ms=figure,
                ttft_ms=figure,
                prefill_tok_s=figure,
                decode_tok_s=figure,
                program_rss_bytes=10**6,
                peak_rss_bytes=10**8,
            )
        ],
        "stages": {"lower": bundle.StageCost(wall_s=1.0, cpu_s=1.5, peak_rss_bytes=10**9)},
        "samples": [bundle.Sample(task="translate", prompt="To German: hi", answer="I read 51 bytes. ü👋")],
    }
    return bundle.Manifest(**{**parts, **changes})


def make_embedding_manifest(files, **changes):
    """What a bundle says that embeds texts; its one sample is what `EmbeddingProgram` gives."""
    agreement = bundle.EmbeddingAgreement(
        texts=32, cosine=0.999, min_cosine=0.99, max_abs_diff=0.01, rank_correlation=0.97
    )
    figure = bundle.Percentiles(p10=1.0, p50=2.0, p90=3.0)
    base = make_manifest(files)
    program = base.programs[0].model_copy(update={"max_context": 64, "prefill_chunk": 64})
    speed = bundle.EmbeddingSpeed(
        where="a computer",
        threads=2,
        tokens=64,
        load_ms=figure,
        text_ms=figure,
        program_rss_bytes=10**6,
        peak_rss_bytes=10**8,
    )
    parts = {
        "what": base.what.model_copy(update={"task": "embedding"}),
        "programs": [program],
        "tokenizer": base.tokenizer.model_copy(update={"eos_ids": []}),
        "chat": None,
        "embedding": bundle.Embedding(
            dimension=2,
            pooling="mean",
            normalised=True,
            max_tokens=64,
            speed=[speed],
            samples=[bundle.Similarity(first="a", second="bb", cosine=3 / 10**0.5)],
        ),
        "tasks": {},
        "quality": bundle.Quality(
            embedding=bundle.EmbeddingComparison(quantized=agreement, original=agreement), gate=make_gate(passed=True)
        ),
        "speed": [],
        "samples": [],
    }
    return make_manifest(files, **{**parts, **changes})


def make_gate(passed):
    check = bundle.Check(name="top1 against original", value=0.99 if passed else 0.5, threshold=0.9, passed=passed)
    return bundle.Gate(thresholds={"min_top1_original": 0.9}, checks=[check], passed=passed)


def make_bundle(folder, **changes):
    """Writes a whole, good bundle and returns its folder."""
    write_files(folder)
    bundle.write(make_manifest(bundle.describe_files(folder), **changes), folder)
    return folder

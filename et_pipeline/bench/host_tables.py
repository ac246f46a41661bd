"""What the host benchmark measures, and how its page shows it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from et_pipeline.report.tables import markdown
from et_pipeline.report.words import size

OURS, LLAMA_CPP, GENAI, EXPORT_LLM = "et_pipeline", "llama.cpp", "onnxruntime-genai", "export_llm"
MEMORY = "memory"  # no program: reads a large array
PEERS = {LLAMA_CPP: "llama.cpp Q4_0", GENAI: "onnxruntime-genai int4", EXPORT_LLM: "export_llm 8da4w-g32"}
DEEP = (OURS, LLAMA_CPP)  # measured with a full cache too


class Item(NamedTuple):
    """What is timed: an operation on `tokens` tokens that follow `start` others."""

    op: str
    tokens: int
    start: int = 0

    @property
    def name(self) -> str:
        """Its key in the results."""
        return f"{self.op} {self.tokens} at {self.start}"


# In the order in which one cache can serve them: filled once, then cut shorter and shorter.
PREFILL_512, PREFILL_128, DECODE = Item("prefill", 512), Item("prefill", 128), Item("decode", 32, 128)
FILL = Item("prefill", 2048 - 512, 512)
CONTEXTS = (2048, 1024, 128)
AT = {start: (Item("prefill", 128, start), Item("decode", 32, start)) for start in CONTEXTS}
ITEMS = (PREFILL_512, FILL, *(item for start in CONTEXTS for item in AT[start]), PREFILL_128)
SHALLOW = (PREFILL_512, DECODE, PREFILL_128)
READ = Item("read", 1 << 30)  # bytes, far more than any cache holds


def tables(result: Mapping[str, Any]) -> str:
    """All that was measured, in Markdown."""
    parts = []
    for shape in result["shapes"]:
        counts = sorted(shape["read_s"], key=int, reverse=True)
        parts.append(f"### {shape['model']}\n")
        parts.append("Tok/s: median (best), and how many times llama.cpp's that is.\n")
        parts.append(speed_table(shape, counts) + "\n")
        parts.append("With a longer text in the cache: decode, and 128 more tokens of a prompt.\n")
        parts.append(context_table(shape, counts) + "\n")
        parts.append(cost_table(shape, counts) + "\n")
        reads = ", ".join(f"{bandwidth(shape, count) / 1e9:.1f} GB/s with {thread_words(count)}" for count in counts)
        parts.append(f"Reading memory in the same rounds: {reads}.\n")
    for name, reason in result["left_out"].items():
        parts.append(f"Left out: {name} ({reason}).\n")
    return "\n".join([*parts, _measured(result)])


def contexts(result: Mapping[str, Any]) -> str:
    """Speed with more and more in the cache alone, in Markdown."""
    shapes = [
        f"{shape['model']}:\n\n{context_table(shape, sorted(shape['read_s'], key=int, reverse=True))}\n"
        for shape in result["shapes"]
    ]
    return "\n".join([*shapes, _measured(result)])


def _measured(result: Mapping[str, Any]) -> str:
    everyone = [each for shape in result["shapes"] for each in shape["contenders"]]
    idle = max(run["idle_share"] for each in everyone for run in each["threads"].values())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"Measured {result['date']} on {result['machine']} with `{result['command']}`, {result['rounds']} rounds; "
        f"others used {100 * result['others_cpu_share']:.0f} % of the machine meanwhile, and a waiting contender at "
        f"most {100 * idle:.1f} % of a core. {versions}.\n"
    )


def side_by_side(result: Mapping[str, Any]) -> str:
    """Shapes of which one contender was measured, beside each other."""
    rows = [
        [
            *("model", "file", "threads", "prefill 128"),
            *(f"decode after {start:,}" for start in sorted(AT)),
            *("memory: own", "memory: of files"),
        ]
    ]
    for shape in result["shapes"]:
        (each,) = shape["contenders"]
        for count in sorted(shape["read_s"], key=int):
            memory = each["threads"][count]["memory"]
            speeds = [figure(rates(each, count, item)[0]) for item in (PREFILL_128, *(AT[at][1] for at in sorted(AT)))]
            resident = [size(memory[kind]) for kind in ("anonymous_bytes", "file_bytes")]
            rows.append([shape["model"], size(each["file_bytes"]), count, *speeds, *resident])
    return markdown(rows) + (
        f"\n\nMeasured {result['date']} on {result['machine']} with `{result['command']}`, {result['rounds']} rounds; "
        f"others used {100 * result['others_cpu_share']:.0f} % of the machine meanwhile.\n"
    )


def thread_words(count: str) -> str:
    """A number of threads, in words."""
    return "one thread" if count == "1" else f"{count} threads"


def bandwidth(shape: Mapping[str, Any], threads: str) -> float:
    """Bytes per second that were read at best."""
    return float(shape["read_bytes"] / min(shape["read_s"][threads]))


def rates(each: Mapping[str, Any], threads: str, item: Item) -> tuple[float, float]:
    """Tokens per second: median and best."""
    times = each["threads"][threads]["seconds"][item.name]
    return item.tokens / statistics.median(times), item.tokens / min(times)


def _baseline(shape: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((each for each in shape["contenders"] if each["kind"] == LLAMA_CPP), None)


def _cell(shape: Mapping[str, Any], each: Mapping[str, Any], threads: str, item: Item) -> str:
    ours, base = rates(each, threads, item), _baseline(shape)
    text = f"{figure(ours[0])} ({figure(ours[1])})"
    if base is None or base is each:
        return text
    ratios = [mine / theirs for mine, theirs in zip(ours, rates(base, threads, item), strict=True)]
    return f"{text} {ratios[0]:.2f}x ({ratios[1]:.2f}x)"


def figure(rate: float) -> str:
    """Three digits or more of a speed."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def speed_table(shape: Mapping[str, Any], counts: Sequence[str]) -> str:
    """Prefill and decode from an empty cache."""
    rows = [["contender", "threads", "prefill 128", "prefill 512", "decode after 128"]]
    for count in counts:
        for each in shape["contenders"]:
            cells = [_cell(shape, each, count, item) for item in (PREFILL_128, PREFILL_512, DECODE)]
            rows.append([each["name"], count, *cells])
    return markdown(rows)


def context_table(shape: Mapping[str, Any], counts: Sequence[str]) -> str:
    """Speed with more and more in the cache."""
    places = sorted(AT)
    heads = [f"{op} at {start:,}" for op in ("decode", "prefill") for start in places]
    rows = [["contender", "threads", *heads]]
    for count in counts:
        for each in shape["contenders"]:
            if each["kind"] in DEEP:
                items = [AT[start][index] for index in (1, 0) for start in places]
                rows.append([each["name"], count, *(_cell(shape, each, count, item) for item in items)])
    return markdown(rows)


def cost_table(shape: Mapping[str, Any], counts: Sequence[str]) -> str:
    """Sizes, memory, loading, and what making the file took."""
    shares = [f"decode: share of bandwidth, {thread_words(count)}" for count in counts]
    rows = [
        [
            "contender",
            "file",
            "weights read per token",
            *shares,
            "load (best)",
            "memory: own",
            "memory: of files",
            "made in CPU-s",
            "peak memory",
            "logits: cosine",
        ]
    ]
    for each in shape["contenders"]:
        run = each["threads"][counts[0]]
        head = f", head {each['head_type']}" if each["head_type"] else ""
        load = f"{statistics.median(run['load_s']):.2f} s ({min(run['load_s']):.2f})"
        rows.append(
            [
                f"{each['name']}{head}",
                size(each["file_bytes"]),
                size(each["weights_read_bytes"]),
                *(f"{100 * roofline_share(shape, each, count):.0f} %" for count in counts),
                load,
                size(run["memory"]["anonymous_bytes"]),
                size(run["memory"]["file_bytes"]),
                "" if each["cpu_s"] is None else f"{each['cpu_s']:.0f}",
                "" if each["peak_rss_bytes"] is None else size(each["peak_rss_bytes"]),
                f"{each['cosine']:.4f}",
            ]
        )
    return markdown(rows)


def roofline_share(shape: Mapping[str, Any], each: Mapping[str, Any], threads: str) -> float:
    """Of what memory gives at best, how much decode reads: weights, and the cache up to the tokens' middle."""
    touched = each["weights_read_bytes"] + each["kv_bytes"] * (DECODE.start + DECODE.tokens // 2)
    return rates(each, threads, DECODE)[0] * touched / bandwidth(shape, threads)

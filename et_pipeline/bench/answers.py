"""Ten questions, answered by a bundle's program and by the original in transformers, both greedy.

`python -m et_pipeline.bench.answers BUNDLE CHECKPOINT --json docs/results/answers.json`; CHECKPOINT is a folder that
transformers reads.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import et_pipeline
from et_pipeline.errors import EXIT_USER, UserError
from et_pipeline.host import machine
from et_pipeline.report.words import size

QUESTIONS = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "Write a haiku about the sea.",
    "How do I boil an egg?",
    "Translate to Spanish: Good morning, my friend.",
    "What is 12 times 8?",
    "Name three animals that can fly.",
    "Explain what a computer virus is to a child.",
    "I have a headache. What can I do?",
    "Give me a short recipe for pancakes.",
)
LENGTH = 60  # most tokens of an answer


def measure(bundle: Path, checkpoint: Path) -> dict[str, Any]:
    """Let both answer.

    Args:
        bundle: a bundle that chats.
        checkpoint: its original, which transformers loads in fp32.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not checkpoint.is_dir():
        raise UserError(f"{checkpoint} is no folder of a checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    original = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True)
    answers = []
    with et_pipeline.open_bundle(bundle) as ours:
        for question in QUESTIONS:
            asked = tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
            )
            with torch.no_grad():
                found = original.generate(**asked, max_new_tokens=LENGTH, do_sample=False, repetition_penalty=1.0)
            theirs = tokenizer.decode(found[0, asked["input_ids"].shape[1] :], skip_special_tokens=True).strip()
            said = ours.chat(question, temperature=0, max_new_tokens=LENGTH)
            answers.append({"question": question, "program": said, "transformers": theirs})
        return {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine(),
            "bundle": ours.manifest.what.name,
            "recipe": ours.manifest.main.recipe,
            "bytes": ours.manifest.memory.weights_bytes,
            "answers": answers,
        }


def table(found: Mapping[str, Any]) -> str:
    """Side by side, in Markdown."""
    rows = [["question", f"program, `{found['recipe']}`, {size(found['bytes'])}", "transformers, fp32"], ["---"] * 3]
    rows += [[_cell(each[key]) for key in ("question", "program", "transformers")] for each in found["answers"]]
    same = sum(each["program"] == each["transformers"] for each in found["answers"])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines += [
        "",
        f"{same} of {len(found['answers'])} are the same to the letter; an answer is cut after {LENGTH} tokens. "
        f"Measured {found['date']} on {found['machine']} with `python -m et_pipeline.bench.answers`.",
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def command_line() -> argparse.ArgumentParser:
    """What can be said."""
    parser = argparse.ArgumentParser(
        prog="python -m et_pipeline.bench.answers",
        description=__doc__,
        epilog="Example: python -m et_pipeline.bench.answers bundles/tiny_assistant-8da4w-g32-xnnpack "
        "et_pipeline/tiny_assistant/checkpoint",
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("checkpoint", type=Path, help="the original's folder")
    parser.add_argument("--json", type=Path, default=None, help="put the answers into this file")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = command_line().parse_args(arguments)
    try:
        found = measure(options.bundle, options.checkpoint)
    except UserError as error:
        sys.stderr.write(f"bench.answers: {error}\n")
        sys.exit(EXIT_USER)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(table(found))


if __name__ == "__main__":
    main()

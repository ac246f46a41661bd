"""One check of a bundle, and the one that asks a program for its sample answers again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from et_pipeline.manifest import Manifest, ProgramInfo, Sample

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from et_pipeline.runtime.program import Program


@dataclasses.dataclass(frozen=True)
class Checked:
    """One check and its outcome."""

    name: str
    passed: bool
    detail: str


def check_samples(
    program: Program,
    tokenizer: Tokenizer,
    manifest: Manifest,
    info: ProgramInfo,
    samples: Sequence[Sample],
    of: str,
) -> Checked:
    """Answers sample prompts again."""
    from et_pipeline.runtime.chat import greedy_answer

    name, form, different = f"sample answers of {of}", manifest.chat, []
    assert form is not None
    for sample in samples:
        limit = manifest.tasks[sample.task].max_new_tokens
        answer = greedy_answer(program, tokenizer, form, manifest.tokenizer, info.max_context, sample.prompt, limit)
        if answer != sample.answer:
            different.append(f"{sample.task} {sample.prompt!r} gave {answer!r} instead of {sample.answer!r}")
    if different:
        return Checked(name, False, f"{len(different)} of {len(samples)} differ, first: {different[0]}")
    return Checked(name, True, f"{len(samples)} equal" if samples else "the manifest has none")

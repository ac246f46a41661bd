"""Whether a bundle is whole and works on this computer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from et_pipeline.bundle import adapters
from et_pipeline.bundle.checked import Checked, check_samples
from et_pipeline.bundle.loading import hindrance_of, load_program, load_tokenizer
from et_pipeline.errors import UserError
from et_pipeline.manifest import FILE_NAME, SCHEMA_PATH, Embedding, Manifest, ProgramInfo
from et_pipeline.report.words import size

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from et_pipeline.runtime.program import Program

SIMILARITY_TOLERANCE = 0.02  # of a cosine: processors round activations to 8 bits a little differently


@dataclasses.dataclass(frozen=True)
class Verification:
    """All checks of a bundle."""

    checks: tuple[Checked, ...]

    @property
    def failed(self) -> tuple[Checked, ...]:
        """Those that it did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        """Whether it passed all."""
        return not self.failed


def checks(folder: Path, manifest: Manifest, threads: int | None) -> Iterator[Checked]:
    """Checks an opened bundle, whose hashes are already known to be right."""
    import jsonschema

    total = sum(file.size for file in manifest.files.values())
    yield Checked("files", True, f"{len(manifest.files)} files, {size(total)}, every SHA-256 as in the manifest")
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    content = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    try:
        jsonschema.validate(content, schema)
    except jsonschema.ValidationError as error:
        raise UserError(f"{FILE_NAME}: {error.json_path} breaks the JSON Schema: {error.message}.") from error
    yield Checked("manifest", True, f"follows the JSON Schema of version {manifest.version}")

    tokenizer = load_tokenizer(folder, manifest)
    for info in manifest.programs:
        hindrance = hindrance_of(info)
        if hindrance is not None:
            yield Checked(info.file, True, f"not run: {hindrance}")
            continue
        program = load_program(folder, info, manifest, tokenizer, threads)
        yield Checked(info.file, True, "loads, and its metadata are as in the manifest")
        if manifest.chat is not None and info == manifest.main:
            yield check_samples(program, tokenizer, manifest, info, manifest.samples, info.file)
        if info.adapter_rank:
            yield from adapters.check_samples_of_adapters(folder, manifest, info, tokenizer, threads)
        if manifest.embedding is not None and info == manifest.main:
            yield _check_similarities(program, tokenizer, manifest.embedding, info)

    gates = [(info.file, gate) for info, gate in zip(manifest.programs, manifest.gates, strict=True)]
    for name, gate in [*gates, *((f"adapter {each.name}", each.quality.gate) for each in manifest.adapters)]:
        missed = [
            f"{check.name} {check.value:.4g} (threshold {check.threshold:.4g})"
            for check in gate.checks
            if not check.passed
        ]
        verdict = (
            f"all {len(gate.checks)} checks passed" if gate.passed else f"below its threshold: {', '.join(missed)}"
        )
        yield Checked(f"quality gate of {name}", gate.passed, verdict)


def _check_similarities(program: Program, tokenizer: Tokenizer, embedding: Embedding, info: ProgramInfo) -> Checked:
    """Compares the manifest's sample texts again."""
    from et_pipeline.evaluation.embedding import cosine
    from et_pipeline.runtime.embedding import embed, for_one_text

    for_one_text(tokenizer, embedding.max_tokens)
    name, worst = f"sample similarities of {info.file}", 0.0
    for sample in embedding.samples:
        first, second = (embed(program, tokenizer.encode(text).ids) for text in (sample.first, sample.second))
        if len(first) != embedding.dimension:
            return Checked(name, False, f"embeddings of {len(first)} numbers instead of {embedding.dimension}")
        worst = max(worst, abs(cosine(first, second) - sample.cosine))
    if worst > SIMILARITY_TOLERANCE:
        return Checked(name, False, f"differ by up to {worst:.3f}, allowed are {SIMILARITY_TOLERANCE}")
    count = len(embedding.samples)
    return Checked(name, True, f"{count} equal within {worst:.1g}" if count else "the manifest has none")

"""The model card of a bundle on the Hugging Face hub: what is in it, what was measured, what it cannot do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from et_pipeline.manifest import EmbeddingSpeed, Manifest, Speed
from et_pipeline.report.tables import closing_rows
from et_pipeline.report.words import check_sentence, size

FILE = "README.md"  # where the hub looks for it
_ON_THE_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # how the hub writes identifiers


def model_card(manifest: Manifest, repository: str) -> str:
    """The card's text, its header first.

    Args:
        manifest: the bundle's.
        repository: the hub's name for where the bundle goes, which is in the commands of the card.
    """
    what, total = manifest.what, sum(file.size for file in manifest.files.values())
    name = plain(what.name)
    base = base_model(manifest)
    source = f"[{base}](https://huggingface.co/{base})" if base else plain(what.source.source)
    revision = f" at revision {plain(what.source.revision)}" if what.source.revision else ""
    verdict = "passed" if not failed_checks(manifest) else "**failed**"
    parts = [
        f"---\n{_header(manifest)}\n---\n",
        f"# {name}\n",
        f"{source}{revision} as a bundle for phones, made with et_pipeline: ExecuTorch programs, the tokenizer, and a "
        f"`manifest.json` that says what was measured. {size(total)} in {len(manifest.files)} files. Its quality gate "
        f"{verdict}.\n",
        "## Figures\n",
        _table(_figures(manifest)),
        "'Original' is the model before it was quantized. Brackets hold 95 % intervals.\n",
        "## Limits\n",
        "".join(f"- {limit}\n" for limit in _limits(manifest)),
        "## How to run\n",
        _how_to_run(manifest, repository),
        "## Licence\n",
        _licence(manifest, source),
    ]
    return "\n".join(parts)


def failed_checks(manifest: Manifest) -> list[str]:
    """A sentence on each check of a gate that failed: of a program, or of an adapter."""
    gates = [(info.file, gate) for info, gate in zip(manifest.programs, manifest.gates, strict=True)]
    gates += [(f"adapter {each.name}", each.quality.gate) for each in manifest.adapters]
    return [f"{of}: {check_sentence(check)}" for of, gate in gates for check in gate.checks if not check.passed]


def base_model(manifest: Manifest) -> str | None:
    """The hub's name of the source; None for a built-in model, a folder and a file."""
    source = manifest.what.source.source
    return source if _ON_THE_HUB.fullmatch(source) and not source.endswith(".gguf") else None


def plain(text: str) -> str:
    """Text that Markdown and HTML leave as it is, on one line."""
    printed = "".join(c if c.isprintable() else " " for c in text)
    return re.sub(r"[\\`*\[\]<>|~$#&]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(printed.split()))


def _header(manifest: Manifest) -> str:
    """What the hub reads: YAML."""
    from huggingface_hub import ModelCardData

    what, base = manifest.what, base_model(manifest)
    recipes = [info.recipe for info in manifest.programs if info.recipe]
    tags = ["executorch", "et_pipeline", *(info.backend for info in manifest.programs), *recipes, "on-device"]
    fields: dict[str, Any] = _licence_fields(what.licence, base)
    if base is not None:
        fields |= {"base_model": base, "base_model_relation": "quantized"}
    data = ModelCardData(
        library_name="executorch",
        pipeline_tag="feature-extraction" if what.task == "embedding" else "text-generation",
        tags=tags,
        **fields,
    )
    return data.to_yaml()


def _licence_fields(licence: str | None, base: str | None) -> dict[str, str]:
    """A licence as the hub wants it; one that cannot be an identifier of the hub's is `other`, with its name."""
    named = (licence or "").strip().strip("'\"")
    if not named:
        return {}
    if _LICENCE.fullmatch(named.lower()):
        found = {"license": named.lower()}
    else:
        found = {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", named.lower()).strip("-") or "unnamed"}
    if found["license"] == "other" and base:
        found["license_link"] = f"https://huggingface.co/{base}"
    return found


def _figures(manifest: Manifest) -> dict[str, str]:
    """The closing table of a run, and the speed of each machine by that machine's name."""
    others = ("outside", "speed on this host", "execution")
    rows = {name: str(text) for name, text in closing_rows(manifest).items() if name not in others}
    speeds = manifest.speed if manifest.embedding is None else manifest.embedding.speed
    for where in dict.fromkeys(speed.where for speed in speeds):
        rows[f"speed on {where}"] = "\n".join(_speed(speed) for speed in speeds if speed.where == where)
    memory = manifest.memory
    rows["memory"] = (
        f"{size(memory.resident_bytes)} while it answers, {size(memory.peak_bytes)} at most; for phones with "
        f"{size(memory.min_device_ram_bytes)} of RAM or more"
    )
    if len(manifest.programs) > 1:
        for info in manifest.programs:
            verdict = "passed" if manifest.quality_of(info).gate.passed else "FAILED"
            chips = ", ".join(info.soc) or "any chip"
            rows[info.file] = (
                f"{info.backend}, {info.recipe}, for {chips}, {size(manifest.files[info.file].size)}; gate {verdict}"
            )
    return rows


def _speed(speed: Speed | EmbeddingSpeed) -> str:
    if isinstance(speed, EmbeddingSpeed):
        figures = f"{speed.text_ms.p50:.1f} ms for a text of {speed.tokens} tokens"
    else:
        figures = (
            f"first token after {speed.ttft_ms.p50:.1f} ms, prefill {speed.prefill_tok_s.p50:,.1f} tok/s, decode "
            f"{speed.decode_tok_s.p50:,.1f} tok/s ({speed.prompt_tokens} + {speed.decode_tokens} tokens)"
        )
    return f"{figures}, {speed.threads} threads, median"


def _limits(manifest: Manifest) -> Iterator[str]:
    for failed in failed_checks(manifest):
        yield f"**The quality gate failed.** {plain(failed)}."
    for info in manifest.programs:
        most = "a text has" if manifest.embedding else "prompt and answers together have"
        yield f"{plain(info.file)}: {most} at most {info.max_context} tokens; ExecuTorch {info.min_runtime} or newer."
        if not info.executed:
            how = "a twin of it was" if info.twin else "its figures are the quantized eager model's"
            yield f"{plain(info.file)} itself was **not executed** where it was made; {how}."
        if info.notice:
            yield plain(info.notice)
    witness = manifest.quality.witness
    if witness is not None and witness.note:
        yield f"Who said what the original computes: {plain(witness.name)}, {plain(witness.note)}."
    if not (manifest.speed or (manifest.embedding and manifest.embedding.speed)):
        yield "Its speed was not measured."
    if not any(speed.energy for speed in manifest.speed):
        yield "Its energy was not measured."
    if manifest.tokenizer.parity:
        yield from map(plain, manifest.tokenizer.parity.android)
    yield from sorted({plain(task.disclaimer) for task in manifest.tasks.values() if task.disclaimer})
    yield "What the original gets wrong, this gets wrong too."


def _how_to_run(manifest: Manifest, repository: str) -> str:
    folder = f"bundles/{repository.rpartition('/')[2]}"
    use = f"chat {folder}\net-bundle push {folder}  # to the app on the connected phone"
    if manifest.embedding:
        use = f'embed {folder} "a text" "another text"'
    told = (
        f"```sh\net-bundle pull {repository}\net-bundle {use}\n```\n\n"
        f"In an app of your own, ExecuTorch loads `{manifest.main.file}`, and `manifest.json` says how it is called"
    )
    if manifest.embedding or manifest.main.signature != "tokens":
        return f"{told}.\n"
    return (
        f"{told}: with `{manifest.tokenizer.file}` and what stands around a message there, `LlmModule` on Android and "
        "`TextLLMRunner` elsewhere answer.\n"
    )


def _licence(manifest: Manifest, source: str) -> str:
    licence = manifest.what.licence
    if not licence:
        return f"The bundle does not know the licence of its source, {source}: ask there before you use it.\n"
    return (
        f"{plain(licence)}, which is that of the source, {source}: quantizing a model does not change its licence. Who "
        "hands this on keeps its text and its notices.\n"
    )


def _table(rows: Mapping[str, str]) -> str:
    lines = [(plain(name), "<br>".join(map(plain, value.split("\n")))) for name, value in rows.items()]
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in lines)

"""The adapters of a bundle: put in, looked up, and verified against peft."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from et_pipeline import cache, host
from et_pipeline import manifest as bundle
from et_pipeline.bundle.checked import Checked, check_samples
from et_pipeline.bundle.loading import first_runnable, load_program, load_tokenizer
from et_pipeline.checkpoints import source
from et_pipeline.checkpoints.adapter import is_gguf
from et_pipeline.checkpoints.files import hash_files
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.errors import UserError
from et_pipeline.manifest import Adapter, Manifest, ProgramInfo
from et_pipeline.settings import Gate, closest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from et_pipeline.checkpoints.swappable import Lora
    from et_pipeline.runtime.adapters import AdapterSlot


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COMPUTING = (".safetensors", ".json", ".gguf")  # of a checkpoint's files; a README may be another


def slot_of(folder: Path, info: ProgramInfo) -> AdapterSlot | None:
    """Where a program is to read its adapter from; None if it takes none."""
    from et_pipeline.runtime.adapters import AdapterSlot

    return AdapterSlot(folder / info.weights[0]) if info.adapter_rank else None


def find(manifest: Manifest, name: str, info: ProgramInfo) -> Adapter:
    """An adapter of a program by its name.

    Raises:
        UserError: there is none.
    """
    known = {adapter.name: adapter for adapter in manifest.adapters if adapter.program == info.file}
    if name not in known:
        raise UserError(f"{manifest.what.name} has no adapter {name}{closest(name, known)}; et-bundle adapters list")
    return known[name]


def add(folder: Path, peft: Path, name: str, base: Path | None, about: str | None = None) -> Adapter:
    """Make a peft adapter one of the bundle's, in place of an earlier one of that name, with its verdict.

    Args:
        folder: the bundle, which is replaced as a whole.
        peft: the adapter's folder, or its GGUF file.
        name: what it is to be called.
        base: the original's checkpoint; None takes where the bundle, or the adapter, says that it is.
        about: what it is for, in a few words; None keeps what was said of an earlier one of that name.

    Raises:
        UserError: name or text cannot be written, the bundle takes no adapters, the base is not to be had or another
            one, or the adapter does not fit.
    """
    from et_pipeline.checkpoints.swappable import fit
    from et_pipeline.upstream.tensor_file import tensor_shapes, with_tensors

    if not NAME.fullmatch(name):  # it becomes a file's
        raise UserError(f"{name} cannot be an adapter's name, which has letters, digits, dots, - and _: give --name")
    if about is not None and any("\ud800" <= letter <= "\udfff" for letter in about):  # of bytes that are no UTF-8
        raise UserError("--about has half a character in it, which no manifest can hold: give it as text in UTF-8")
    with cache.locked(folder), _opened(manifest := bundle.read(folder), peft, base) as opened:
        bundle.check_files(folder, manifest)
        info = first_runnable(manifest)
        empty = folder / info.weights[0]
        data = with_tensors(empty, fit(opened.lora, tensor_shapes(empty)))
        cache.remove_leftovers(folder)
        temporary = cache.temporary_for(folder)
        try:
            shutil.copytree(folder, temporary, copy_function=os.link, dirs_exist_ok=True)
            file = temporary / "adapters" / f"{name}.ptd"
            file.parent.mkdir(exist_ok=True)
            file.unlink(missing_ok=True)  # the bundle's own file, of which this is a link
            file.write_bytes(data)
            quality, samples = _tried(temporary, manifest, info, file, opened)
            trained_on = opened.lora.base
            earlier = next((each.about for each in manifest.adapters if each.name == name), None)
            added = Adapter(
                name=name,
                file=file.relative_to(temporary).as_posix(),
                program=info.file,
                rank=opened.lora.rank,
                base=None if trained_on is None else bundle.portable_source(trained_on),
                source=opened.files,
                quality=quality,
                samples=samples,
                about=earlier if about is None else about,
            )
            others = [each for each in manifest.adapters if each.name != name]
            changed = {"adapters": [*others, added], "files": bundle.describe_files(temporary)}
            # Anew, so that it is checked.
            bundle.write(Manifest.model_validate(dict(manifest) | changed), temporary)
            cache.publish(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return added


def verify(folder: Path, manifest: Manifest, name: str, peft: Path, base: Path | None) -> bundle.AdapterQuality:
    """Compare the program with one of its adapters with peft's own output, again.

    Raises:
        UserError: there is no such adapter, or the folder is not the one that it was made from; as `add`.
    """
    info = first_runnable(manifest)
    adapter = find(manifest, name, info)
    with _opened(manifest, peft, base) as opened:
        others = sorted(name for name, found in adapter.source.items() if found not in opened.files.values())
        if others:
            raise UserError(f"{peft} is not what the adapter {name} was made from: its {others[0]} is another")
        return _tried(folder, manifest, info, folder / adapter.file, opened)[0]


class _Opened(NamedTuple):
    """An adapter that is to be put into a bundle.

    Attributes:
        folder: in peft's form.
        lora: what it holds.
        base: the checkpoint that it is for.
        files: SHA-256 of the files that it came in, by name.
    """

    folder: Path
    lora: Lora
    base: Path
    files: dict[str, str]


@contextmanager
def _opened(manifest: Manifest, given: Path, base: Path | None) -> Iterator[_Opened]:
    from et_pipeline.checkpoints.gguf import lora as gguf
    from et_pipeline.checkpoints.swappable import CONFIG, WEIGHTS, read_lora

    info = first_runnable(manifest)
    if not info.adapter_rank:
        raise UserError(
            f"{info.file} takes no adapters; make the bundle with model.adapter_rank=16, or the rank it has"
        )
    changed = [step.step for step in manifest.what.adaptation if step.step != "qat"]
    if changed:
        raise UserError(
            f"{manifest.what.name} is a model changed by {', '.join(changed)}, and what an adapter would be compared "
            "with is not known any more; make the bundle from the changed checkpoint itself, as model.source"
        )
    if is_gguf(given):
        checkpoint = _base(manifest, given, gguf.base_of(given), base)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            gguf.write_peft(given, Folder(checkpoint), folder)
            try:
                lora = read_lora(folder)
            except UserError as error:
                said = str(error).replace(str(folder / WEIGHTS), str(given)).replace(str(folder), str(given))
                raise UserError(said) from error
            yield _Opened(folder, lora, checkpoint, {given.name: cache.sha256_file(given)})
    else:
        lora = read_lora(given)
        files = {each: cache.sha256_file(given / each) for each in (CONFIG, WEIGHTS)}
        yield _Opened(given, lora, _base(manifest, given, lora.base, base), files)


def check_samples_of_adapters(
    folder: Path, manifest: Manifest, info: ProgramInfo, tokenizer: Tokenizer, threads: int | None
) -> Iterator[Checked]:
    """Asks a program with each of its adapters for its sample answers again."""
    slot = slot_of(folder, info)
    assert slot is not None
    program = load_program(folder, info, manifest, tokenizer, threads, slot=slot)
    for adapter in manifest.adapters:
        if adapter.program == info.file:
            slot.put(folder / adapter.file)
            yield check_samples(program, tokenizer, manifest, info, adapter.samples, f"adapter {adapter.name}")


def _base(manifest: Manifest, peft: Path, named: str | None, given: Path | None) -> Path:
    """The folder of the original that the bundle was made from; any other is refused."""
    origin = manifest.what.source
    if given is not None:
        checkpoint = host.expanded(given)
    elif origin.source.startswith("builtin:"):
        checkpoint = source.BUILTIN[origin.source.removeprefix("builtin:")]
    elif named is not None and (peft.parent / named).is_dir():
        checkpoint = peft.parent / named
    else:
        raise UserError(f"the adapter is compared with its base {named or origin.source} by peft: give --base FOLDER")
    found = hash_files(checkpoint, lambda *_: None)
    for file, expected in origin.files.items():
        if Path(file).suffix in _COMPUTING and found.get(file) != expected:
            raise UserError(
                f"{checkpoint} is another base than the one that the bundle was made from: its {file} has SHA-256 "
                f"{found.get(file, 'none')[:12]}, and the bundle says {expected[:12]}"
            )
    return checkpoint


def _tried(
    folder: Path, manifest: Manifest, info: ProgramInfo, file: Path, opened: _Opened
) -> tuple[bundle.AdapterQuality, list[bundle.Sample]]:
    """The verdict on an adapter, and the program's answers to the prompts of the manifest's samples."""
    from et_pipeline.evaluation.adapter import judge
    from et_pipeline.runtime.chat import greedy_answer

    tokenizer, form, slot = load_tokenizer(folder, manifest), manifest.chat, slot_of(folder, info)
    assert form is not None
    assert slot is not None
    slot.put(file)
    program = load_program(folder, info, manifest, tokenizer, None, slot=slot)
    system = [{"role": "system", "content": form.system_prompt}] if form.system_prompt else []
    said = [[*system, {"role": "user", "content": sample.prompt}] for sample in manifest.samples]
    prompts = [tokenizer.encode(form.segments.render(each), add_special_tokens=False).ids for each in said]
    thresholds = Gate(**manifest.quality_of(info).gate.thresholds)
    quality = judge(program, opened.base, opened.folder, prompts, manifest.tokenizer.eos_ids, thresholds)
    samples = [
        sample.model_copy(
            update={
                "answer": greedy_answer(
                    program,
                    tokenizer,
                    form,
                    manifest.tokenizer,
                    info.max_context,
                    sample.prompt,
                    manifest.tasks[sample.task].max_new_tokens,
                )
            }
        )
        for sample in manifest.samples
    ]
    return quality, samples

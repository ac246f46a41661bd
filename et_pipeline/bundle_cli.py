"""`et-bundle`: look into a bundle, check it, talk to it, time it, pack it, give it to a phone."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from et_pipeline import bundle as bundles
from et_pipeline import manifest as bundle
from et_pipeline.errors import EXIT_GATE, EXIT_USER, GateError, UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from et_pipeline.runtime.chat import ChatSession
    from et_pipeline.runtime.program import Program

SIMILARITY_TOLERANCE = 0.02  # of a cosine: processors round activations to 8 bits a little differently

app = typer.Typer(
    help="Look into a bundle, check it, talk to it, time it, pack it, give it to a phone.\n\n"
    "A bundle is what et-pipeline makes for a phone: a folder, or one .zip, with ExecuTorch programs (.pte), the "
    "tokenizer and manifest.json.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

PathArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle: a folder or a .zip.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for other programs instead of tables.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Threads that compute; by default the runtime chooses.", show_default=False)
]


def main() -> NoReturn:
    """The console entry point: errors become one sentence and an exit code, except bugs of ours."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that temporary folders are removed
    try:
        app()
    except UserError as error:
        _fail(error, EXIT_USER)
    except GateError as error:
        _fail(error, EXIT_GATE)
    sys.exit(0)


def _fail(error: Exception, code: int) -> NoReturn:
    sys.stderr.write(_printable(" ".join(str(error).split())) + "\n")
    sys.exit(code)


@app.command()
def inspect(path: PathArgument, as_json: JsonOption = False) -> None:
    """Show what is in a bundle: model, programs, memory, quality, speed, tasks.

    Reads the manifest only. Names and sizes of the files are compared with it; 'verify' also checks their content.
    """
    manifest = bundles.peek(path)
    if as_json:
        _print_json(manifest.model_dump(mode="json"))
        return
    console = _console()
    for title, columns, rows in _summary(manifest):
        if rows:
            _print_table(console, title, columns, rows)


@app.command()
def verify(path: PathArgument, as_json: JsonOption = False, threads: ThreadsOption = None) -> None:
    """Check that a bundle is whole and works: hashes, programs, sample answers, quality.

    Every program that this computer can run is loaded, and must give the sample answers that the manifest holds. Exit
    code 0: all is well. 2: the bundle is broken. 3: it is whole, but its answers differ or its quality gate failed.
    """
    with bundles.open_bundle(path) as (folder, manifest):
        checks = list(_checks(folder, manifest, threads))
    failed = [check for check in checks if not check.passed]
    if as_json:
        _print_json({"passed": not failed, "checks": [dataclasses.asdict(check) for check in checks]})
    else:
        rows = [("ok" if check.passed else "FAILED", check.name, check.detail) for check in checks]
        _print_table(_console(), f"{manifest.what.name}", ("", "check", "result"), rows)
    if failed:
        raise GateError(f"{path} did not pass: " + "; ".join(f"{check.name}: {check.detail}" for check in failed))


@app.command()
def chat(
    path: PathArgument,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="System prompt instead of the bundle's own.", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.0, help="0 answers the same every time; higher varies more. Default: the bundle's own."),
    ] = None,
    threads: ThreadsOption = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    keep_packed: Annotated[
        bool, typer.Option(help="Keep a large model's weights as this processor wants them, to load fast next time.")
    ] = True,
    cache: Annotated[
        Path, typer.Option(envvar="ET_PIPELINE_CACHE", metavar="FOLDER", help="Where they are kept.")
    ] = Path("~/.cache/et_pipeline"),
) -> None:
    """Talk to the model of a bundle in the terminal.

    /reset begins a new chat, /quit or Ctrl-D ends, Ctrl-C stops an answer. With piped input each line is a message.
    """
    with bundles.open_bundle(path) as (folder, manifest):
        from et_pipeline.runtime.chat import ChatSession

        form = manifest.chat
        if form is None:
            raise UserError(f"{manifest.what.name} embeds texts and cannot chat: use 'et-bundle embed' with it.")
        info = _first_runnable(manifest)
        sampling = form.sampling
        if temperature is not None:
            sampling = sampling.model_copy(update={"temperature": temperature})
        if system and not form.segments.supports_system:
            raise UserError(f"{manifest.what.name} takes no system prompt: leave --system out.")
        tokenizer = _load_tokenizer(folder, manifest)
        session = ChatSession.of_bundle(
            _load_program(folder, info, manifest, tokenizer, threads, cache if keep_packed else None),
            tokenizer,
            form,
            manifest.tokenizer,
            info.max_context,
            system_prompt=system,
            sampling=sampling,
            seed=int.from_bytes(os.urandom(4)),
        )
        _talk(session, manifest.what.name, max_new_tokens)


@app.command()
def bench(
    path: PathArgument,
    as_json: JsonOption = False,
    prompt_tokens: Annotated[int, typer.Option(min=2, help="Length of the prompt or text, in tokens.")] = 128,
    decode_tokens: Annotated[int, typer.Option(min=2, help="Length of the answer, in tokens.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="How often to measure.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads that compute; a phone's app chooses itself.")] = 2,
    phone: Annotated[
        bool, typer.Option("--phone", help="Measure on the connected phone, and write the result into the manifest.")
    ] = False,
) -> None:
    """Measure how fast the model of a bundle loads, reads a prompt and answers: on this computer, or on a phone.

    Of a model that embeds texts: how fast it loads and embeds a text of --prompt-tokens, on this computer.
    """
    if phone:
        from et_pipeline.runtime import phone as phones

        _print_speed(phones.benchmark(path, prompt_tokens, decode_tokens, rounds).speed, as_json)
        return
    with bundles.open_bundle(path) as (folder, manifest):
        from et_pipeline.backends import get_backend

        info = _first_runnable(manifest)
        if not get_backend(info.backend).timed:
            raise UserError(f"The speed of {info.file} on this computer says nothing: measure it on a phone.")
        if manifest.embedding is not None:
            from et_pipeline.runtime.embedding import measure_embedding

            text = measure_embedding(folder / info.file, prompt_tokens, rounds, threads)
            speed = bundle.EmbeddingSpeed(where="this computer", threads=threads, **text.model_dump())
            if as_json:
                _print_json(speed.model_dump(mode="json"))
            else:
                _print_table(_console(), *_embedding_speed_table([speed]))
            return
        if prompt_tokens + decode_tokens > info.max_context:
            raise UserError(
                f"--prompt-tokens {prompt_tokens} and --decode-tokens {decode_tokens} together exceed the context of "
                f"{info.max_context} tokens: ask for less."
            )
        from et_pipeline.runtime.speed import measure_speed

        measured = measure_speed(
            folder / info.file,
            folder / manifest.tokenizer.file,
            prompt_tokens,
            decode_tokens,
            rounds,
            threads,
            _weights(folder, info),
        )
    _print_speed(bundle.Speed(where="this computer", threads=threads, **measured.model_dump()), as_json)


@app.command()
def embed(
    path: PathArgument,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Texts to compare, each in quotes.")],
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Embed texts with a bundle that is made for it, and show how similar each two of them are.

    1 is the same, 0 unrelated. With --json the embeddings themselves are printed too. A text that is too long is cut,
    and that is said.
    """
    with bundles.open_bundle(path) as (folder, manifest):
        embedding = manifest.embedding
        if embedding is None:
            raise UserError(f"{manifest.what.name} answers and does not embed texts: use 'et-bundle chat' with it.")
        from et_pipeline.evaluation.embedding import cosine
        from et_pipeline.runtime.embedding import embed as embed_ids
        from et_pipeline.runtime.embedding import for_one_text

        tokenizer = _load_tokenizer(folder, manifest)
        tokenizer.no_truncation()
        whole = [len(tokenizer.encode(text).ids) for text in texts]
        for_one_text(tokenizer, embedding.max_tokens)
        program = _load_program(folder, _first_runnable(manifest), manifest, tokenizer, threads)
        vectors = [embed_ids(program, tokenizer.encode(text).ids) for text in texts]
    for number, length in enumerate(whole, start=1):
        if length > embedding.max_tokens:
            sys.stderr.write(
                f"Text {number} has {length} tokens, and what follows the first {embedding.max_tokens} was left out.\n"
            )
    similarities = [[cosine(a, b) for b in vectors] for a in vectors]
    if as_json:
        _print_json({"embeddings": [vector.tolist() for vector in vectors], "similarities": similarities})
        return
    numbers = [str(number) for number in range(1, len(texts) + 1)]
    rows = [
        (number, *(f"{value:.3f}" for value in row), text)
        for number, row, text in zip(numbers, similarities, texts, strict=True)
    ]
    _print_table(_console(), "Cosine similarity", ("", *numbers, "text"), rows)


@app.command("eval")
def evaluate(
    path: PathArgument,
    tasks: Annotated[str, typer.Option(metavar="NAME,...", help="Tasks of lm-evaluation-harness.")],
    include_path: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Tasks of your own, as the harness's YAML.", show_default=False),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most items of a task; default: all.")] = None,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Score a bundle on tasks of EleutherAI's lm-evaluation-harness: the program itself, as the phone runs it.

    Needs the extra 'eval'. A token that is scored takes as long as a token of an answer; begin with --limit 20.
    """
    with bundles.open_bundle(path) as (folder, manifest):
        if manifest.chat is None:
            raise UserError(f"{manifest.what.name} embeds texts, and the harness asks for answers.")
        try:
            from et_pipeline.evaluation import harness
        except ModuleNotFoundError as error:
            if error.name != "lm_eval":
                raise
            raise UserError("et-bundle eval needs lm-evaluation-harness: pip install 'et-pipeline[eval]'.") from error
        info = _first_runnable(manifest)
        tokenizer = _load_tokenizer(folder, manifest)
        program = _load_program(folder, info, manifest, tokenizer, threads)
        model = harness.DeployedModel(program, tokenizer, manifest.tokenizer, info.max_context)
        found = harness.evaluate(model, tasks.split(","), include_path, limit)
    results, counts = found["results"], found["n-samples"]
    if as_json:
        _print_json({task: {**figures, "items": counts[task]["effective"]} for task, figures in results.items()})
        return
    rows = [
        (task, name.split(",")[0], f"{value:.4f}", _stderr(figures, name), str(counts[task]["effective"]))
        for task, figures in results.items()
        for name, value in figures.items()
        if isinstance(value, float) and "_stderr," not in name
    ]
    _print_table(_console(), f"{manifest.what.name}: {info.file}", ("task", "metric", "value", "error", "items"), rows)


def _stderr(figures: Mapping[str, Any], name: str) -> str:
    """The standard error of a metric, where the harness has one."""
    error = figures.get(name.replace(",", "_stderr,"))
    return f"{error:.4f}" if isinstance(error, float) else ""


@app.command("add-speed")
def add_speed(
    path: Annotated[Path, typer.Argument(metavar="FOLDER", help="The bundle's folder.")],
    report: Annotated[Path, typer.Argument(metavar="REPORT.json", help="What the app's benchmark screen exported.")],
) -> None:
    """Write what the app measured on a phone into the bundle's manifest."""
    from et_pipeline.runtime import phone as phones

    try:
        data = report.read_bytes()
    except OSError as error:
        raise UserError(f"{report} cannot be read ({error.strerror}).") from error
    read = phones.read_report(data, str(report))
    phones.add_speed(path, read)
    _print_speed(read.speed, as_json=False)


@app.command()
def push(path: PathArgument) -> None:
    """Give a bundle to the app on the connected phone."""
    from et_pipeline.runtime import phone as phones

    sys.stdout.write(f"{phones.push(path)} is on the phone; the app checks it and takes it in.\n")


@app.command("zip")
def zip_command(
    path: Annotated[Path, typer.Argument(metavar="FOLDER", help="The bundle's folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.zip", help="The file to write.")],
) -> None:
    """Pack a bundle folder into one .zip that the app can import."""
    bundles.write_zip(path, out)
    sys.stdout.write(f"{out}: {_size(out.stat().st_size)}\n")


@dataclasses.dataclass(frozen=True)
class Checked:
    """One line of `verify`."""

    name: str
    passed: bool
    detail: str


def _checks(folder: Path, manifest: bundle.Manifest, threads: int | None) -> Iterator[Checked]:
    """Checks an opened bundle, whose hashes are already known to be right."""
    import jsonschema

    total = sum(file.size for file in manifest.files.values())
    yield Checked("files", True, f"{len(manifest.files)} files, {_size(total)}, every SHA-256 as in the manifest")
    schema = json.loads(bundle.SCHEMA_PATH.read_text(encoding="utf-8"))
    content = json.loads((folder / bundle.FILE_NAME).read_text(encoding="utf-8"))
    try:
        jsonschema.validate(content, schema)
    except jsonschema.ValidationError as error:
        raise UserError(f"{bundle.FILE_NAME}: {error.json_path} breaks the JSON Schema: {error.message}.") from error
    yield Checked("manifest", True, f"follows the JSON Schema of version {manifest.version}")

    tokenizer = _load_tokenizer(folder, manifest)
    for info in manifest.programs:
        hindrance = _hindrance(info)
        if hindrance is not None:
            yield Checked(info.file, True, f"not run: {hindrance}")
            continue
        program = _load_program(folder, info, manifest, tokenizer, threads)
        yield Checked(info.file, True, "loads, and its metadata are as in the manifest")
        if manifest.chat is not None and info == manifest.main:
            yield _check_samples(program, tokenizer, manifest, manifest.chat, info)
        if manifest.embedding is not None and info == manifest.main:
            yield _check_similarities(program, tokenizer, manifest.embedding, info)

    for info, gate in zip(manifest.programs, manifest.gates, strict=True):
        missed = [
            f"{check.name} {check.value:.4g} (threshold {check.threshold:.4g})"
            for check in gate.checks
            if not check.passed
        ]
        verdict = (
            f"all {len(gate.checks)} checks passed" if gate.passed else f"below its threshold: {', '.join(missed)}"
        )
        yield Checked(f"quality gate of {info.file}", gate.passed, verdict)


def _check_samples(
    program: Program, tokenizer: Tokenizer, manifest: bundle.Manifest, form: bundle.Chat, info: bundle.ProgramInfo
) -> Checked:
    """Answers the manifest's sample prompts again."""
    from et_pipeline.runtime.chat import greedy_answer

    name = f"sample answers of {info.file}"
    different = []
    for sample in manifest.samples:
        limit = manifest.tasks[sample.task].max_new_tokens
        answer = greedy_answer(program, tokenizer, form, manifest.tokenizer, info.max_context, sample.prompt, limit)
        if answer != sample.answer:
            different.append(f"{sample.task} {sample.prompt!r} gave {answer!r} instead of {sample.answer!r}")
    if different:
        return Checked(name, False, f"{len(different)} of {len(manifest.samples)} differ, first: {different[0]}")
    return Checked(name, True, f"{len(manifest.samples)} equal" if manifest.samples else "the manifest has none")


def _check_similarities(
    program: Program, tokenizer: Tokenizer, embedding: bundle.Embedding, info: bundle.ProgramInfo
) -> Checked:
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


def _first_runnable(manifest: bundle.Manifest) -> bundle.ProgramInfo:
    """The first program that this computer can run, on a simulator only if there is no other."""
    from et_pipeline.backends import get_backend

    hindrances = {}
    for info in sorted(manifest.programs, key=lambda each: not get_backend(each.backend).timed):
        hindrance = _hindrance(info)
        if hindrance is None:
            return info
        hindrances[info.backend] = hindrance
    backends, why = ", ".join(sorted(hindrances)), "; ".join(hindrances.values())
    raise UserError(f"This computer cannot run {manifest.what.name}: its programs are for {backends} only ({why}).")


def _hindrance(info: bundle.ProgramInfo) -> str | None:
    """Why this computer cannot run a program; None if it can, and then what that takes is loaded."""
    from et_pipeline.backends import get_backend

    try:
        backend = get_backend(info.backend)
        if not (backend.can_execute and info.executed):
            return f"this computer has no {info.backend} that runs it"
        backend.prepare()
    except UserError as error:
        return str(error)
    return None


def _weights(folder: Path, info: bundle.ProgramInfo) -> Path | None:
    """The file with a program's external weights; this runtime takes one."""
    if len(info.weights) > 1:
        raise UserError(f"{info.file} has its weights in {len(info.weights)} files, and only one is supported.")
    return folder / info.weights[0] if info.weights else None


def _packed(cache: Path, info: bundle.ProgramInfo, manifest: bundle.Manifest) -> Path | None:
    """Where a program's packed weights are kept, if that is worth their space on the disk."""
    from et_pipeline.runtime import packed_weights

    files = [manifest.files[name] for name in (info.file, *info.weights)]
    size = sum(file.size for file in files)
    if info.backend != "xnnpack" or size < packed_weights.WORTHWHILE_BYTES:
        return None
    entry = packed_weights.find_entry(cache, [file.sha256 for file in files], size)
    if entry is not None and not entry.exists():
        _note(_console(), f"Packs the weights for this processor and keeps about {_size(size)} in {entry.parent}.")
    return entry


def _load_program(
    folder: Path,
    info: bundle.ProgramInfo,
    manifest: bundle.Manifest,
    tokenizer: Tokenizer,
    threads: int | None,
    cache: Path | None = None,
) -> Program:
    """Loads a program and compares what it says about itself with the manifest, where it says it."""
    from et_pipeline.runtime.program import Program

    packed = _packed(cache, info, manifest) if cache else None
    try:
        program = Program(folder / info.file, threads=threads, weights=_weights(folder, info), packed=packed)
    except RuntimeError as error:
        raise UserError(f"{info.file} cannot be loaded by the ExecuTorch runtime ({error}).") from error
    expected: dict[str, Any] = {
        "get_max_context_len": info.max_context,
        "get_max_seq_len": info.prefill_chunk,
        "get_eos_ids": manifest.tokenizer.eos_ids,
    }
    if manifest.tokenizer.bos_id is not None:
        expected["get_bos_id"] = manifest.tokenizer.bos_id
    for key, value in expected.items():
        found = program.metadata.get(key, value)
        if found != value:
            raise UserError(
                f"{info.file} does not belong to this manifest: its {key} is {found}, and the manifest says {value}."
            )
    # The runtime ends the whole process on an id that the model does not have.
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    size = program.metadata.get("get_vocab_size", highest + 1)
    if highest >= size:
        raise UserError(
            f"{info.file} does not belong to {manifest.tokenizer.file}: it knows {size} tokens, and the tokenizer has "
            f"an id {highest}."
        )
    return program


def _load_tokenizer(folder: Path, manifest: bundle.Manifest) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / manifest.tokenizer.file))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{manifest.tokenizer.file} is no tokenizer in Hugging Face's format ({error}).") from error


def _talk(session: ChatSession, name: str, max_new_tokens: int) -> None:
    """The terminal conversation: reads messages, shows answers."""
    from et_pipeline.runtime.chat import ContextFullError

    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    console = _console()
    if terminal:
        console.print(Text(f"{name} answers. /reset begins a new chat, /quit ends, Ctrl-C stops an answer.", "dim"))
    for message in _messages(terminal):
        if message == "/quit":
            break
        if message == "/reset":
            session.reset()
            _note(console, "New chat.")
            continue
        if not message:
            continue
        try:
            _show_answer(session, message, max_new_tokens)
        except ContextFullError as full:
            if session.is_new:
                _note(console, f"This message is too long for the model: {full}.")
                continue
            _note(console, f"The chat is full: {full}. A new chat begins with your message.")
            session.reset()
            try:
                _show_answer(session, message, max_new_tokens)
            except ContextFullError as too_long:
                _note(console, f"This message is too long for the model: {too_long}.")
                continue
        if session.last and session.last.end == "context":
            _note(console, "The chat is full: the answer was cut off. A new chat begins with your next message.")
            session.reset()
        if terminal and (last := session.last):
            figures = f"{last.tokens} tokens, first after {last.ttft_s * 1000:.0f} ms, {last.decode_tok_s:.1f} tok/s"
            console.print(Text(figures, "dim"))


def _messages(terminal: bool) -> Iterator[str]:
    """What the user types, line by line, until the end of input."""
    if not terminal:
        for line in sys.stdin:
            yield line.strip()
        return
    import readline  # noqa: F401  gives input() line editing and history

    while True:
        try:
            yield input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            sys.stdout.write("\n")
            return


def _show_answer(session: ChatSession, message: str, max_new_tokens: int) -> None:
    pieces = session.ask(message, max_new_tokens)
    try:
        for piece in pieces:
            sys.stdout.write(_printable(piece))
            sys.stdout.flush()
    except KeyboardInterrupt:
        pieces.close()
    sys.stdout.write("\n")
    sys.stdout.flush()


def _note(console: Console, text: str) -> None:
    """A line about the chat, apart from the answers: on stderr when the output is piped."""
    if console.is_terminal:
        console.print(Text(text, "yellow"))
    else:
        sys.stderr.write(text + "\n")


Rows = Sequence[Sequence[str]]
Titled = tuple[str, Sequence[str], Rows]
"""A table: title, columns, rows."""


def _quality_tables(quality: bundle.Quality) -> Iterator[Titled]:
    """What is known of one program."""
    if quality.agreement:
        yield (
            "Agreement of the program's logits",
            ("against", "fed", "tokens", "cosine", "lowest", "max diff", "KL", "top-1"),
            [
                (
                    against,
                    way,
                    str(figures.positions),
                    f"{figures.cosine:.6f}",
                    f"{figures.min_cosine:.6f}",
                    f"{figures.max_abs_diff:.3g}",
                    f"{figures.kl:.2g}",
                    f"{figures.top1:.1%}",
                )
                for against, ways in quality.agreement
                for way, figures in ways
            ],
        )
    if quality.embedding:
        yield (
            "Agreement of the program's embeddings",
            ("against", "texts", "cosine", "lowest", "max diff", "rank correlation"),
            [
                (
                    against,
                    str(figures.texts),
                    f"{figures.cosine:.6f}",
                    f"{figures.min_cosine:.6f}",
                    f"{figures.max_abs_diff:.3g}",
                    f"{figures.rank_correlation:.6f}",
                )
                for against, figures in quality.embedding
            ],
        )
    if quality.text:
        text = quality.text
        models = {"quantized eager": text.quantized, "program": text.deployed}
        what = f"{text.source}, {text.tokens} tokens, window {text.window}, stride {text.stride}"
        yield (
            "Quality on a text",
            ("model", "perplexity", "KL", "top-1", "text"),
            [
                ("original", f"{text.original:.3f}", "", "", what),
                *(
                    (name, f"{found.perplexity:.3f}", f"{found.kl:.2g}", f"{found.top1:.1%}", "")
                    for name, found in models.items()
                    if found is not None
                ),
            ],
        )
    scores = [
        (task, f"{score.original:.1f} %", f"{score.deployed:.1f} %", str(score.items))
        for task, score in quality.tasks.items()
    ]
    if quality.perplexity:
        scores.append(("perplexity", f"{quality.perplexity.original:.2f}", f"{quality.perplexity.deployed:.2f}", ""))
    if quality.greedy:
        equal = f"{quality.greedy.equal} of {quality.greedy.prompts} answers equal"
        scores.append(("greedy answers", "", f"{equal}, {quality.greedy.agreement:.1%} of their tokens", ""))
    yield "Quality", ("task", "original", "deployed", "items"), scores
    yield (
        f"Gate: {'passed' if quality.gate.passed else 'FAILED'}",
        ("check", "value", "threshold", ""),
        [
            (check.name, f"{check.value:.4g}", f"{check.threshold:.4g}", "ok" if check.passed else "FAILED")
            for check in quality.gate.checks
        ],
    )


def _summary(manifest: bundle.Manifest) -> Iterator[Titled]:
    """The tables of `inspect`."""
    from et_pipeline.report.tables import outside

    what, memory = manifest.what, manifest.memory
    total = sum(file.size for file in manifest.files.values())
    revision = f" at {what.source.revision}" if what.source.revision else ""
    yield (
        what.name,
        ("", ""),
        [
            ("model", f"{what.architecture} ({what.family}), {_count(what.parameters)} parameters"),
            ("source", what.source.source + revision),
            ("licence", what.licence or "unknown"),
            ("made", (what.created or "(no date)") + " with " + ", ".join(f"{k} {v}" for k, v in what.tools.items())),
            ("size", f"{_size(total)} in {len(manifest.files)} files"),
            (
                "memory",
                f"{_size(memory.resident_bytes)} while answering, {_size(memory.peak_bytes)} at most; "
                f"weights {_size(memory.weights_bytes)}, KV cache {_size(memory.kv_cache_bytes)}",
            ),
            ("phone", f"{_size(memory.min_device_ram_bytes)} of RAM or more"),
        ],
    )
    yield (
        "Programs",
        (
            "file",
            "size",
            "backend",
            "recipe",
            "chips",
            "context",
            "chunk",
            "delegates",
            "outside",
            "where made",
            "gate",
        ),
        [
            (
                info.file,
                _size(manifest.files[info.file].size),
                info.backend,
                info.recipe or "",
                ", ".join(info.soc) + (f" ({info.hexagon})" if info.hexagon else "") or "any",
                str(info.max_context),
                str(info.prefill_chunk),
                str(info.delegates),
                str(sum(info.fallback_operators.values())),
                "executed" if info.executed else "twin executed" if info.twin else "not executed",
                "passed" if manifest.quality_of(info).gate.passed else "FAILED",
            )
            for info in manifest.programs
        ],
    )
    yield (
        "Outside the delegates",
        ("file", "why and what"),
        [(info.file, line) for info in manifest.programs for line in outside(info)],
    )
    needs: dict[str, list[str]] = {}
    for info in manifest.programs:
        if info.qairt:
            needs.setdefault(f"QAIRT {info.qairt} or newer. {info.notice or ''}", []).append(info.file)
    yield "Needs", ("", ""), [("\n".join(files), text) for text, files in needs.items()]
    for info in manifest.programs:
        several = f" of {info.file}" if len(manifest.programs) > 1 else ""
        for title, columns, rows in _quality_tables(manifest.quality_of(info)):
            yield title.replace(":", f"{several}:") if ":" in title else title + several, columns, rows
    if manifest.embedding:
        made = manifest.embedding
        length = "of length 1" if made.normalised else "not normalised"
        what_it_gives = f"{made.dimension} numbers, {made.pooling} of the tokens, {length}"
        yield "Embedding", ("", ""), [("gives", what_it_gives), ("takes", f"texts of up to {made.max_tokens} tokens")]
        yield _embedding_speed_table(made.speed)
    if not manifest.embedding:
        yield _speed_table(manifest.speed)
    yield (
        "Tasks",
        ("name", "title", "choices", "longest answer"),
        [
            (
                name,
                task.title,
                "; ".join(f"{key}: {', '.join(options)}" for key, options in task.choices.items()),
                f"{task.max_new_tokens} tokens",
            )
            for name, task in manifest.tasks.items()
        ],
    )


def _embedding_speed_table(speeds: Iterable[bundle.EmbeddingSpeed]) -> tuple[str, Sequence[str], Rows]:
    rows = [
        (
            speed.where,
            str(speed.threads),
            _spread(speed.load_ms),
            _spread(speed.text_ms),
            str(speed.tokens),
            _size(speed.program_rss_bytes),
        )
        for speed in speeds
    ]
    return _SPEED, ("where", "threads", "load ms", "text ms", "tokens", "memory"), rows


def _print_speed(speed: bundle.Speed, as_json: bool) -> None:
    if as_json:
        _print_json(speed.model_dump(mode="json"))
    else:
        title, columns, rows = _speed_table([speed])
        _print_table(_console(), title, columns, rows)


def _spread(figure: bundle.Percentiles) -> str:
    return f"{figure.p50:.1f} ({figure.p10:.1f} to {figure.p90:.1f})"


_SPEED = "Speed: median (10th to 90th percentile)"


def _speed_table(speeds: Iterable[bundle.Speed]) -> tuple[str, Sequence[str], Rows]:
    columns = ("where", "threads", "load ms", "first token ms", "prefill tok/s", "decode tok/s", "tokens", "memory")
    rows = [
        (
            speed.where,
            str(speed.threads),
            _spread(speed.load_ms),
            _spread(speed.ttft_ms),
            _spread(speed.prefill_tok_s),
            _spread(speed.decode_tok_s),
            f"{speed.prompt_tokens} + {speed.decode_tokens}",
            _size(speed.program_rss_bytes),
        )
        for speed in speeds
    ]
    return _SPEED, columns, rows


def _print_table(console: Console, title: str, columns: Sequence[str], rows: Rows) -> None:
    """A table without lines, which reads the same in a terminal and in a file."""
    table = Table(
        title=Text(_printable(title), "bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        show_header=any(columns),
        header_style="dim",
    )
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_printable(cell), "red" if cell == "FAILED" else "") for cell in row))
    console.print(table)
    console.print()


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # nobody's window: do not break lines
    return console


def _print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _printable(text: str) -> str:
    """Text without control characters: what a bundle or a model says must not steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def _size(count: int) -> str:
    """Bytes for people, in powers of ten, as phone makers count."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def _count(number: int) -> str:
    for unit, scale in (("billion", 10**9), ("million", 10**6)):
        if number >= scale:
            return f"{number / scale:.2f} {unit}"
    return str(number)


if __name__ == "__main__":
    main()

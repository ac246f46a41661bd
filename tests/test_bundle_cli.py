"""`et-bundle`: what it prints, its exit codes, and what it leaves behind."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import zipfile

import pytest
from made_bundle import (
    EOS,
    PTE,
    EchoProgram,
    EmbeddingProgram,
    byte_tokenizer,
    make_bundle,
    make_embedding_manifest,
    make_gate,
    make_manifest,
    write_files,
)

from et_pipeline import bundle as bundles
from et_pipeline import bundle_cli
from et_pipeline import manifest as bundle
from et_pipeline.errors import UserError
from et_pipeline.runtime import packed_weights, program


@pytest.fixture
def folder(tmp_path):
    return make_bundle(tmp_path / "tiny")


@pytest.fixture
def packed(folder, tmp_path):
    bundles.write_zip(folder, tmp_path / "tiny.zip")
    return tmp_path / "tiny.zip"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture(autouse=True)
def _fake_program(monkeypatch):
    monkeypatch.setattr(program, "Program", EchoProgram)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command as the console does; returns exit code, output and errors."""

    def run(*arguments, stdin=None):
        monkeypatch.setattr(sys, "argv", ["et-bundle", *map(str, arguments)])
        if stdin is not None:
            read, write = os.pipe()
            os.write(write, stdin.encode())
            os.close(write)
            monkeypatch.setattr(sys, "stdin", os.fdopen(read, encoding="utf-8"))
        with pytest.raises(SystemExit) as exited:
            bundle_cli.main()
        captured = capsys.readouterr()
        return exited.value.code, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    "command", [[], ["inspect"], ["verify"], ["chat"], ["bench"], ["zip"], ["push"], ["add-speed"]]
)
def test_help(run, command):
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert "Usage" in out


@pytest.mark.parametrize("kind", ["folder", "packed"])
def test_inspect_shows_all_parts(run, request, kind, temporary):
    code, out, err = run("inspect", request.getfixturevalue(kind))
    assert code == 0
    assert err == ""
    for text in (
        "LlamaForCausalLM",
        "1.23 million",
        "apache-2.0",
        "builtin:tiny",
        "xnnpack",
        "Gate: passed",
        "0.999900",
    ):
        assert text in out
    for text in ("89.0 %", "9.50", "2.0 (1.0 to 3.0)", "German, French", "1.0 GB of RAM", "2026-01-02"):
        assert text in out
    assert "\x1b" not in out
    assert list(temporary.iterdir()) == []


def test_inspect_json_is_the_manifest(run, packed):
    _, out, _ = run("inspect", packed, "--json")
    assert bundle.Manifest.model_validate_json(out) == bundles.peek(packed)


def test_inspect_of_a_bundle_without_measurements(run, tmp_path):
    quality = bundle.Quality(gate=make_gate(passed=False))
    folder = make_bundle(tmp_path / "x", quality=quality, speed=[], tasks={}, samples=[])
    code, out, _ = run("inspect", folder)
    assert code == 0
    assert "Gate: FAILED" in out
    assert "Speed" not in out


def test_inspect_of_several_programs(run, tmp_path):
    folder = make_bundle(tmp_path / "x")
    (folder / "qnn-sm8650.pte").write_bytes(b"for the NPU")
    manifest = bundle.read(folder)
    for_chip = {
        "file": "qnn-sm8650.pte",
        "backend": "qnn",
        "soc": ["SM8650"],
        "hexagon": "V75",
        "qairt": "v2.49.40",
        "notice": "Under Qualcomm's licence.",
        "fallback_operators": {"aten::cat.out": 2},
        "fallback_reasons": {"aten::cat.out": "no kernel"},
        "executed": False,
        "quality": bundle.Quality(gate=make_gate(passed=False)),
    }
    programs = [manifest.main.model_copy(update=for_chip), manifest.main]
    files = bundle.describe_files(folder)
    bundle.write(manifest.model_copy(update={"programs": programs, "files": files}), folder)
    code, out, _ = run("inspect", folder)
    assert code == 0
    for text in (
        "SM8650 (V75)",
        "QAIRT v2.49.40 or newer. Under Qualcomm's licence.",
        "no kernel: 2 x aten::cat.out",
        "Gate of qnn-sm8650.pte: FAILED",
        f"Gate of {PTE}: passed",
    ):
        assert text in out
    code, out, err = run("verify", folder)
    assert code == 3
    assert "quality gate of qnn-sm8650.pte: below its threshold" in err
    assert "not run: this computer has no qnn that runs it" in out


def test_text_of_a_bundle_does_not_steer_the_terminal(run, tmp_path):
    files = make_bundle(tmp_path / "x") and bundle.describe_files(tmp_path / "x")
    manifest = make_manifest(files)
    what = manifest.what.model_copy(update={"licence": "\x1b[31m[bold]red[/bold]\x07"})
    bundle.write(manifest.model_copy(update={"what": what}), tmp_path / "x")
    _, out, _ = run("inspect", tmp_path / "x")
    assert "[31m[bold]red[/bold]" in out
    assert "\x1b" not in out
    assert "\x07" not in out


@pytest.mark.parametrize("kind", ["folder", "packed"])
def test_verify_passes(run, request, kind, temporary):
    code, out, err = run("verify", request.getfixturevalue(kind))
    assert code == 0, err
    assert "FAILED" not in out
    assert "1 equal" in out
    assert list(temporary.iterdir()) == []


def test_verify_json(run, folder):
    code, out, _ = run("verify", folder, "--json")
    assert code == 0
    result = json.loads(out)
    assert result["passed"] is True
    assert all(check["passed"] and check["detail"] for check in result["checks"])


def test_verify_fails_on_another_answer(run, tmp_path):
    samples = [bundle.Sample(task="translate", prompt="To German: hi", answer="Hallo")]
    code, out, err = run("verify", make_bundle(tmp_path / "x", samples=samples), "--json")
    assert code == 3
    assert json.loads(out)["passed"] is False
    assert "instead of 'Hallo'" in err
    assert err.count("\n") == 1


def test_verify_fails_with_its_gate(run, tmp_path):
    quality = bundle.Quality(gate=make_gate(passed=False))
    code, _, err = run("verify", make_bundle(tmp_path / "x", quality=quality))
    assert code == 3
    assert "top1 against original 0.5 (threshold 0.9)" in err


def test_verify_says_what_it_could_not_run(run, tmp_path):
    program = make_manifest(
        {PTE: bundle.File(size=1, sha256="0" * 64), "tokenizer.json": bundle.File(size=1, sha256="0" * 64)}
    ).programs[0]
    folder = make_bundle(tmp_path / "x", programs=[program.model_copy(update={"backend": "qnn", "executed": False})])
    code, out, _ = run("verify", folder)
    assert code == 0
    assert "not run: this computer has no qnn that runs it" in out
    code, _, err = run("chat", folder, stdin="hi\n")
    assert code == 2
    assert "for qnn only (this computer has no qnn that runs it)" in err
    code, out, _ = run("inspect", folder)
    assert code == 0
    assert "reason unknown: aten::embedding" in out


@pytest.mark.parametrize(("there", "line"), [(True, "sample answers of"), (False, "not run: no compiler here")])
def test_what_the_simulator_executed_is_run_where_there_is_one(run, tmp_path, monkeypatch, there, line):
    def load_sdk():
        if not there:
            raise UserError("no compiler here")

    monkeypatch.setattr("et_pipeline.backends.qnn.load_sdk", load_sdk)
    listed = {name: bundle.File(size=1, sha256="0" * 64) for name in (PTE, "tokenizer.json")}
    made = make_manifest(listed).programs[0].model_copy(update={"backend": "qnn"})
    folder = make_bundle(tmp_path / "x", programs=[made])
    code, out, _ = run("verify", folder)
    assert code == 0
    assert line in out
    code, _, err = run("bench", folder)
    assert code == 2
    assert ("says nothing: measure it on a phone" if there else "no compiler here") in err


@pytest.mark.parametrize("command", ["verify", "chat"])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("get_max_context_len", 1024, "its get_max_context_len is 1024, and the manifest says 512"),
        ("get_eos_ids", [2], "its get_eos_ids is [2], and the manifest says [256]"),
        ("get_vocab_size", 257, "it knows 257 tokens, and the tokenizer has an id 257"),
    ],
)
def test_a_program_of_another_bundle(run, folder, monkeypatch, command, key, value, message):
    class Other(EchoProgram):
        def __init__(self, path, threads=None, weights=None, packed=None):
            super().__init__(path)
            self.metadata[key] = value

    monkeypatch.setattr(program, "Program", Other)
    code, _, err = run(command, folder, stdin="hi\n")
    assert code == 2
    assert message in err


def rewrite(folder, **changes):
    """Writes raw changes of top-level fields into a manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def zip_with(name, mode=0o100644):
    def spoil(folder):
        packed = folder.with_suffix(".zip")
        bundles.write_zip(folder, packed)
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        with zipfile.ZipFile(packed, "a") as archive:
            archive.writestr(entry, b"x")
        return packed

    return spoil


def text_file(folder):
    (folder.parent / "x.txt").write_text("x")
    return folder.parent / "x.txt"


BAD = {
    "altered file": (
        lambda f: (f / PTE).write_bytes(b"x" * 9000),
        "'model.pte' was altered",
        ["verify", "chat", "bench", "zip"],
    ),
    "truncated file": (lambda f: os.truncate(f / PTE, 10), "'model.pte' is truncated", None),
    "missing file": (lambda f: (f / PTE).unlink(), "'model.pte' is missing", None),
    "extra file": (lambda f: (f / "extra").write_text("x"), "'extra' is not listed", None),
    "link": (lambda f: (f / "link").symlink_to("/etc/passwd"), "'link' is a link", None),
    "broken json": (lambda f: (f / "manifest.json").write_text("{"), "no valid JSON", None),
    "unknown version": (lambda f: rewrite(f, version=9), "has version 9", None),
    "wrong type": (lambda f: rewrite(f, speed="fast"), "field 'speed' is wrong", None),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "it has no manifest.json", None),
    "missing bundle": (lambda f: f / "nowhere", "does not exist", ["inspect", "verify", "chat", "bench"]),
    "no zip": (text_file, "neither a bundle folder nor a zip", ["inspect", "verify", "chat", "bench"]),
    "path traversal": (zip_with("../x"), "not a plain relative path", ["inspect", "verify", "chat", "bench"]),
    "absolute path": (zip_with("/tmp/x"), "not a plain relative path", ["inspect", "verify", "chat", "bench"]),
    "link in zip": (zip_with("link", 0o120777), "'link' is a link", ["inspect", "verify", "chat", "bench"]),
    "extra in zip": (zip_with("extra"), "'extra' is not listed", ["inspect", "verify", "chat", "bench"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bundles_give_one_sentence_and_leave_nothing(name, folder, run, temporary, tmp_path):
    spoil, message, commands = BAD[name]
    path = spoil(folder)
    path = path if hasattr(path, "parent") else folder
    before = sorted(tmp_path.rglob("*"))
    for command in commands or ["inspect", "verify", "chat", "bench", "zip"]:
        arguments = [path, tmp_path / "out.zip"] if command == "zip" else [path]
        code, out, err = run(command, *arguments, stdin="hi\n")
        assert code == 2, (command, out, err)
        assert out == ""
        assert message in err
        assert err.count("\n") == 1
        assert err.endswith(".\n")
        assert sorted(tmp_path.rglob("*")) == before, command


def test_an_unreadable_program(run, folder, monkeypatch):
    def fails(path, threads=None, weights=None, packed=None):
        raise RuntimeError("Error loading program 0x23")

    monkeypatch.setattr(program, "Program", fails)
    for command in ("verify", "chat"):
        code, _, err = run(command, folder, stdin="hi\n")
        assert code == 2
        assert "model.pte cannot be loaded" in err


def test_an_unreadable_tokenizer(run, folder):
    (folder / "tokenizer.json").write_text("{}")
    manifest = bundle.read(folder)
    bundle.write(manifest.model_copy(update={"files": bundle.describe_files(folder)}), folder)
    code, _, err = run("verify", folder)
    assert code == 2
    assert "tokenizer.json is no tokenizer" in err


def test_our_own_errors_keep_their_traceback(folder, monkeypatch):
    def broken(_):
        raise ZeroDivisionError

    monkeypatch.setattr(bundles, "peek", broken)
    monkeypatch.setattr(sys, "argv", ["et-bundle", "inspect", str(folder)])
    with pytest.raises(ZeroDivisionError):
        bundle_cli.main()


def test_a_message_of_several_lines_becomes_one(run, folder, monkeypatch):
    def broken(_):
        raise UserError("two\nlines\x1b[31m.")

    monkeypatch.setattr(bundles, "peek", broken)
    assert run("inspect", folder) == (2, "", "two lines[31m.\n")


def test_chat_with_piped_input_answers_each_line(run, packed, temporary):
    code, out, err = run("chat", packed, stdin="first\n\nsecond one\n")
    assert code == 0, err
    first, second = out.splitlines()
    assert first.startswith("I read ")
    assert second.endswith(" bytes. ü👋")
    assert err == ""
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="kept on Linux with x86-64 only"
)
def test_chat_keeps_the_packed_weights_of_a_large_model(run, folder, tmp_path, monkeypatch):
    asked = []

    class Recorder(EchoProgram):
        def __init__(self, path, packed=None, **rest):
            super().__init__(path, **rest)
            asked.append(packed)

    monkeypatch.setattr(program, "Program", Recorder)
    cache = tmp_path / "cache"
    run("chat", folder, "--cache", cache, stdin="Hi\n")
    monkeypatch.setattr(packed_weights, "WORTHWHILE_BYTES", 0)
    run("chat", folder, "--cache", cache, "--no-keep-packed", stdin="Hi\n")
    assert asked == [None, None]
    assert not cache.exists()

    code, _, errors = run("chat", folder, "--cache", cache, stdin="Hi\n")
    assert (code, asked[2].parent) == (0, cache / "packed")
    assert errors.startswith("Packs the weights for this processor and keeps about")
    asked[2].mkdir()  # as if it had been made
    monkeypatch.setenv("ET_PIPELINE_CACHE", str(cache))
    assert run("chat", folder, stdin="Hi\n")[2] == ""
    assert asked[3] == asked[2]


def test_chat_commands(run, folder):
    _, out, err = run("chat", folder, stdin="hi\n/reset\nhi\n/quit\nnever\n")
    first, second = out.splitlines()
    assert first == second
    assert err == "New chat.\n"


def test_chat_begins_anew_when_the_context_is_full(run, folder):
    code, out, err = run("chat", folder, stdin="x" * 200 + "\n" + "y" * 300 + "\n" + "z" * 600 + "\nhi\n")
    assert code == 0
    answers = out.splitlines()
    assert len(answers) == 3
    assert "I read 3" in answers[1]  # more than the message alone: it begins a chat
    assert "The chat is full: the message takes" in err
    assert "A new chat begins with your message." in err
    assert "This message is too long for the model" in err


def test_chat_system_prompt(run, folder):
    _, without, _ = run("chat", folder, stdin="hi\n")
    _, longer, _ = run("chat", folder, "--system", "Be brief." + "!" * 7, stdin="hi\n")
    count, count_longer = (int(out.split()[2]) for out in (without, longer))
    assert count_longer == count + 7


def test_chat_system_prompt_where_there_is_none(run, tmp_path):
    chat = make_manifest(
        {PTE: bundle.File(size=1, sha256="0" * 64), "tokenizer.json": bundle.File(size=1, sha256="0" * 64)}
    ).chat
    segments = chat.segments.model_copy(update={"supports_system": False})
    chat = chat.model_copy(update={"segments": segments, "system_prompt": None})
    folder = make_bundle(tmp_path / "x", chat=chat)
    code, _, err = run("chat", folder, "--system", "x", stdin="hi\n")
    assert code == 2
    assert "takes no system prompt" in err


def test_chat_limits_the_answer(run, folder):
    _, out, _ = run("chat", folder, "--max-new-tokens", 3, stdin="hi\n")
    assert out == "I r\n"


def test_chat_does_not_let_the_model_steer_the_terminal(run, folder, monkeypatch):
    class Steering(EchoProgram):
        def prefill(self, tokens, start=0, chunk=None):
            self.answers = [[*byte_tokenizer().encode("\x1b[2Jhello").ids, EOS]]
            return super(EchoProgram, self).prefill(tokens, start)

    monkeypatch.setattr(program, "Program", Steering)
    _, out, _ = run("chat", folder, stdin="hi\n")
    assert out == "[2Jhello\n"


def test_bench(run, folder, monkeypatch):
    from et_pipeline.runtime import speed

    figure = speed.Percentiles(p10=1.0, p50=2.0, p90=3.0)
    calls = []

    def measure_speed(*arguments):
        calls.append(arguments)
        return speed.Speed(
            prompt_tokens=9, decode_tokens=5, load_ms=figure, ttft_ms=figure, prefill_tok_s=figure, decode_tok_s=figure,
            program_rss_bytes=10**6,
            peak_rss_bytes=10**8,
        )  # fmt: skip

    monkeypatch.setattr(speed, "measure_speed", measure_speed)
    code, out, _ = run("bench", folder, "--prompt-tokens", 9, "--decode-tokens", 5, "--rounds", 4, "--threads", 3)
    assert code == 0
    assert "2.0 (1.0 to 3.0)" in out
    assert calls == [(folder / PTE, folder / "tokenizer.json", 9, 5, 4, 3, None)]
    _, out, _ = run("bench", folder, "--json", "--threads", 3)
    assert json.loads(out)["threads"] == 3


def test_bench_refuses_more_than_the_context(run, folder):
    code, _, err = run("bench", folder, "--prompt-tokens", 500, "--decode-tokens", 13)
    assert code == 2
    assert "exceed the context of 512 tokens" in err


def test_zip(run, folder, tmp_path):
    code, out, _ = run("zip", folder, tmp_path / "out.zip")
    assert code == 0
    assert "out.zip" in out
    assert bundles.peek(tmp_path / "out.zip") == bundles.peek(folder)


@pytest.mark.parametrize("arguments", [["--help"], ["chat", "--help"], ["inspect", "FOLDER"]])
def test_answers_at_once_without_torch(folder, arguments):
    code = (
        "import sys; from et_pipeline import bundle_cli\n"
        "try:\n    bundle_cli.main()\n"
        "finally:\n    assert not {'torch', 'transformers', 'tokenizers', 'executorch', 'hydra'} & set(sys.modules)"
    )
    arguments = [str(folder) if argument == "FOLDER" else argument for argument in arguments]
    started = time.process_time()
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert time.process_time() - started < 5
    assert result.stdout


def test_a_terminated_command_removes_its_temporary_folder(packed, temporary):
    code = (
        "import sys, time; from et_pipeline import bundle, bundle_cli\n"
        "bundle_cli._first_runnable = lambda _: (print('open', flush=True), time.sleep(60))\n"
        "bundle_cli.main()"
    )
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, "bench", str(packed)], stdout=subprocess.PIPE, env=environment, text=True
    )
    assert process.stdout.readline() == "open\n"
    assert list(temporary.iterdir())
    process.terminate()
    assert process.wait(20) == 143
    assert list(temporary.iterdir()) == []


def test_add_speed_writes_what_a_phone_measured(run, folder, tmp_path):
    manifest = bundle.read(folder)
    speed = manifest.speed[0].model_copy(update={"where": "Pixel 8"}).model_dump()
    report = {"format": "et_pipeline.benchmark", "version": 1, "sha256": manifest.files[PTE].sha256, "speed": speed}
    (tmp_path / "report.json").write_text(json.dumps(report))
    code, out, err = run("add-speed", folder, tmp_path / "report.json")
    assert (code, err) == (0, "")
    assert "Pixel 8" in out
    assert [entry.where for entry in bundle.read(folder).speed] == ["a computer", "Pixel 8"]
    assert run("add-speed", folder, tmp_path / "none.json")[0] == 2


@pytest.mark.parametrize("command", [["push"], ["bench", "--phone"]])
def test_phone_commands_say_that_there_is_none(run, folder, command, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("ANDROID_HOME", raising=False)
    monkeypatch.delenv("ANDROID_SDK_ROOT", raising=False)
    code, out, err = run(*command, folder)
    assert (code, out) == (2, "")
    assert err.startswith("adb is not installed")


@pytest.fixture
def embeddings(tmp_path, monkeypatch):
    """A bundle that embeds texts, and its program."""
    monkeypatch.setattr(program, "Program", EmbeddingProgram)
    write_files(tmp_path / "vectors")
    bundle.write(make_embedding_manifest(bundle.describe_files(tmp_path / "vectors")), tmp_path / "vectors")
    return tmp_path / "vectors"


def test_embed_shows_how_similar_texts_are(run, embeddings):
    code, out, err = run("embed", embeddings, "a", "bb", "c")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines() if line.strip()][2:] == [
        ["1", "1.000", "0.949", "1.000", "a"],
        ["2", "0.949", "1.000", "0.949", "bb"],
        ["3", "1.000", "0.949", "1.000", "c"],
    ]


def test_embed_json_and_a_text_that_is_cut(run, embeddings):
    code, out, err = run("embed", embeddings, "a", "x" * 100, "--json")
    assert code == 0
    assert json.loads(out)["embeddings"] == [[1.0, 1.0], [64.0, 1.0]]
    assert "Text 2 has 100 tokens, and what follows the first 64 was left out." in err


def test_embed_refuses_an_empty_text_and_a_model_that_answers(run, embeddings, folder):
    code, _, err = run("embed", embeddings, "")
    assert (code, err) == (2, "a text has 0 tokens, and the program takes 1 to 64\n")
    code, _, err = run("embed", folder, "a")
    assert (code, err) == (2, "tiny answers and does not embed texts: use 'et-bundle chat' with it.\n")


def test_chat_refuses_a_model_that_embeds(run, embeddings):
    code, _, err = run("chat", embeddings)
    assert (code, err) == (2, "tiny embeds texts and cannot chat: use 'et-bundle embed' with it.\n")


def test_inspect_and_verify_of_an_embedding(run, embeddings):
    code, out, err = run("inspect", embeddings)
    assert (code, err) == (0, "")
    for words in ("2 numbers, mean of the tokens, of length 1", "texts of up to 64 tokens", "rank correlation", "0.97"):
        assert words in out
    code, out, _ = run("verify", embeddings)
    assert code == 0
    assert "1 equal within" in out


def test_verify_fails_where_similarities_differ(run, embeddings):
    made = bundle.read(embeddings)
    changed = bundle.Similarity(first="a", second="bb", cosine=0.9)
    embedding = made.embedding.model_copy(update={"samples": [changed]})
    bundle.write(made.model_copy(update={"embedding": embedding}), embeddings)
    code, _, err = run("verify", embeddings)
    assert code == 3
    assert "differ by up to 0.049, allowed are 0.02" in err


def test_bench_of_an_embedding(run, embeddings, monkeypatch):
    from et_pipeline.runtime import embedding

    monkeypatch.setattr(embedding, "Program", EmbeddingProgram)
    monkeypatch.setattr(embedding, "read_metadata", lambda path: {"get_vocab_size": 300})
    code, out, err = run("bench", embeddings, "--prompt-tokens", 32, "--rounds", 2, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["tokens"] == 32
    code, _, err = run("bench", embeddings, "--prompt-tokens", 65)
    assert (code, err) == (2, "a text has 65 tokens, and the program takes 1 to 64\n")

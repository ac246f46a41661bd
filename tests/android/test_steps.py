from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import steps
from artifacts import BuildError


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Runs a step over a folder of inputs, and keeps count."""
    monkeypatch.setattr(steps, "BUILD", tmp_path / "build")
    inputs = tmp_path / "inputs"
    (inputs / "values").mkdir(parents=True)
    (inputs / "values" / "strings.xml").write_text("one")

    def work(folder):
        make.count += 1
        assert list(folder.iterdir()) == []
        (folder / "out").write_text(f"made {make.count}")

    def make(*more):
        return steps.step("some", "making some", [inputs, *more], work)

    make.count, make.inputs = 0, inputs
    return make


def test_a_step_is_not_repeated_while_its_inputs_stay(make):
    folder = make("17", ("-a", "-b"))
    assert folder == steps.BUILD / "some"
    assert make("17", ("-a", "-b")) == folder
    assert make.count == 1
    assert (folder / "out").read_text() == "made 1"


@pytest.mark.parametrize("change", ["content", "name", "moved", "added", "removed", "option", "output"])
def test_a_step_is_repeated_after_any_change(make, change):
    make("17")
    file = make.inputs / "values" / "strings.xml"
    if change == "content":
        file.write_text("two")
    elif change == "name":
        file.rename(file.with_name("plurals.xml"))
    elif change == "moved":  # a resource for another language has the same name and may have the same content
        file.parent.rename(make.inputs / "values-de")
    elif change == "added":
        (make.inputs / "values" / "more.xml").write_text("")
    elif change == "removed":
        file.unlink()
    elif change == "output":
        shutil.rmtree(steps.BUILD / "some")
    make("18" if change == "option" else "17")
    assert make.count == 2
    assert (steps.BUILD / "some" / "out").read_text() == "made 2"


def test_a_step_is_repeated_after_a_change_of_the_script_that_makes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "BUILD", tmp_path / "build")
    script = tmp_path / "script.py"

    def run(word):
        script.write_text(f"def work(folder):\n    (folder / 'out').write_text('{word}')\n")
        space = {}
        exec(compile(script.read_text(), script, "exec"), space)
        return (steps.step("some", "making some", [], space["work"]) / "out").read_text()

    assert [run("one"), run("two")] == ["one", "two"]


def test_a_checkout_in_another_place_has_the_same_fingerprint(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name / "src").mkdir(parents=True)
        (tmp_path / name / "src" / "A.kt").write_text("class A")
        (tmp_path / name / "rules.pro").write_text("-keep")
    prints = {
        steps.fingerprint([tmp_path / name / "src", tmp_path / name / "rules.pro", "x"]) for name in ("here", "there")
    }
    assert len(prints) == 1


def test_a_step_that_fails_is_made_again_from_nothing(make):
    make()

    def fail(folder):
        (folder / "half").write_text("half")
        raise BuildError("the tool failed")

    with pytest.raises(BuildError):
        steps.step("some", "making some", ["changed"], fail)
    assert not (steps.BUILD / "some.stamp").exists()
    make()  # the inputs of the first time, and yet it must not be taken for made
    assert make.count == 2
    assert [path.name for path in (steps.BUILD / "some").iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("says", "stream", "answer"),
    [
        ("javac 17.0.9", "stdout", None),
        ("javac 17", "stdout", None),  # the first of them
        ("javac 21.0.1", "stdout", r"The JDK is 21\.0\.1"),
        ("javac 170.1", "stdout", r"The JDK is 170\.1"),
        ("javac 1.8.0_392", "stderr", r"The JDK is 1\.8\.0_392"),  # where Java 8 says it
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", "stderr", "No JDK"),  # macOS
    ],
)
def test_only_a_jdk_17_will_do(tmp_path, monkeypatch, says, stream, answer, program):
    program(tmp_path / "jdk" / "bin" / "javac", f"print({says!r}, file=sys.{stream})")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    if answer:
        with pytest.raises(BuildError, match=answer):
            steps.jdk()
    else:
        assert steps.jdk() == tmp_path / "jdk"


def test_a_tool_that_fails_is_named_and_shows_what_it_printed(tmp_path, capsys, program):
    tool = program(tmp_path / "tool", "print('the reason'); print('more', file=sys.stderr); sys.exit(3)")
    with pytest.raises(BuildError, match=r"^com\.example\.Tool failed, see above\.$"):
        steps.run(tool, "-x", "com.example.Tool", Path("some/path.jar"))
    assert capsys.readouterr().out == "the reason\nmore\n"

from __future__ import annotations

import gradle_files
import jvm_tests
import pytest
import steps
import toolbox


def test_test_classes_are_the_longest_first_and_filtered_by_parts_of_their_names(tmp_path):
    folder = tmp_path / "kotlin" / "org" / "x"
    folder.mkdir(parents=True)
    for name, size in {"ShortTest": 1, "chat/LongTest": 30, "chat/MiddleTest": 20, "chat/Helper": 40}.items():
        path = folder / f"{name}.kt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("x" * size)
    assert jvm_tests.test_classes(tmp_path, []) == ["org.x.chat.LongTest", "org.x.chat.MiddleTest", "org.x.ShortTest"]
    assert jvm_tests.test_classes(tmp_path, ["Short", "Mid"]) == ["org.x.chat.MiddleTest", "org.x.ShortTest"]
    assert jvm_tests.test_classes(tmp_path, ["Helper"]) == []


def test_the_test_runner_is_compiled_anew_with_another_junit(made_tools, monkeypatch):
    ran = []
    monkeypatch.setattr(jvm_tests, "run", lambda *command: ran.append(command))
    monkeypatch.setattr(jvm_tests, "BUILD", steps.BUILD)
    for content, count in ((b"4", 1), (b"4", 1), (b"5", 2)):
        made_tools.jars["core-test"][0].write_bytes(content)
        jvm_tests.run_tests([], made_tools)
        assert len(ran) == count


@pytest.mark.parametrize(
    ("written", "code", "passes", "said"),
    [
        ("PASSED\\ta\\t1\\nSKIPPED\\tb\\t0\\nDONE\\n", 0, True, "1 passed, 0 failed, 1 skipped"),
        ("PASSED\\ta\\t1\\nFAILED\\tb\\t0\\n\\tat line 3\\nDONE\\n", 1, False, "1 passed, 1 failed"),
        ("PASSED\\ta\\t1\\n", 134, False, "The JVM of group ended with 134"),  # died in the middle
        ("PASSED\\ta\\t1\\n", 0, False, "The JVM of group ended with 0"),  # a test ended it
        ("PASSED\\ta\\t1\\nDONE\\n", 1, False, "The JVM of group ended with 1"),  # or at the very end
        ("DONE\\n", 0, False, "0 passed"),  # nothing was tested, so nothing is shown
        (None, 1, False, "could not start"),
    ],
)
def test_run_tests_believes_only_a_whole_report(tmp_path, monkeypatch, capsys, written, code, passes, said, program):
    """A stand-in for java writes the report; RunTests is the word before its path."""
    report = f"open(sys.argv[sys.argv.index('RunTests') + 1], 'w').write('{written}')" if written else ""
    program(tmp_path / "bin" / "java", f"print('could not start')\n{report}\nsys.exit({code})")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(jvm_tests, "BUILD", tmp_path / "build")
    monkeypatch.setattr(jvm_tests, "step", lambda *_: tmp_path)
    group = jvm_tests.Tests("group", ["org.x.ATest"], "some.jar", [])
    tools = toolbox.Toolbox(gradle_files.read_project(), {}, {}, tmp_path, tmp_path, tmp_path)
    assert jvm_tests.run_tests([group], tools) == passes
    assert said in capsys.readouterr().out

import pytest

from et_pipeline.errors import UserError
from et_pipeline.evaluation.text_source import BUILTIN, check_ids, documents, files, resolve

KEY = "verify.text"


def texts(source):
    return list(documents(KEY, str(source), resolve(KEY, str(source))))


def test_a_file_is_one_text_as_it_is(tmp_path):
    (tmp_path / "notes").write_text("  Grüße\n\n\nand more \n")
    assert texts(tmp_path / "notes") == ["  Grüße\n\n\nand more \n"]


def test_a_folder_is_its_texts_in_order(tmp_path):
    for name in ("b.txt", "a.md", "c/a.txt", "c.html", "picture.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(tmp_path) == ["a.md", "b.txt", "c/a.txt"]


def test_the_built_in_text_has_no_path():
    assert resolve(KEY, BUILTIN) is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "verify.text=.*notes.txt is empty"),
        (b" \n\n \n", "is empty"),
        (b"abc\xff\xfe\x00", r"notes.txt is not a text file in UTF-8 \(byte 3 is none\)"),
        (b"a\0b", "notes.txt is a binary file"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, content, sentence):
    (tmp_path / "notes.txt").write_bytes(content)
    for source in (tmp_path / "notes.txt", tmp_path):
        with pytest.raises(UserError, match=sentence if source.is_file() else sentence.replace(".*notes.txt", ".*")):
            resolve(KEY, str(source))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("{tmp}/none.txt", r"none.txt cannot be read \(No such file or directory\); give a text file, a folder"),
        ("{tmp}", r"is a folder without .txt and .md files"),
        ("builtin:other", "builtin:other does not exist; choose from builtin:tiny_assistant"),
    ],
)
def test_a_source_that_is_not_there_is_named(tmp_path, source, sentence):
    with pytest.raises(UserError, match=sentence):
        resolve(KEY, source.replace("{tmp}", str(tmp_path)))


@pytest.mark.parametrize(
    ("names", "asked", "chosen"),
    [
        (["wiki-2/test-00000-of-00001.parquet", "wiki-2/train-00000-of-00001.parquet"], ":wiki-2:test", [0]),
        (["w/train-00001-of-00002.parquet", "w/train-00000-of-00002.parquet"], ":w:train", [1, 0]),
        (["w/train-00001-of-00002.parquet", "w/train-00000-of-00002.parquet"], "", [1, 0]),
        (["data/test-00000-of-00001-0a1b.parquet", "data/train.parquet"], ":default:test", [0]),
        (["small/test/0000.parquet", "small/train/0000.parquet"], ":small:train", [1]),
        (["train.parquet"], ":default", [0]),
    ],
)
def test_parts_of_a_data_set_are_known_by_their_place(tmp_path, names, asked, chosen):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert files(KEY, f"hub:someone/texts{asked}", tmp_path) == [tmp_path / names[number] for number in chosen]


def test_ids_outside_the_vocabulary_are_refused():
    check_ids(KEY, "notes.txt", [0, 511], 512)
    with pytest.raises(UserError, match=r"verify.text=notes.txt becomes token 512, but the model's vocab_size is 512"):
        check_ids(KEY, "notes.txt", [0, 512, 513], 512)


def test_a_data_set_without_what_reads_it_is_refused_before_it_is_downloaded(monkeypatch):
    monkeypatch.setattr("et_pipeline.evaluation.text_source.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"verify\.text=hub:someone/texts is read by pyarrow.*et-pipeline\[datasets\]"):
        resolve(KEY, "hub:someone/texts")

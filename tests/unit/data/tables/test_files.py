"""Several files as one table: lists, folders and patterns."""

import os
from pathlib import Path

import pytest

from llm_cls.config.schema import DataConfig
from llm_cls.data.rows import TableFormat
from llm_cls.data.sources.table import load_table
from llm_cls.data.tables.files import find_files, iter_files, read_files
from llm_cls.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three tables of different formats, and what is none."""
    (tmp_path / "b.csv").write_text("text,label\nb1,x\nb2,y\n")
    (tmp_path / "a.jsonl").write_text('{"label": "x", "text": "a1"}\n{"label": "y", "text": "a2"}')
    (tmp_path / "c[1].tsv").write_text("text\tlabel\nc1\tx\n")
    (tmp_path / ".hidden.csv").write_text("no,table\n")
    return tmp_path


def texts(given: Path | list[Path]) -> list[str]:
    rows = read_files(given, TableFormat(), "data.file")
    assert [row for chunk in iter_files(given, TableFormat(), "data.file", 1) for row in chunk] == rows
    return [row["text"] for row in rows]


def test_a_folder_is_its_tables_in_the_order_of_their_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = list(Path.iterdir(folder))
    for order in (sorted(listed), sorted(listed, reverse=True)):
        monkeypatch.setattr(Path, "iterdir", lambda _, order=order: iter(order))
        assert texts(folder) == ["a1", "a2", "b1", "b2", "c1"]


def test_a_pattern_is_the_files_that_match(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert texts(folder / "*.[ct]s*") == ["b1", "b2", "c1"]
    monkeypatch.chdir(folder)
    assert texts(Path("*.csv")) == ["b1", "b2"]
    assert texts(folder / "c[1].tsv") == ["c1"]  # a file that exists is no pattern


def test_a_list_keeps_its_order(folder: Path) -> None:
    assert texts([folder / "b.csv", folder / "a*"]) == ["b1", "b2", "a1", "a2"]


def test_what_a_folder_has_besides_tables_is_reported(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "more").mkdir()
    (folder / "README.md").touch()
    assert len(find_files(folder, "data.file")) == 3
    (message,) = caplog.messages
    assert message == f"{folder}: 2 entries are no tables and not read, for example README.md"


@pytest.mark.parametrize(
    ("files", "part"),
    [
        (["none*.csv"], "none*.csv: no file matches. Check data.file"),
        (["none.csv"], "none.csv: the file does not exist. Check the path"),
        (["n" * 300], "could not be read: File name too long. Check data.file"),
        (["b.csv", "*.csv"], "b.csv twice. Name each file once"),
        (["empty"], "empty: the folder has no tables. Try data.file=FILE"),
        (["b.csv", "other.csv"], "b.csv, but lacks 'label' and has 'class'. Rename the columns"),
        (["b.csv", "wrong.csv"], "wrong.csv could not be read as csv: line 2 must have 2 fields"),
    ],
)
def test_files_that_are_refused(folder: Path, files: list[str], part: str) -> None:
    (folder / "empty").mkdir()
    (folder / "other.csv").write_text("text,class\na,x\n")
    (folder / "wrong.csv").write_text("text,label\na\n")
    with pytest.raises(DataError) as caught:
        read_files([folder / file for file in files], TableFormat(), "data.file")
    assert part in str(caught.value) and "\n" not in str(caught.value)


def load(file: object, **keys: object) -> dict[str, str]:
    given = {"name": "table", "cache_dir": "cache", "file": file, "text": "text", "label": "label"}
    corpus = load_table(DataConfig.model_validate(given | keys))
    return {text.id: text.body for split in corpus.splits.values() for text in split}


def test_ids_of_several_files_are_unique_and_independent_of_the_folder(tmp_path: Path) -> None:
    expected = {}
    for name in ("a/t.csv", "b/t.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("text,label\n" + "".join(f"{name}{i},{'xy'[i % 2]}\n" for i in range(10)))
        expected |= {f"{name}-{i + 1}": f"{name}{i}" for i in range(10)}
    assert load([str(tmp_path / "a" / "t.csv"), str(tmp_path / "b" / "t.csv")]) == expected
    assert load(os.path.join(os.path.relpath(tmp_path), "*", "t.csv")) == expected  # noqa: PTH118


def test_a_fault_names_its_file(tmp_path: Path) -> None:
    for name, last in (("a.csv", "z,x"), ("b.csv", ",x")):
        (tmp_path / name).write_text("text,label\n" + "t,x\nu,y\n" * 5 + last + "\n")
    with pytest.raises(DataError, match=r"b\.csv: row 11 of column 'text' is empty \(line 12\)\. Fill it in"):
        load(tmp_path)

"""Excel: values of one sheet as text, and the messages for what cannot be used."""

import datetime
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from llm_cls.data.rows import TableFormat, TableRow, column, iter_rows, read_rows
from llm_cls.errors import ConfigError, DataError

openpyxl = pytest.importorskip("openpyxl")


def write(path: Path, **sheets: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_values_as_text(tmp_path: Path) -> None:
    values = [
        "007",
        1,
        1.0,
        2.5,
        10**15,
        True,
        datetime.date(2020, 1, 2),
        datetime.datetime(2020, 1, 2, 3, 4),
        "NA",
        None,
    ]
    path = write(tmp_path / "t.xlsx", s=[["text", "value"], *(["t", value] for value in values)])
    found = column(read_rows(path), "value", "data.label", path, may_be_empty=True)
    assert found == ["007", "1", "1", "2.5", "1" + "0" * 15, "TRUE", "2020-01-02", "2020-01-02T03:04:00", "NA", ""]


def test_rows_as_pandas_reads_them(tmp_path: Path) -> None:
    import pandas

    rows = [[f"文 {i}", f"{i:03d}", "x" * i] for i in range(1, 9)]
    path = write(tmp_path / "t.xlsx", s=[["text", "label", "more"], *rows])
    expected = pandas.read_excel(path, dtype=str, na_filter=False).to_dict("records")
    assert read_rows(path) == expected
    assert [row for chunk in iter_rows(path, chunk_rows=3) for row in chunk] == expected


def test_empty_rows_and_columns_around_the_table(tmp_path: Path) -> None:
    none = [None] * 5
    path = write(tmp_path / "t.xlsx", s=[none, ["a", None, "b", None], ["1", "2", "3"], none, ["4"], none, none])
    rows = read_rows(path)
    assert rows == [{"a": "1", "column 2": "2", "b": "3"}, {"a": "4", "column 2": None, "b": None}]
    assert [(row.number, row.line) for row in rows if isinstance(row, TableRow)] == [(1, 3), (2, 5)]
    assert read_rows(path, TableFormat(header=False))[0] == {"1": "a", "2": None, "3": "b"}


def test_every_line_of_one_column_is_a_row(tmp_path: Path) -> None:
    path = write(tmp_path / "t.xlsx", s=[["text"], ["a"], [None], ["b"]])
    assert read_rows(path) == [{"text": "a"}, {"text": None}, {"text": "b"}]


def test_a_sheet_is_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "t.xlsx", first=[["text"], ["a"]], 二枚目=[["text"], ["b"]])
    assert read_rows(path, TableFormat(sheet="二枚目")) == [{"text": "b"}]
    for sheet, part in (
        (None, "has 2 sheets: 'first', '二枚目'. Try data.sheet=first"),
        ("fist", "Did you mean 'first'?"),
    ):
        with pytest.raises(ConfigError, match=re.escape(part)):
            read_rows(path, TableFormat(sheet=sheet))


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    (tmp_path / "t.xlsx").write_bytes(b"x")
    with pytest.raises(
        ConfigError, match=re.escape("t.xlsx needs openpyxl. Install it with: pip install 'llm_cls[excel]'")
    ):
        read_rows(tmp_path / "t.xlsx")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.xlsx"
    for content, part in (
        (b"text,label\n", "it is no .xlsx file, or is encrypted or damaged"),
        (write(path, s=[["text"], ["a"]]).read_bytes()[:-100], "it is no .xlsx file, or is encrypted or damaged"),
        (
            write(path, s=[["text"], ["a", "b"]]).read_bytes(),
            "row 2 of the sheet must have 1 cells, as the header, found 2",
        ),
        (write(path, s=[["a", "a"], ["a", "b"]]).read_bytes(), "the column 'a' occurs twice"),
        (write(path, s=[["a"]]).read_bytes(), "has no rows"),
        (write(path, s=[]).read_bytes(), "has no rows"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_rows(path)
        assert part in str(caught.value) and "t.xlsx" in str(caught.value) and "\n" not in str(caught.value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "no workbook")
    with pytest.raises(DataError, match=r"t\.xlsx could not be read as xlsx: it is damaged"):
        read_rows(path)
    monkeypatch.setattr("llm_cls.data.tables.excel.memory_limit", lambda: 1000)
    with pytest.raises(DataError, match="must have at most"):
        read_rows(write(path, s=[["a" * 2000]]))

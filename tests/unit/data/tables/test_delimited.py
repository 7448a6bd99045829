"""CSV and TSV: what the csv module wrote is read, and what may have lost rows is refused or reported."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_cls.data.rows import TableFormat, TableRow, iter_rows, read_rows
from llm_cls.errors import DataError

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
CELLS = st.one_of(
    st.text(CHARACTERS, max_size=8),
    st.text(st.sampled_from('ab ,;\t"\r\n'), max_size=8),
    st.sampled_from(["007", "1e3", "2024_01", "NA", "null", "true", "2020-01-01", "9" * 30]),
)
TABLES = st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=1, max_size=8))


@given(TABLES, st.sampled_from(",;\t|"), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_what_the_csv_module_wrote_is_read(
    tmp_path_factory: pytest.TempPathFactory, table: list[list[str]], separator: str, quoting: int, chunk: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "t.csv"
    names = [f"c{i}" for i in range(len(table[0]))]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator, quoting=quoting).writerows([names, *table])  # type: ignore[arg-type]
    format = TableFormat(separator=separator)
    expected = [dict(zip(names, row, strict=True)) for row in table]
    assert read_rows(path, format) == expected
    assert [row for rows in iter_rows(path, format, chunk) for row in rows] == expected


@given(st.lists(st.lists(st.text(CHARACTERS.filter(lambda c: c not in "\r\n\t"), max_size=6), min_size=2, max_size=2)))
@settings(max_examples=100, deadline=None)
def test_without_quoting_each_line_is_a_row(tmp_path_factory: pytest.TempPathFactory, table: list[list[str]]) -> None:
    path = tmp_path_factory.getbasetemp() / "t.tsv"
    lines = [["a", "b"], *table]
    path.write_text("".join("\t".join(row) + "\n" for row in lines), encoding="utf-8", newline="")
    format = TableFormat(quoting=False, header=False)
    assert [list(row.values()) for row in read_rows(path, format)] == lines


def test_long_cells_anywhere(tmp_path: Path) -> None:
    long = "長" * 140_000
    rows = [{"a": "x", "b": long}, {"a": long, "b": f'{long}"\n'}, {"a": "x", "b": "y"}]
    with (tmp_path / "t.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["a", "b"])
        writer.writeheader()
        writer.writerows(rows)
    assert read_rows(tmp_path / "t.csv") == rows


def read(tmp_path: Path, content: str, format: TableFormat | None = None, name: str = "t.csv") -> list[list[str]]:
    (tmp_path / name).write_bytes(content.encode())
    return [list(row.values()) for row in read_rows(tmp_path / name, format)]


@pytest.mark.parametrize("blank", ["\n", "  \n"])
def test_every_line_of_one_column_is_a_row(tmp_path: Path, blank: str) -> None:
    expected = [["a"], [blank[:-1]], ["b"], [blank[:-1]]]
    assert read(tmp_path, f"text\na\n{blank}b\n{blank}") == expected
    assert read(tmp_path, f"{blank}a\n{blank}b\n", TableFormat(header=False)) == [[blank[:-1]], *expected[:-1]]


def test_columns_without_a_header_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\na,b\nc,d\n")
    assert read_rows(tmp_path / "t.csv", TableFormat(header=False)) == [{"1": "a", "2": "b"}, {"1": "c", "2": "d"}]


def test_rows_know_their_place(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,b\n1,"x\ny"\n\n2,z\n')
    rows = [row for rows in iter_rows(path, chunk_rows=1) for row in rows if isinstance(row, TableRow)]
    assert [(row.file, row.number, row.line) for row in rows] == [(str(path), 1, 2), (str(path), 2, 5)]


def table(n: int = 200) -> list[str]:
    return ["text,label\n", *(f"t{i},{'xy'[i % 2]}\n" for i in range(n))]


def with_line(number: int, line: str, more: dict[int, str] | None = None) -> str:
    """A table whose line ``number`` is ``line``."""
    lines = table()
    for where, what in ({number: line} | (more or {})).items():
        lines[where - 1] = what + "\n"
    return "".join(lines)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (with_line(140, '"open,x'), "line 140 opens a double quote that no later line closes. Close it. Write"),
        (with_line(140, '"open,x', {150: '"b, c",x'}), "line 150 of the row that begins in line 140 has text after"),
        (with_line(140, '"open,x', {150: 'say "b" c,x'}), "line 150 of the row that begins in line 140 has text after"),
        (with_line(9, '"a" b,x'), "line 9 has text after a closing double quote. Write a double quote within a text"),
        (with_line(9, 'a 12" b,x', {20: '"open,x', 30: 'close",y'}), "line 9 has a double quote within a cell that is"),
        (with_line(90, 'a 12" b,x', {20: '"open,x', 30: 'close",y'}), "and the row in lines 20 to 30 has a cell of"),
        (
            with_line(20, '"open,x', {30: 'b,close"'}),
            "the row in lines 20 to 30 must have 2 fields, found 1. Check the",
        ),
        (with_line(9, "a"), "line 9 must have 2 fields, found 1. Fill in the others"),
        (with_line(9, "a,b,c"), "line 9 must have 2 fields, found 3. Put a text that has a comma into double quotes"),
        (with_line(9, "a\0,b"), "line 9 has a NUL character at position 2. Remove it, or name the encoding"),
        ("text,text\na,b\n", "the column 'text' occurs twice. Rename one of them"),
    ],
)
def test_what_may_lose_rows_is_refused(tmp_path: Path, content: str, part: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, content)
    assert part in str(caught.value) and "t.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_quotes_are_text_where_that_is_said(tmp_path: Path) -> None:
    content = with_line(20, '"open,x', {30: 'close",y', 40: 'a 12" b,x'})
    assert read(tmp_path, content, TableFormat(quoting=False)) == [
        line.strip().split(",") for line in content.splitlines()[1:]
    ]


def test_a_cell_whose_lines_look_like_rows_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(read(tmp_path, with_line(20, '"open,x', {30: 'close",y'}))) == 190
    (message,) = caplog.messages
    assert (
        "rows may be lost: the row in lines 20 to 30 has a cell whose lines look like rows of their own. Ch" in message
    )


@pytest.mark.parametrize("cell", ["a\nb", "Dear Sir,\nthank you, and\nbye", "a\n\nb", "u,v\nw"])
def test_other_cells_of_several_lines_are_not(tmp_path: Path, caplog: pytest.LogCaptureFixture, cell: str) -> None:
    text = io.StringIO(newline="")
    rows = [[cell, "x"], ['a "b"', "y"], ["b", "x"]]
    csv.writer(text).writerows([["text", "label"], *rows])
    assert read(tmp_path, text.getvalue()) == rows
    assert not caplog.messages

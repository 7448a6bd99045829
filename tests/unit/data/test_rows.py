"""Rows of table files: the strings that were written, for every format, and the messages for broken files."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from llm_cls.data.rows import column, read_rows
from llm_cls.errors import DataError

ROWS = [{"text": f"t{i}", "label": "xy"[i % 2]} for i in range(8)]
GOOD = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)
CELLS = [
    "007", "1e3", "2024_01", "NA", "null", "None", "nan", "true", "1.50", "-", "2020-01-01", "0x1F", "1,000", "",
    " 空白 ", 'a "quoted" word', '"', "'", "tab\tx", "line\nbreak", "CR\r\nLF", "😀𠮷", "a\u2028b", "#N/A",
]  # fmt: skip


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def random_rows(seed: int, n: int = 300) -> list[dict[str, str]]:
    draw = random.Random(seed)
    return [{"id": f"{i:05d}", "text": draw.choice(CELLS), "label": draw.choice(CELLS)} for i in range(n)]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t"), ("CSV", ",")])
def test_cells_are_the_strings_that_the_csv_module_reads(
    tmp_path: Path, ending: str, delimiter: str, quoting: Any
) -> None:
    path, rows = tmp_path / f"t.{ending}", random_rows(0)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)
    with path.open(encoding="utf-8", newline="") as file:
        oracle = list(csv.DictReader(file, delimiter=delimiter))
    assert read_rows(path) == oracle == rows


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json"])
def test_json_values_are_the_text_of_the_file(tmp_path: Path, ending: str) -> None:
    written = [*map(json.dumps, CELLS), "7", "-0", "1.10", "1E5", "1e999", "9" * 5000, "true", "false", "Infinity"]
    lines = [f'{{"id": {i}, "value": {value}}}' for i, value in enumerate([*written, "null", "NaN"])]
    content = f"[{', '.join(lines)}]" if ending == "json" else "\n".join(lines)
    expected = [*CELLS, *written[len(CELLS) :], None, None]
    found = read_rows(write(tmp_path / f"t.{ending}", content))
    assert found == [{"id": str(i), "value": value} for i, value in enumerate(expected)]


def test_json_types_do_not_depend_on_the_size_of_the_file(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "x" * 1000, "label": i} for i in range(12_000)]  # 12 MB
    rows[-1]["label"] = "2020-01-01"
    labels = column(read_rows(write(tmp_path / "t.jsonl", json_lines(rows))), "label", "data.label", tmp_path)
    assert labels == [*map(str, range(11_999)), "2020-01-01"]


def test_json_objects_with_different_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", '{"a": 1}\n\n  \r\n{"b": "2"}')
    assert read_rows(path) == [{"a": "1", "b": None}, {"a": None, "b": "2"}]


def test_parquet_is_read_as_written(tmp_path: Path) -> None:
    import pandas

    (tmp_path / "label=folder").mkdir()  # a name that pyarrow takes for a column where it is asked for a dataset
    rows, path = random_rows(1), tmp_path / "label=folder" / "t.parquet"
    pandas.DataFrame(rows).astype({"label": "category"}).to_parquet(path)
    assert read_rows(path) == rows


@pytest.mark.parametrize("name", ["a[1].csv", "a*.csv", "a?.csv", "データ (1).csv", "a%20b.csv", "a.csv.csv"])
def test_file_names_are_not_patterns(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a1.csv", "text\nanother file\n")
    assert read_rows(write(tmp_path / name, "text\nthis file\n")) == [{"text": "this file"}]


@pytest.mark.parametrize(
    "content",
    [
        f"\n{GOOD}",
        GOOD.replace("\n", "\n\n  \n"),
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("text", '"text"', 1),
        GOOD.rstrip(),
    ],
    ids=["blank line first", "blank lines", "BOM", "CRLF", "quoted header", "no newline at the end"],
)
def test_csv_dialects(tmp_path: Path, content: str) -> None:
    assert read_rows(write(tmp_path / "t.csv", content)) == ROWS


def test_csv_with_the_index_that_pandas_writes(tmp_path: Path) -> None:
    import pandas

    pandas.DataFrame(ROWS).to_csv(tmp_path / "t.csv")
    assert read_rows(tmp_path / "t.csv") == [{"column 1": str(i)} | row for i, row in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("t.xls", "", "must end with .csv, .tsv, .jsonl"),
        ("t.parquet.gz", "", "must end with .csv, .tsv, .jsonl"),
        ("t.csv", "", "the file is empty"),
        ("t.csv", "text,label\n", "has no rows"),
        ("t.csv", "\n\n", "has no rows"),
        ("t.csv", "text,text\na,b\n", "the column 'text' occurs twice"),
        ("t.csv", GOOD + "a,b,c\n", "line 10 must have 2 fields, found 3. Put a text that has a comma into double"),
        ("t.csv", 'text,label\n"a\nb",x\n\na,b,c\n', "line 5 must have 2 fields, found 3. Put"),
        ("t.tsv", "text\tlabel\na\tb\tc\n", "line 2 must have 2 fields, found 3. Put a text that has a tab into"),
        ("t.csv", GOOD.replace("x\n", "x,z\n").replace("y\n", "y,z\n"), "line 2 must have 2 fields, found 3"),
        ("t.tsv", 'a\n"open\n', "could not be read as tsv: line 2 opens a double quote that no later line closes"),
        ("t.csv", GOOD.encode() + b"x" * 99_000 + b"\x93\xfa,x\n", "must be UTF-8, found byte 0x93 at position 99051"),
        ("t.jsonl", b'{"text": "\xff"}', "must be UTF-8, found byte 0xff at position 10"),
        ("t.jsonl", '{"text": "a"}\n\n{"text": "x', "could not be read as json: line 3: Unterminated string"),
        ("t.json", '[{"text": "a"}', "could not be read as json: line 1: Expecting"),
        ("t.jsonl", '{"text": "a"}\n[1]\n', "found a list. Write"),
        ("t.jsonl", "[" * 100_000, "could not be read as json"),
        ("t.json", "[]", "has no rows"),
        ("t.parquet", "not parquet", "could not be read as parquet"),
        ("t.parquet", b"PAR1 and no more", "could not be read as parquet"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, content: str | bytes, part: str
) -> None:
    with pytest.raises(DataError) as caught:
        read_rows(write(tmp_path / name, content))
    assert part in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_parquet_without_rows_and_with_equal_names(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({"a": pyarrow.array([], pyarrow.string())}), tmp_path / "none.parquet")
    with pytest.raises(DataError, match=r"none\.parquet has no rows"):
        read_rows(tmp_path / "none.parquet")
    write_table(pyarrow.Table.from_arrays([["x"], ["y"]], names=["a", "a"]), tmp_path / "two.parquet")
    with pytest.raises(DataError, match="the column 'a' occurs twice"):
        read_rows(tmp_path / "two.parquet")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name, fault in (("none.csv", ": the file does not exist"), ("folder.csv", " is a folder. Give one file of it")):
        with pytest.raises(DataError, match=f"{name}{fault}"):
            read_rows(tmp_path / name)


def test_column_returns_text() -> None:
    values = ["007", 7, 7.0, 1.5, 1e300, True, None, float("nan"), ""]
    found = column([{"a": value} for value in values], "a", "data.title", Path("t"), may_be_empty=True)
    assert found == ["007", "7", "7", "1.5", "1e+300", "True", "", "", ""]


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (None, "row 2 of column 'a' is empty"),
        (float("nan"), "row 2 of column 'a' is empty"),
        (" \n", "row 2 of column 'a' is empty"),
        (b"x", "row 2 of column 'a' must be one value, found a bytes"),
        (["x"], "row 2 of column 'a' must be one value, found a list"),
        ({"x": 1}, "row 2 of column 'a' must be one value, found a dict"),
        ("x\ud800", r"must be valid Unicode, found '\ud800'"),
    ],
)
def test_cells_that_are_refused(value: Any, part: str) -> None:
    with pytest.raises(DataError) as caught:
        column([{"a": "good"}, {"a": value}], "a", "data.label", Path("t.csv"))
    assert part in str(caught.value)


def test_unknown_column_is_answered_with_the_columns() -> None:
    with pytest.raises(DataError) as caught:
        column([{"te\x1bxt": "a", "label": "b"}], "text", "data.text", Path("t.csv"))
    expected = "has no column 'text'. Did you mean 'te\\x1bxt'? It has 'te\\x1bxt', 'label'. Try data.text=COLUMN"
    assert str(caught.value) == f"t.csv {expected}"


def test_a_document_around_the_rows_is_recognised(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "t.json", '{"version": 1, "rows": [{"text": "a"}]}'))
    with pytest.raises(DataError, match=r"has no column 'text'\. It has 'version', 'rows'\. Try data\.field=rows"):
        column(rows, "text", "data.text", tmp_path / "t.json")
    deep = read_rows(write(tmp_path / "deep.json", '{"meta": {"ids": [1]}, "data": {"rows": [{"text": "a"}]}}'))
    with pytest.raises(DataError, match=r"Try data\.field=data\.rows$"):
        column(deep, "text", "data.text", tmp_path / "deep.json")
    flat = read_rows(write(tmp_path / "flat.json", '{"meta": {"ids": [1]}}'))
    with pytest.raises(DataError, match=r"Try data\.text=COLUMN$"):
        column(flat, "text", "data.text", tmp_path / "flat.json")


@pytest.mark.parametrize(
    "text", ['{"a": 1}\n{"a": 2}', '{"a": 1} {"a": 2}', '{\n"a": 1\n}\n\n{"a":\n2}', '{"a": 1}\r{"a": 2}\r']
)
def test_json_objects_may_share_lines_or_extend_over_several(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.jsonl").write_bytes(text.encode())
    assert read_rows(tmp_path / "t.jsonl") == [{"a": "1"}, {"a": "2"}]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"a": 1}\n{"a": 2, "a": 3}', "line 2: the column 'a' occurs twice"),
        ('{"a": 1}\n{"a": }', "line 2: Expecting value"),
        ('{"a": 1}\n{"a": "b\nc"}\n{"a": 2}', "line 2: Invalid control character"),
        ('{"a":\n\n[1,\n}', "line 4: Expecting value"),
        ('{"a": 1}\n[1]', r"row 2 \(line 2\) must be an object such as .*, found a list\. Write the rows as objects$"),
        ('1\n"a"', r"t\.jsonl could not be read as json: row 1 \(line 1\) must be an object .*, found a number\."),
        ("\ntrue", r"row 1 \(line 2\) must be an object .*, found true\."),
        ('["a"]', r"row 1 must be an object .*, found a string\."),
    ],
)
def test_json_that_would_lose_values_is_refused(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(DataError, match=part):
        read_rows(tmp_path / "t.jsonl")

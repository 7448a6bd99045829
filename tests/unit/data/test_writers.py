"""Rows as the bytes of tables, in one piece or in several."""

import csv
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from llm_cls.data.rows import read_rows
from llm_cls.data.writers import writer_for
from llm_cls.errors import ConfigError, DataError

ROWS: list[dict[str, Any]] = [
    {"id": "007", "text": 'a "b", c\nd\t', "label": "猫", "p": 0.1, "error": None},
    {"id": "", "text": "", "label": None, "p": None, "error": "text is empty"},
    {"id": "NA", "text": "\u2028😀", "label": "犬", "p": 1 / 3, "error": None},
]
TYPES: dict[str, type | None] = {"id": None, "text": None, "label": str, "p": float, "error": str}


def write(format: str, path: Path, rows: list[dict[str, Any]], chunk: int, types: Any = TYPES) -> Path:
    writer = writer_for(format, Path("in.csv"))
    partial = path.with_name("partial")
    content = writer.start(types, rows[:chunk])
    for first in range(0, len(rows), chunk):
        content += writer.rows(rows[first : first + chunk])
    partial.write_bytes(content)
    writer.finish(partial, path)
    assert not partial.exists()
    return path


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "parquet"])
def test_what_is_written_is_read(format: str, tmp_path: Path) -> None:
    found = read_rows(write(format, tmp_path / f"t.{format}", ROWS, 2))
    for row, expected in zip(found, ROWS, strict=True):
        if format in ("csv", "tsv"):
            expected = {key: "" if value is None else str(value) for key, value in expected.items()}
        assert {key: str(value) for key, value in row.items()} == {key: str(value) for key, value in expected.items()}


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "parquet"])
def test_pieces_make_the_same_table(format: str, tmp_path: Path) -> None:
    one, three = (write(format, tmp_path / f"{n}.{format}", ROWS * 3, n) for n in (9, 3))
    if format == "parquet":  # a row group for each piece
        assert pandas.read_parquet(one).equals(pandas.read_parquet(three))
    else:
        assert one.read_bytes() == three.read_bytes()


def test_csv_is_that_of_the_csv_module(tmp_path: Path) -> None:
    path = write("csv", tmp_path / "t.csv", ROWS, 1)
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == list(ROWS[0])
    assert rows == [["" if value is None else str(value) for value in row.values()] for row in ROWS]


def test_json_keeps_types_and_writes_what_it_lacks_as_text(tmp_path: Path) -> None:
    row = {"n": 7, "x": 0.5, "yes": True, "none": None, "list": [1, {"a": None}], "big": 10**30}
    other = {
        "day": date(2026, 1, 2),
        "price": Decimal("1.50"),
        "bytes": b"\xff",
        "nan": float("nan"),
        "half": "a\ud800",
    }
    text = write("jsonl", tmp_path / "t.jsonl", [row, other], 2).read_text(encoding="utf-8").splitlines()
    assert json.loads(text[0]) == row
    assert json.loads(text[1]) == {
        "day": "2026-01-02", "price": "1.50", "bytes": "/w==", "nan": None, "half": "a\ud800",
    }  # fmt: skip


def test_csv_writes_nested_values_as_json(tmp_path: Path) -> None:
    row = {"list": ["本", 1], "yes": True, "nan": float("nan"), "half": "a\ud800", "day": date(2026, 1, 2)}
    text = write("tsv", tmp_path / "t.tsv", [row], 1, dict.fromkeys(row)).read_text(encoding="utf-8")
    assert text == 'list\tyes\tnan\thalf\tday\n"[""本"", 1]"\ttrue\t\ta\\ud800\t2026-01-02\n'


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_numbers_and_booleans_of_json_stay_what_they_are(format: str, tmp_path: Path) -> None:
    text = '{"n": 12345678901234567, "x": 1.50, "yes": true, "s": "7", "none": null, "list": [{"a": 2}], "huge": %s}'
    (tmp_path / "in.jsonl").write_text(text % ("9" * 5000))
    (row,) = rows = read_rows(tmp_path / "in.jsonl")
    path = write(format, tmp_path / f"out.{format}", rows, 1, dict.fromkeys(row))
    (found,) = [json.loads(path.read_text())] if format == "jsonl" else pyarrow.parquet.read_table(path).to_pylist()
    plain = {"n": 12345678901234567, "x": 1.5, "yes": True, "s": "7", "none": None, "list": [{"a": 2}]}
    assert found == plain | {"huge": "9" * 5000}
    assert write(
        "csv", tmp_path / "out.csv", [{"n": row["n"], "x": row["x"]}], 1, {"n": None, "x": None}
    ).read_text() == ("n,x\n12345678901234567,1.50\n")


def test_parquet_keeps_the_types_of_a_parquet_input(tmp_path: Path) -> None:
    given = pyarrow.table({"n": pyarrow.array([None, None, 3], pyarrow.int32()), "text": ["a", "b", "c"]})
    pyarrow.parquet.write_table(given, tmp_path / "in.parquet")
    rows = [row | {"label": "x"} for row in given.to_pylist()]
    writer = writer_for("parquet", tmp_path / "in.parquet")
    content = writer.start({"n": None, "text": None, "label": str}, rows[:2]) + writer.rows(rows[:2])
    (tmp_path / "partial").write_bytes(content + writer.rows(rows[2:]))
    writer.finish(tmp_path / "partial", tmp_path / "out.parquet")
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert found.schema == given.schema.append(pyarrow.field("label", pyarrow.string())) and found.to_pylist() == rows


def test_a_set_of_labels_is_a_list_of_strings_in_parquet(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"label_set": []}, {"label_set": None}, {"label_set": ["b", "a"]}]
    path = write("parquet", tmp_path / "out.parquet", rows, 1, {"label_set": list})
    found = pyarrow.parquet.read_table(path)
    assert found.schema.field("label_set").type == pyarrow.list_(pyarrow.string()) and found.to_pylist() == rows


def test_columns_that_do_not_fit_are_named() -> None:
    csv_writer = writer_for("csv", Path("in.jsonl"))
    csv_writer.start({"a": None}, [])
    with pytest.raises(DataError, match="The column 'late' occurs in some rows only"):
        csv_writer.rows([{"a": 1}, {"a": 1, "late": 2}])
    parquet = writer_for("parquet", Path("in.jsonl"))
    with pytest.raises(DataError, match="The column 'a' has no single type that Parquet can hold: "):
        rows = [{"a": 1}, {"a": "x"}]
        parquet.start({"a": None}, rows)
        parquet.rows(rows)
    parquet.start({"a": None}, [{"a": 1}])
    with pytest.raises(DataError, match="The column 'a' has no single type"):
        parquet.rows([{"a": "x"}])
    with pytest.raises(ConfigError, match="format must be csv"):
        writer_for("xml", Path("in.csv"))

"""The rows of a table file: CSV, TSV, JSON lines, a JSON array, or Parquet."""

import csv
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from llm_cls.config.messages import echo, nearest
from llm_cls.errors import DataError, first_line

Row = dict[str, Any]

_SPACE = re.compile(r"\s*")


def read_rows(path: Path) -> list[Row]:
    """The rows of a table in their order; all rows have the same keys.

    A cell of CSV and TSV is the string in the file: "007", "NA" and "1e3" stay as they are. JSON and Parquet
    keep their types; a key that a JSON object lacks is None.

    Args:
        path: CSV, TSV, JSON lines, a JSON array of objects, or Parquet, as the file name ends.

    Raises:
        DataError: The file could not be read or has no rows.
    """
    if path.suffix.lower() not in _READERS:
        raise DataError(f"{path} must end with {', '.join(_READERS)}. Convert the file")
    kind, reader = _READERS[path.suffix.lower()]
    try:
        if not path.is_file():
            raise DataError(f"{path}: the file does not exist. Check the path")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} could not be read: {os.strerror(error.errno or 0)}") from None
    if not content:
        raise DataError(f"{path}: the file is empty. Give a file with rows")
    try:
        rows = reader(content)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: must be UTF-8, found byte {error.object[error.start]:#04x} at position {error.start}. "
            "Save the file as UTF-8"
        ) from None
    except (ValueError, OSError, RecursionError) as error:  # those of pandas and pyarrow are ValueError or OSError
        cause = first_line(error).removeprefix("Error tokenizing data. C error: ")
        fix = "" if ". " in cause else ". Correct the file"  # some causes end with their own
        raise DataError(f"{path} could not be read as {kind}: {cause}{fix}") from None
    if not rows:
        raise DataError(f"{path} has no rows. Give a file with rows")
    return rows


def _read_csv(content: bytes, separator: str) -> list[Row]:
    import pandas  # takes a third of a second, and only tables need it

    text = content.decode("utf-8").removeprefix("\ufeff")
    try:
        # The header is read as a row: otherwise pandas treats the first column as an index where rows are longer.
        frame = pandas.read_csv(io.StringIO(text), sep=separator, header=None, dtype=object, na_filter=False)
    except pandas.errors.EmptyDataError:
        return []
    except pandas.errors.ParserError:
        if (fault := _too_many_fields(text, separator)) is None:
            raise
        raise ValueError(fault) from None
    header, *cells = frame.to_numpy().tolist()
    names = [name or f"column {i + 1}" for i, name in enumerate(header)]  # pandas itself writes its index without one
    _check_unique(names)
    return [dict(zip(names, row, strict=True)) for row in cells]


def _too_many_fields(text: str, separator: str) -> str | None:
    """The first line with more fields than the first one has, which pandas counts without breaks in quotes."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        n = len(next(row for row in reader if row))
        found = next((len(row) for row in reader if len(row) > n), None)
    except csv.Error:  # for example a field of more than 128 KB
        return None
    name = {",": "comma", "\t": "tab"}[separator]
    fix = f"Put a text that has a {name} into double quotes"
    return None if found is None else f"line {reader.line_num} must have {n} fields, found {found}. {fix}"


def _read_json(content: bytes) -> list[Row]:
    text = content.decode("utf-8").removeprefix("\ufeff")
    decoder = json.JSONDecoder(object_pairs_hook=_json_object, parse_float=_json_float, parse_int=_json_int)
    values: list[Any] = []
    position = _after_space(text, 0)
    while position < len(text):  # objects may share a line, or extend over several
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {error.lineno}: {error.msg}") from None
        except ValueError as error:
            number = text.count("\n", 0, position) + 1
            raise ValueError(f"line {number}: {error}") from None
        values.append(value)
        position = _after_space(text, position)
    rows = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} must be an object, found a {type(row).__name__}")
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return position if match is None else match.end()


def _json_object(pairs: list[tuple[str, Any]]) -> Row:
    _check_unique([name for name, _ in pairs])
    return dict(pairs)


def _json_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # Python converts no longer ones
        raise ValueError(f"a number has {len(text.lstrip('-'))} digits, which is too many") from None


def _json_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {echo(text)} is too large")
    return value


def _read_parquet(content: bytes) -> list[Row]:
    from pyarrow import BufferReader
    from pyarrow.parquet import ParquetFile

    table = ParquetFile(BufferReader(content)).read()
    _check_unique(table.column_names)
    rows: list[Row] = table.to_pylist()
    return rows


def _check_unique(names: Sequence[str]) -> None:
    name, n = Counter(names).most_common(1)[0] if names else ("", 0)
    if n > 1:
        raise ValueError(f"the column {name!r} occurs twice")


_READERS: dict[str, tuple[str, Callable[[bytes], list[Row]]]] = {
    ".csv": ("csv", lambda content: _read_csv(content, ",")),
    ".tsv": ("tsv", lambda content: _read_csv(content, "\t")),
    ".jsonl": ("json", _read_json),
    ".ndjson": ("json", _read_json),
    ".json": ("json", _read_json),
    ".parquet": ("parquet", _read_parquet),
}


def column(rows: Sequence[Row], name: str, key: str, path: Path, may_be_empty: bool = False) -> list[str]:
    """One column as text. A missing value is the empty string, and a whole number has no ".0".

    Args:
        rows: At least one row, from ``read_rows``.
        name: Name of the column.
        key: Configuration key that named the column, for the message.
        path: File of the rows, for the message.
        may_be_empty: Whether cells may be empty.

    Raises:
        DataError: There is no such column, or a cell is empty or not a single value.
    """
    if name not in rows[0]:
        known = ", ".join(map(repr, islice(rows[0], 20)))
        near = nearest(name, list(rows[0]))
        question = f"{near} " if near.startswith("Did") else ""
        raise DataError(f"{path} has no column {name!r}. {question}It has {known}. Try {key}=COLUMN")
    values = []
    for number, row in enumerate(rows, 1):
        value = row[name]
        if isinstance(value, dict | list | bytes):
            kind = type(value).__name__
            raise DataError(f"{path}: row {number} of column {name!r} must be one value, found a {kind}")
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            value = int(value)  # programs write whole numbers beside missing ones as floats
        text = "" if value is None or value != value else str(value)  # NaN is a missing value
        if not may_be_empty and not text.strip():
            raise DataError(f"{path}: row {number} of column {name!r} is empty. Fill it in, or remove the row")
        values.append(text)
    try:
        "".join(values).encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"found {error.object[error.start]!r}"
        raise DataError(
            f"{path}: column {name!r} must be valid Unicode, {found}. Replace the incomplete character"
        ) from None
    return values

"""The rows of a table file: CSV, TSV, JSON, Parquet or Excel, at once or in parts."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from llm_cls.config.messages import nearest
from llm_cls.data.tables.delimited import read_delimited
from llm_cls.data.tables.excel import read_excel
from llm_cls.data.tables.format import Row, TableFormat, TableRow, row_fault
from llm_cls.data.tables.jsonl import read_json
from llm_cls.data.tables.parquet import read_parquet
from llm_cls.data.tables.stream import COMPRESSIONS, memory_limit, too_large
from llm_cls.errors import DataError, first_line

__all__ = ["ENDINGS", "Row", "TableFormat", "TableRow", "column", "is_table", "iter_rows", "read_rows"]

Reader = Callable[[Path, TableFormat, bool], Iterator[TableRow]]

_READERS: dict[str, tuple[str, Reader]] = {
    ".csv": ("csv", lambda path, format, whole: read_delimited(path, format, ",", whole)),
    ".tsv": ("tsv", lambda path, format, whole: read_delimited(path, format, "\t", whole)),
    ".jsonl": ("json", read_json),
    ".ndjson": ("json", read_json),
    ".json": ("json", read_json),
    ".parquet": ("parquet", read_parquet),
    ".xlsx": ("xlsx", read_excel),
}
ENDINGS = tuple(_READERS)
_BINARY = (".parquet", ".xlsx")  # compressed themselves


def is_table(path: Path) -> bool:
    """Whether the name of a file ends as that of a table."""
    return _ending(path) in _READERS


def read_rows(path: Path, format: TableFormat | None = None) -> list[Row]:
    """The rows of a table in their order; all rows have the same keys.

    A cell of CSV and TSV is the string in the file: "007", "NA" and "1e3" stay as they are, and so do the numbers and
    booleans of JSON. Parquet and Excel keep their types; a key that a JSON object lacks is None.

    Args:
        path: A file whose name ends with one of ``ENDINGS``, those of text with .gz or .zst behind it.
        format: How it is read; None is the default of every key.

    Raises:
        DataError: The file could not be read or has no rows.
        ConfigError: A package or the name of a sheet is missing.
    """
    return next(_chunks(path, format or TableFormat(), None))


def iter_rows(path: Path, format: TableFormat | None = None, chunk_rows: int = 10_000) -> Iterator[list[Row]]:
    """The rows of ``read_rows`` in lists of at most ``chunk_rows``, in bounded memory.

    Excel files and JSON documents other than lines of objects are in memory as a whole. A JSON file of more than one
    chunk is read twice, because its last row may have a key that all rows get.

    Raises:
        DataError, ConfigError: As ``read_rows``, while the rows are read.
    """
    return _chunks(path, format or TableFormat(), chunk_rows)


def _chunks(path: Path, format: TableFormat, chunk_rows: int | None) -> Iterator[list[Row]]:
    """The rows in lists of ``chunk_rows``; None is one list of all."""
    if path.is_dir():
        raise DataError(f"{path} is a folder. Give one file of it")
    if not is_table(path):
        compressed = " (text also with .gz or .zst)"
        raise DataError(f"{path} must end with {', '.join(_READERS)}{compressed}. Convert the file")
    rows = _read(path, format, chunk_rows is None)
    chunk = list(islice(rows, chunk_rows))
    if not chunk:
        raise DataError(f"{path} has no rows. Give a file with rows")
    if _READERS[_ending(path)][0] == "json":
        names = dict.fromkeys(name for row in chunk for name in row)
        if len(chunk) == chunk_rows:
            for row in rows:
                names.update(dict.fromkeys(row))
            rows = _read(path, format, chunk_rows is None)
            chunk = list(islice(rows, chunk_rows))
    else:
        names = {}
    while chunk:
        for row in chunk:
            if len(row) < len(names):
                values = {name: row.get(name) for name in names}
                row.clear()
                row.update(values)
        yield list(chunk)
        chunk = list(islice(rows, chunk_rows)) if chunk_rows is not None else []


def _read(path: Path, format: TableFormat, whole: bool) -> Iterator[TableRow]:
    """The rows of the reader for ``path``; its errors as lines for the user."""
    kind, reader = _READERS[_ending(path)]
    try:
        if not path.is_file():
            raise DataError(f"{path}: the file does not exist. Check the path")
        if not (size := path.stat().st_size):
            raise DataError(f"{path}: the file is empty. Give a file with rows")
        if whole and size > memory_limit():
            raise too_large(path, memory_limit())
        yield from reader(path, format, whole)
    except OSError as error:
        if error.errno is None:  # of pyarrow, about the content
            raise _unreadable(path, kind, error) from None
        raise DataError(f"{path} could not be read: {os.strerror(error.errno)}") from None
    except (ValueError, RecursionError) as error:  # those of pyarrow are ValueError too
        raise _unreadable(path, kind, error) from None


def _unreadable(path: Path, kind: str, error: Exception) -> DataError:
    cause = first_line(error)
    fix = "" if ". " in cause else ". Correct the file"  # some causes end with their own
    return DataError(f"{path} could not be read as {kind}: {cause}{fix}")


def _ending(path: Path) -> str:
    """The ending of the name that tells the format, without that of a compression; "" where there is none."""
    if path.suffix.lower() not in COMPRESSIONS:
        return path.suffix.lower()
    ending = path.with_suffix("").suffix.lower()
    return "" if ending in _BINARY else ending


def column(rows: Sequence[Row], name: str, key: str, path: Path, may_be_empty: bool = False) -> list[str]:
    """One column as text. A missing value is the empty string, and a whole number has no ".0".

    Args:
        rows: At least one row, from ``read_rows``.
        name: Name of the column.
        key: Configuration key that named the column, for the message.
        path: File of the rows, for the message; rows that know their own file and number name these.
        may_be_empty: Whether cells may be empty.

    Raises:
        DataError: There is no such column, or a cell is empty or not a single value.
    """
    if name not in rows[0]:
        raise DataError(_no_column(rows, name, key, path))
    values = []
    for i, row in enumerate(rows, 1):
        value = row[name]
        if isinstance(value, dict | list | bytes):
            kind = type(value).__name__
            raise DataError(row_fault(row, i, path, f"of column {name!r} must be one value, found a {kind}"))
        text = as_text(value)
        if not may_be_empty and not text.strip():
            more = sum(not as_text(other[name]).strip() for other in rows[i:])
            others = f" (and {more} more row{'s' * (more != 1)})" if more else ""
            found = f"of column {name!r} is empty{others}"
            raise DataError(row_fault(row, i, path, found, "Fill it in, or remove the row"))
        values.append(text)
    try:
        "".join(values).encode("utf-8")
    except UnicodeEncodeError as error:
        i = next(i for i, text in enumerate(values) if _is_broken(text))
        found = f"of column {name!r} must be valid Unicode, found {error.object[error.start]!r}"
        raise DataError(row_fault(rows[i], i + 1, path, found, "Replace the incomplete character")) from None
    return values


def as_text(value: Any) -> str:
    """A single value as text. A missing one is the empty string, and a whole number has no ".0"."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)  # programs write whole numbers beside missing ones as floats
    return "" if value is None or value != value else str(value)  # NaN is a missing value


def _is_broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _no_column(rows: Sequence[Row], name: str, key: str, path: Path) -> str:
    """The line for a column that does not exist, with the likely cause."""
    names = list(rows[0])
    known = ", ".join(map(repr, names[:20]))
    near = nearest(name, names)
    question = f"{near} " if near.startswith("Did") else ""
    fix = f"Try {key}=COLUMN"
    if len(names) == 1 and (found := next((mark for mark in ";\t|," if mark in names[0]), None)):
        shown = "tab" if found == "\t" else f'"{found}"'
        fix = f"Try 'data.separator={shown}'"
    elif len(rows) == 1 and (field := _table_within(rows[0])):
        fix = f"Try data.field={field}"
    return f"{path} has no column {name!r}. {question}It has {known}. {fix}"


def _table_within(value: Row) -> str | None:
    """The path of the first list of objects within a document, as data.field names it; shallow ones come first."""
    level: list[tuple[str, Any]] = list(value.items())
    while level:
        if (found := next((path for path, inner in level if _is_table(inner)), None)) is not None:
            return found
        level = [(f"{path}.{n}", v) for path, inner in level if isinstance(inner, dict) for n, v in inner.items()]
    return None


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)

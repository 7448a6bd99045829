"""Rows as the bytes of a table, a chunk at a time: CSV, TSV, JSON lines or Parquet.

The same rows give the same bytes, whether they are written in one piece or in several.
"""

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from llm_cls.data.rows import Row
from llm_cls.data.tables.format import JsonValue
from llm_cls.data.tables.parquet import class_names
from llm_cls.errors import ConfigError, DataError, first_line
from llm_cls.files import atomic_path, finite


class RowWriter(Protocol):
    """Turns rows into bytes that are appended to one another."""

    def start(self, columns: Mapping[str, type | None], rows: Sequence[Row]) -> bytes:
        """What precedes all rows.

        Args:
            columns: Their names, and the types of their values where these are known.
            rows: The first of them.
        """

    def rows(self, rows: Sequence[Row]) -> bytes:
        """The next rows."""

    def finish(self, source: Path, target: Path) -> None:
        """Makes the table ``target`` of the file ``source``, which holds all of these bytes."""


class Delimited:
    """CSV or TSV with a header. A missing value is empty; lists and mappings are written as JSON."""

    def __init__(self, separator: str) -> None:
        """Takes the character between two cells."""
        self._separator, self._columns = separator, [""]

    def start(self, columns: Mapping[str, type | None], rows: Sequence[Row]) -> bytes:
        """See ``RowWriter``."""
        self._columns = list(columns)
        return self._lines([self._columns])

    def rows(self, rows: Sequence[Row]) -> bytes:
        """See ``RowWriter``.

        Raises:
            DataError: A row has a column that the header lacks.
        """
        known = set(self._columns)
        for row in rows:
            if not row.keys() <= known:
                late = next(name for name in row if name not in known)
                raise DataError(f"The column {late!r} occurs in some rows only. Write JSON lines: output=FILE.jsonl")
        return self._lines([[_cell(row.get(name)) for name in self._columns] for row in rows])

    def finish(self, source: Path, target: Path) -> None:
        """See ``RowWriter``."""
        source.replace(target)

    def _lines(self, rows: Sequence[Sequence[Any]]) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=self._separator, lineterminator="\n").writerows(rows)
        return text.getvalue().encode("utf-8", "backslashreplace")  # JSON may hold half a character


def _cell(value: Any) -> Any:
    if value is None or value != value:  # NaN is a missing value
        return ""
    if isinstance(value, bool | dict | list | bytes):
        return _json(value)
    return value


class JsonLines:
    """An object a line. Values keep their types; what JSON lacks, such as a date, is a string."""

    def start(self, columns: Mapping[str, type | None], rows: Sequence[Row]) -> bytes:
        """See ``RowWriter``."""
        return b""

    def rows(self, rows: Sequence[Row]) -> bytes:
        """See ``RowWriter``."""
        return b"".join(map(_json_line, rows))

    def finish(self, source: Path, target: Path) -> None:
        """See ``RowWriter``."""
        source.replace(target)


def _json(value: Any) -> str:
    return json.dumps(finite(_plain(value)), ensure_ascii=False, default=_text)


def _json_line(row: Row) -> bytes:
    try:
        return _json(row).encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # half a character can only be escaped
        return json.dumps(finite(_plain(row)), default=_text).encode("ascii") + b"\n"


def _plain(value: Any) -> Any:
    """A value of a row with numbers and booleans in the place of their texts."""
    if isinstance(value, JsonValue):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _text(value: Any) -> str:
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)


class Parquet:
    """Parquet, by way of an Arrow stream: a Parquet file cannot be appended to."""

    def __init__(self, source: Path) -> None:
        """Takes the input, whose types are kept where it is Parquet; others are those of the first rows."""
        self._source = source
        self._schema: Any = None

    def start(self, columns: Mapping[str, type | None], rows: Sequence[Row]) -> bytes:
        """See ``RowWriter``."""
        import pyarrow
        from pyarrow.parquet import read_schema

        kinds: dict[str, Any] = {}
        if self._source.suffix.lower() == ".parquet":
            schema = read_schema(self._source)
            classes = class_names(schema.metadata)  # which are read as their names
            kinds = {field.name: field.type for field in schema if field.name not in classes}
        known = {str: pyarrow.string, float: pyarrow.float64, list: lambda: pyarrow.list_(pyarrow.string())}
        found = []
        for name, of in columns.items():
            kind = known[of]() if of in known else kinds.get(name)
            if kind is None:
                try:
                    kind = pyarrow.infer_type([_plain(row.get(name)) for row in rows])
                except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
                    raise _mixed(name, error) from None
            found.append((name, pyarrow.string() if pyarrow.types.is_null(kind) else kind))
        self._schema = pyarrow.schema(found)
        header: bytes = self._schema.serialize().to_pybytes()
        return header

    def rows(self, rows: Sequence[Row]) -> bytes:
        """See ``RowWriter``.

        Raises:
            DataError: A value does not have the type of its column.
        """
        import pyarrow

        arrays = []
        for field in self._schema:
            try:
                arrays.append(pyarrow.array([_plain(row.get(field.name)) for row in rows], type=field.type))
            except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError, UnicodeError) as error:
                raise _mixed(field.name, error) from None
        batch: bytes = pyarrow.record_batch(arrays, schema=self._schema).serialize().to_pybytes()
        return batch

    def finish(self, source: Path, target: Path) -> None:
        """See ``RowWriter``."""
        import pyarrow
        from pyarrow.parquet import ParquetWriter

        with (
            atomic_path(target) as temporary,
            pyarrow.ipc.open_stream(str(source)) as batches,
            ParquetWriter(str(temporary), batches.schema) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)
        source.unlink()


def _mixed(name: str, error: BaseException) -> DataError:
    cause = first_line(error).rstrip(".")
    return DataError(
        f"The column {name!r} has no single type that Parquet can hold: {cause}. Try output=FILE.jsonl, which keeps "
        "each value's own"
    )


def writer_for(format: str, source: Path) -> RowWriter:
    """The writer of a format: "csv", "tsv", "jsonl" or "parquet".

    Args:
        format: The name.
        source: The input.

    Raises:
        ConfigError: There is no such format.
    """
    if format == "parquet":
        return Parquet(source)
    if format == "jsonl":
        return JsonLines()
    if format in ("csv", "tsv"):
        return Delimited("\t" if format == "tsv" else ",")
    raise ConfigError(f"format must be csv, tsv, jsonl or parquet, got {format!r}")

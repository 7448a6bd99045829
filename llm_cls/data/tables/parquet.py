"""Parquet; classes of the ``datasets`` library by their names."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_cls.data.tables.format import TableFormat, TableRow, check_unique

_BATCH_ROWS = 1000


def read_parquet(path: Path, format: TableFormat, whole: bool) -> Iterator[TableRow]:
    """The rows with the types of the file.

    Raises:
        ValueError: Two columns have the same name, or a class has no name.
    """
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        schema = file.schema_arrow
        check_unique(schema.names)
        classes = class_names(schema.metadata)
        number = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            for values in batch.to_pylist():
                number += 1
                for column, names in classes.items():
                    if column in values:
                        values[column] = name_of_class(values[column], names, column, number)
                yield TableRow(values.items(), str(path), number)


def class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of the classes of each column that the ``datasets`` library wrote as ClassLabel."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (LookupError, TypeError, ValueError, AttributeError):  # there are none
        return {}


def name_of_class(value: Any, names: list[str], column: str, number: int) -> Any:
    """The name of class ``value``; None for -1, which the ``datasets`` library writes where there is no label.

    Raises:
        ValueError: It has no name.
    """
    if value is None or value == -1:
        return None
    if not isinstance(value, int):
        return value
    if not 0 <= value < len(names):
        raise ValueError(
            f"row {number} of column {column!r} has class {value}, but there are names for {len(names)} classes"
        )
    return names[value]

"""What describes a table file, and what its readers give."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from llm_cls.config.table import OtherTable, TableKeys

Row = dict[str, Any]


class TableRow(Row):
    """A row that knows where it was read.

    Attributes:
        file: The file as the user named it.
        number: Position among the rows of the file, from 1.
        line: Line of the file, or row of the sheet, where it begins, from 1; None where the format has none.
    """

    __slots__ = ("file", "line", "number")

    def __init__(self, values: Iterable[tuple[str, Any]], file: str, number: int, line: int | None = None) -> None:
        """The row with its place."""
        super().__init__(values)
        self.file, self.number, self.line = file, number, line


class JsonValue(str):
    """A number, true or false of a JSON file, as its text; where it is written again, it is no string."""

    __slots__ = ()

    @property
    def value(self) -> Any:
        """What the text stands for; the text itself where Python has no such number."""
        try:
            value = json.loads(self)
        except ValueError:  # a whole number of thousands of digits
            return str(self)
        return str(self) if isinstance(value, float) and math.isinf(value) else value


@dataclass(frozen=True)
class TableFormat:
    """How table files are read; see the keys of the same names in ``config/table.py``."""

    separator: str | None = None
    quoting: bool = True
    header: bool = True
    encoding: str = "utf-8"
    field: str | None = None
    sheet: str | None = None

    @classmethod
    def of(cls, keys: TableKeys, other: OtherTable | None = None) -> Self:
        """The format that a configuration describes; ``other`` has what differs from it."""
        values = {field.name: getattr(keys, field.name) for field in fields(cls)}
        given = {} if other is None else {name: getattr(other, name) for name in values}
        values |= {name: value for name, value in given.items() if value is not None}
        return cls(**values | {"field": values["field"] or None})


def row_fault(row: Row, number: int, path: Path, fault: str, fix: str = "") -> str:
    """The line for a faulty row: "t.csv: row 3 of column 'text' is empty (line 5). Fill it in".

    Args:
        row: The row; where it knows its place, that wins over ``number`` and ``path``.
        number: Position of the row, from 1.
        path: File of the row.
        fault: What follows the number of the row.
        fix: One sentence without a full stop.
    """
    line = ""
    if isinstance(row, TableRow):
        path, number = Path(row.file), row.number
        line = "" if row.line is None else f" (line {row.line})"
    return f"{path}: row {number} {fault}{line}" + (f". {fix}" if fix else "")


def row_place(row: Row, number: int, beside: Row) -> str:
    """Where a row is, as part of a line about the row ``beside``: "row 3", of another file "row 3 of b.csv"."""
    if not isinstance(row, TableRow):
        return f"row {number}"
    same = isinstance(beside, TableRow) and beside.file == row.file
    return f"row {row.number}" + ("" if same else f" of {row.file}")


def check_unique(names: Sequence[str]) -> None:
    """Refuses two columns of one name.

    Raises:
        ValueError: A name occurs twice.
    """
    name, n = Counter(names).most_common(1)[0] if names else ("", 0)
    if n > 1:
        raise ValueError(f"the column {name!r} occurs twice. Rename one of them")

"""Excel sheets, read by openpyxl."""

import datetime
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_cls.config.messages import nearest
from llm_cls.data.tables.format import TableFormat, TableRow, check_unique
from llm_cls.data.tables.stream import memory_limit, too_large
from llm_cls.errors import ConfigError, first_line

# openpyxl checks its files little; a fault of XML is a SyntaxError.
_OF_DAMAGED_FILES = (
    LookupError, TypeError, AttributeError, ArithmeticError, SyntaxError, EOFError, RuntimeError, zlib.error
)  # fmt: skip


def read_excel(path: Path, format: TableFormat, whole: bool) -> Iterator[TableRow]:
    """The rows of one sheet; their lines are the rows of the sheet.

    A cell is its value, not what Excel shows: dates are ISO 8601, and a formula is the value that Excel stored. A row
    without any value is no row, except within a table of one column.

    Raises:
        ValueError: The file is damaged, or a row is longer than the header.
        ConfigError: openpyxl is missing, or the sheet must be chosen.
        DataError: The file is too large.
    """
    values = _values(path, format)
    while values and all(value is None for value in values[-1]):
        values.pop()
    first = next((i for i, row in enumerate(values) if any(value is not None for value in row)), 0)
    used = max((i + 1 for row in values for i, value in enumerate(row) if value is not None), default=0)
    names = [str(i + 1) for i in range(used)]
    if format.header and values:
        header = [str(_text(value)) if value is not None else "" for value in values[first]]
        width = max((i + 1 for i, name in enumerate(header) if name), default=0)
        names = [name or f"column {i + 1}" for i, name in enumerate(header[:width])]
        check_unique(names)
        first += 1
    number = 0
    for line, row in enumerate(values[first:], first + 1):
        filled = max((i + 1 for i, value in enumerate(row) if value is not None), default=0)
        if filled > len(names):
            raise ValueError(
                f"row {line} of the sheet must have {len(names)} cells, as the header, found {filled}. Name all columns"
            )
        if filled or len(names) == 1:
            number += 1
            cells = [_text(value) for value in (*row, *[None] * len(names))][: len(names)]
            yield TableRow(zip(names, cells, strict=True), str(path), number, line)


def _values(path: Path, format: TableFormat) -> list[tuple[Any, ...]]:
    """The cells of the chosen sheet."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise ConfigError(f"{path} needs openpyxl. Install it with: pip install 'llm_cls[excel]'") from None
    try:
        with zipfile.ZipFile(path) as archive:  # which gives no more bytes of a member than it declares
            if sum(member.file_size for member in archive.infolist()) > memory_limit():
                raise too_large(path, memory_limit())
        with warnings.catch_warnings():  # of styles and extensions that no value depends on
            warnings.simplefilter("ignore")
            book = load_workbook(path, read_only=True, data_only=True)
            try:
                sheet = _sheet(book, path, format.sheet)
                sheet.reset_dimensions()  # some programs write wrong ones
                return list(sheet.iter_rows(values_only=True))
            finally:
                book.close()
    except zipfile.BadZipFile:
        raise ValueError("it is no .xlsx file, or is encrypted or damaged. Save it again in Excel") from None
    except _OF_DAMAGED_FILES as error:
        raise ValueError(f"it is damaged: {first_line(error)}. Save it again in Excel") from None


def _sheet(book: Any, path: Path, name: str | None) -> Any:
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    if not sheets:
        raise ValueError("it has no sheet with cells")
    if name is None and len(sheets) == 1:
        return next(iter(sheets.values()))
    if name is None:
        known = ", ".join(map(repr, sheets))
        raise ConfigError(f"{path} has {len(sheets)} sheets: {known}. Try data.sheet={next(iter(sheets))}")
    if name not in sheets:
        raise ConfigError(f"{path}: data.sheet={name} is not a sheet. {nearest(name, list(sheets))}")
    return sheets[name]


def _text(value: Any) -> Any:
    """A value as the sheet shows it in its plainest format; numbers stay numbers."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, datetime.datetime):
        midnight = value.time() == datetime.time()
        return value.date().isoformat() if midnight else value.isoformat()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return value

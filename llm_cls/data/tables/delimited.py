"""CSV and TSV, read by the csv module in its strict mode.

The module itself gives no place for its errors and does not notice a quote that is closed by one of a later row, which
merges all rows between.
"""

import csv
import logging
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from llm_cls.data.tables.format import TableFormat, TableRow, check_unique
from llm_cls.data.tables.stream import LONGEST, open_text, text_lines

log = logging.getLogger(__name__)

_QUOTES = "Write a double quote within a text twice, or try data.quoting=false"
_ROWS_SEEN = 1000  # labels are known by then
_MOST_SUSPECTS = 100
_MOST_BLANK = 10**6
_NAMES = {",": "comma", "\t": "tab", ";": "semicolon"}


class _Record(NamedTuple):
    """The cells of one record, and the lines of the file that it takes, from 1."""

    cells: list[str]
    first: int
    lines: list[str]

    @property
    def is_blank(self) -> bool:
        return len(self.cells) < 2 and len(self.lines) == 1 and not self.lines[0].strip()

    @property
    def place(self) -> str:
        n = len(self.lines)
        return f"line {self.first}" if n == 1 else f"the row in lines {self.first} to {self.first + n - 1}"


def read_delimited(path: Path, format: TableFormat, separator: str, whole: bool) -> Iterator[TableRow]:
    """The rows; a cell is the string in the file.

    A line without any text is no row, except in a table of one column.

    Raises:
        ValueError: Quotes or numbers of fields are wrong; the message has the line.
        DataError: As ``open_text``.
    """
    separator = format.separator or separator
    with open_text(path, format.encoding, "", whole) as stream:
        records = _records(text_lines(stream), separator, format.quoting)
        if format.quoting:
            records = _check_quotes(records, separator, path)
        blank, first = _first_record(records, keep_blank=not format.header)
        if first is None:
            return
        if format.header:  # pandas writes its index without a name
            names = [name or f"column {i + 1}" for i, name in enumerate(first.cells)]
            check_unique(names)
        else:
            names = [str(i + 1) for i in range(len(first.cells))]
            records = chain(blank if len(names) == 1 else [], [first], records)
        number = 0
        for record in records:
            cells = record.cells
            if len(cells) != len(names):
                if not record.is_blank:
                    raise ValueError(_wrong_width(record, len(names), separator))
                if len(names) > 1:
                    continue
                cells = [""]
            number += 1
            yield TableRow(zip(names, cells, strict=True), str(path), number, record.first)


def _first_record(records: Iterator[_Record], keep_blank: bool) -> tuple[list[_Record], _Record | None]:
    """The first record that is not blank, with the blank ones before it; None where there is none."""
    blank: list[_Record] = []
    for record in records:
        if not record.is_blank:
            return blank, record
        if keep_blank:
            blank.append(record)
            if len(blank) > _MOST_BLANK:
                raise ValueError(f"the first {_MOST_BLANK} lines are blank. Remove them")
    return [], None


def _records(lines: Iterable[str], separator: str, quoting: bool) -> Iterator[_Record]:
    csv.field_size_limit(LONGEST)  # the module has one limit for the whole process; by default 131,072 characters
    taken: list[str] = []

    def feed() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    if quoting:
        reader = csv.reader(feed(), delimiter=separator, strict=True)
    else:
        reader = csv.reader(feed(), delimiter=separator, quoting=csv.QUOTE_NONE, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(_quote_fault(str(error), first, reader.line_num)) from None
        yield _Record(cells, first, taken.copy())
        taken.clear()


def _quote_fault(cause: str, first: int, last: int) -> str:
    if "unexpected end" in cause:
        return f"line {first} opens a double quote that no later line closes. Close it. {_QUOTES}"
    if "field larger" in cause:
        return f"line {first} has a cell of more than {LONGEST} characters: a double quote may be open. {_QUOTES}"
    if "expected after" in cause:
        begin = "" if first == last else f" of the row that begins in line {first}"
        return f"line {last}{begin} has text after a closing double quote. {_QUOTES}"
    return f"line {last}: {cause}"


def _wrong_width(record: _Record, n: int, separator: str) -> str:
    found = len(record.cells)
    fault = f"{record.place} must have {n} fields, found {found}"
    if len(record.lines) > 1:
        return f"{fault}. Check the double quotes in line {record.first}: one may be unclosed. {_QUOTES}"
    if found > n:
        name = _NAMES.get(separator, repr(separator))
        return f"{fault}. Put a text that has a {name} into double quotes"
    return f"{fault}. Fill in the others, if only as empty ones"


def _check_quotes(records: Iterator[_Record], separator: str, path: Path) -> Iterator[_Record]:
    """Refuses or reports cells that may have swallowed rows.

    Programs that write CSV enclose a cell with a quote in quotes. A file in which a cell has one without that was
    written by something that does not treat quotes at all, so that a cell of several lines there is an accident.
    Elsewhere, cells of several lines are read as they are, and reported where each of their lines would be a row with
    a value that other rows have in the same column, such as a label.

    Raises:
        ValueError: A file has both.
    """
    other = f"[^{re.escape(separator)}]"
    quoted = re.compile(rf'(?<!{other})"[^"]*(?:""[^"]*)*"(?!{other})')  # begins and ends at a separator or an end
    bare: int | None = None
    long: _Record | None = None
    suspects: list[_Record] = []
    values: list[set[str]] = []  # of each column, in the first rows
    n_seen = 0
    for record in records:
        if len(record.lines) > 1:
            long = long or record
            if len(suspects) < _MOST_SUSPECTS and _each_line_is_a_row(record, separator):
                suspects.append(record)
        elif n_seen < _ROWS_SEEN:
            n_seen += 1
            values += [set() for _ in record.cells[len(values) :]]
            for seen, cell in zip(values, record.cells, strict=False):
                seen.add(cell)
        if bare is None and any('"' in cell for cell in record.cells):
            text = "".join(record.lines).rstrip("\r\n")
            if '"' in quoted.sub("", text):
                bare = record.first
        if bare is not None and long is not None:
            raise ValueError(
                f"line {bare} has a double quote within a cell that is not in quotes, and {long.place} has a cell of "
                f"several lines, which may be an unclosed quote. {_QUOTES}"
            )
        yield record
    if found := [record for record in suspects if _has_known_values(record, separator, values)]:
        log.warning(
            "%s: rows may be lost: %s has a cell whose lines look like rows of their own%s. Check its double "
            "quotes. %s",
            path, found[0].place, f", as have {len(found) - 1} others" if found[1:] else "", _QUOTES,
        )  # fmt: skip


def _each_line_is_a_row(record: _Record, separator: str) -> bool:
    """Whether each line of the record has as many fields as the whole, where quotes are text."""
    n = len(record.cells)
    return n > 1 and all(line.count(separator) == n - 1 for line in record.lines)


def _has_known_values(record: _Record, separator: str, values: list[set[str]]) -> bool:
    """Whether there is a column in which all lines of the record have one of ``values``."""
    lines = [[field.strip('"') for field in line.rstrip("\r\n").split(separator)] for line in record.lines]
    return any(all(line[i] in known for line in lines) for i, known in enumerate(values[: len(lines[0])]))

"""Tables as CSV and Markdown, and cells as text."""

import csv
import io
import math
import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from llm_cls.files import write_text
from llm_cls.reporting.tables import TABLES, Column, Table

# What makes a spreadsheet run a cell (OWASP, "CSV Injection"); the wide forms do so in Japanese settings.
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
# Controls, the marks that reverse the direction of text, and halves of surrogate pairs.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def write_table(table: Table, directory: Path) -> None:
    """Writes ``<name>.csv`` and ``<name>.md``."""
    write_text(directory / f"{table.name}.csv", to_csv(table))
    write_text(directory / f"{table.name}.md", to_markdown(table))


def remove_tables(directory: Path) -> None:
    """Removes the tables of an earlier report: not each report has all of them."""
    for name in TABLES:
        for suffix in ("csv", "md"):
            (directory / f"{name}.{suffix}").unlink(missing_ok=True)


def to_csv(table: Table) -> str:
    """All columns; numbers as numbers, missing values empty, text that a spreadsheet would run defused."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(defuse(column.key) for column in table.columns)
    for row in table.rows:
        writer.writerow(_csv_cell(row.get(column.key), column) for column in table.columns)
    return buffer.getvalue()


def to_markdown(table: Table) -> str:
    """The shown columns under the title and the note."""
    columns = table.shown_columns
    lines = [f"# {table.title}", "", table.note, ""]
    lines.append("| " + " | ".join(_escape(column.heading) for column in columns) + " |")
    lines.append("| " + " | ".join("---" if column.kind == "text" else "---:" for column in columns) + " |")
    for row in table.rows:
        lines.append("| " + " | ".join(_escape(cell(row.get(c.key), c)) for c in columns) + " |")
    return "\n".join(lines) + "\n"


def cell(value: Any, column: Column) -> str:
    """A value as people read it; empty where there is none."""
    if value is None:
        return ""
    if column.kind == "percent" and isinstance(value, int | float):
        return str(hundredfold(value))
    if column.kind == "points" and isinstance(value, int | float):
        return f"{hundredfold(value):+}"
    if column.kind == "rate" and isinstance(value, int | float):
        return rate(value)
    if isinstance(value, float):
        return f"{value:g}"
    return printable(str(value))


def rate(value: float) -> str:
    """A learning rate as people type it: 5e-4."""
    if not 0 < value < 0.1:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    return f"{value / 10.0**exponent:g}e{exponent}"


def hundredfold(value: float) -> Decimal:
    """``100 * value`` with two digits, ties away from zero as people round; never -0.00."""
    return (100 * Decimal(repr(float(value)))).quantize(Decimal("0.01"), ROUND_HALF_UP) + Decimal("0.00")


def printable(text: str) -> str:
    """``text`` without what no file here can hold, or what would mislead its reader."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def defuse(text: str) -> str:
    """``text`` with an apostrophe before what a spreadsheet would take for a formula."""
    clean = printable(text)
    return f"'{clean}" if _FORMULA.match(clean) else clean


def _csv_cell(value: Any, column: Column) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else defuse(str(value))
    if column.kind in ("percent", "points"):
        return str(hundredfold(value))
    return repr(value)


def _escape(text: str) -> str:
    """``text`` as Markdown shows it literally, on one line."""
    return re.sub(r"([\\|`*\[\]<>])", r"\\\1", " ".join(text.split()))

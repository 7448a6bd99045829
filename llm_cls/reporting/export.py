"""Tables as CSV and Markdown files."""

import re
from pathlib import Path
from typing import Any

from llm_cls.files import write_text
from llm_cls.metrics.percent import percent
from llm_cls.reporting.formatting import Kind, cell, printable
from llm_cls.reporting.tables import TABLES, Table

# Characters at which a spreadsheet starts a formula (OWASP, "CSV Injection"), with the wide forms that it accepts in
# Japanese settings.
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")


def write_table(table: Table, directory: Path) -> None:
    """Writes ``<name>.csv`` and ``<name>.md``."""
    write_text(directory / f"{table.name}.csv", to_csv(table))
    write_text(directory / f"{table.name}.md", to_markdown(table))


def remove_tables(directory: Path) -> None:
    """Removes the tables of an earlier report, which may have had more tables than the next one."""
    for name in TABLES:
        for suffix in ("csv", "md"):
            (directory / f"{name}.{suffix}").unlink(missing_ok=True)


def to_csv(table: Table) -> str:
    """All columns; a missing value is an empty cell, and text cannot start a formula."""
    import pandas as pd  # takes 0.4 s, which --help should not

    rows = [[_csv_cell(row.get(column.key), column.kind) for column in table.columns] for row in table.rows]
    frame = pd.DataFrame(rows, columns=[defuse(column.key) for column in table.columns], dtype=object)
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text


def to_markdown(table: Table) -> str:
    """The shown columns under title and note.

    Written here because ``DataFrame.to_markdown`` needs a further package and does not escape cells.
    """
    columns = table.shown_columns
    rows = [
        [_escape(column.heading) for column in columns],
        ["---" if column.kind == "text" else "---:" for column in columns],
        *([_escape(cell(row.get(column.key), column.kind)) for column in columns] for row in table.rows),
    ]
    return "\n".join([f"# {table.title}", "", table.note, "", *("| " + " | ".join(row) + " |" for row in rows), ""])


def defuse(text: str) -> str:
    """``text`` with an apostrophe in front if a spreadsheet would read it as a formula."""
    clean = printable(text)
    return f"'{clean}" if _FORMULA.match(clean) else clean


def _csv_cell(value: Any, kind: Kind) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else defuse(str(value))
    return str(percent(value)) if kind in ("percent", "points") else repr(value)


def _escape(text: str) -> str:
    """``text`` as literal Markdown on one line."""
    return re.sub(r"([\\|`*\[\]<>])", r"\\\1", " ".join(text.split()))

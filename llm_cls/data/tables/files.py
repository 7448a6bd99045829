"""Several files as one table: lists, folders, and patterns such as data/*.csv."""

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from llm_cls.config.table import Files
from llm_cls.data.rows import Row, TableFormat, TableRow, is_table, iter_rows, read_rows
from llm_cls.errors import DataError

log = logging.getLogger(__name__)


def find_files(given: Files, key: str) -> list[Path]:
    """The files that ``given``, the value of ``key``, names.

    A list keeps its order; a folder is the tables directly in it, and a pattern the files that match it, both sorted by
    name. An existing file is itself, whatever characters its name has.

    Raises:
        DataError: A folder or pattern has no tables, or a file is named twice.
    """
    files = []
    for path in given if isinstance(given, list) else [given]:
        try:
            files += _expand(path, key)
        except OSError as error:
            raise DataError(f"{path} could not be read: {os.strerror(error.errno or 0)}. Check {key}") from None
    if twice := next((file for i, file in enumerate(files) if file in files[:i]), None):
        raise DataError(f"{key} names {twice} twice. Name each file once")
    return files


def _expand(path: Path, key: str) -> list[Path]:
    if path.is_dir():
        inside = sorted(file for file in path.iterdir() if not file.name.startswith("."))
        files = [file for file in inside if file.is_file() and is_table(file)]
        if not files:
            raise DataError(f"{path}: the folder has no tables. Try {key}=FILE")
        if ignored := [file.name for file in inside if file not in files]:
            log.warning("%s: %d entries are no tables and not read, for example %s", path, len(ignored), ignored[0])
        return files
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    found = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    files = sorted(file for file in map(Path, found) if file.is_file())
    if not files:
        raise DataError(f"{path}: no file matches. Check {key}")
    return files


def read_files(given: Files, format: TableFormat, key: str) -> list[Row]:
    """The rows of all files, one after the other.

    Args:
        given: Files, folders and patterns.
        format: How the files are read; keys that do not concern the format of a file have no effect on it.
        key: Configuration key of ``given``, for messages.

    Raises:
        DataError: A file could not be read, or has other columns than the first.
        ConfigError: As ``read_rows``.
    """
    rows: list[Row] = []
    for path in find_files(given, key):
        more = read_rows(path, format)
        _check_columns(rows, more, path)
        rows += more
    return rows


def iter_files(given: Files, format: TableFormat, key: str, chunk_rows: int = 10_000) -> Iterator[list[Row]]:
    """The rows of ``read_files`` in lists of at most ``chunk_rows``; see ``iter_rows``."""
    first: list[Row] = []
    for path in find_files(given, key):
        for chunk in iter_rows(path, format, chunk_rows):
            _check_columns(first, chunk, path)
            first = first or chunk[:1]
            yield chunk


def _check_columns(before: Sequence[Row], rows: Sequence[Row], path: Path) -> None:
    if not before or before[0].keys() == rows[0].keys():
        return
    first = before[0].file if isinstance(before[0], TableRow) else "the first file"
    lacks = [name for name in before[0] if name not in rows[0]]
    adds = [name for name in rows[0] if name not in before[0]]
    found = " and ".join([f"lacks {name!r}" for name in lacks[:1]] + [f"has {name!r}" for name in adds[:1]])
    raise DataError(f"{path} must have the columns of {first}, but {found}. Rename the columns")


def row_ids(rows: Sequence[Row], prefix: str) -> list[str]:
    """Ids for rows without any: their numbers behind ``prefix``; of several files, behind the name of the file.

    The name is that below the folder that all files share, so that it does not depend on where the folder is.
    """
    files = list(dict.fromkeys(row.file for row in rows if isinstance(row, TableRow)))
    if len(files) < 2:
        return [f"{prefix}-{i}" for i in range(1, len(rows) + 1)]
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])  # noqa: PTH100, PTH120
    names = {file: Path(os.path.relpath(file, shared)).as_posix() for file in files}
    return [f"{names[row.file]}-{row.number}" for row in rows if isinstance(row, TableRow)]


def shown(given: Files) -> Path:
    """``given`` in a message: the first of several."""
    if not isinstance(given, list):
        return given
    return given[0] if len(given) == 1 else Path(f"{given[0]} and {len(given) - 1} more")

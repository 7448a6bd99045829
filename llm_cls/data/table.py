"""The user's own texts: CSV, TSV, JSON lines or Parquet."""

import csv
import difflib
import glob
import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import Corpus, Text, digest_splits, texts_in_two_splits
from llm_cls.data.split import split_texts, stratified_split
from llm_cls.errors import DataError, first_line

Row = dict[str, Any]

_FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}


def load_table(config: DataConfig) -> Corpus:
    """The texts of one file, which is split, or of three files, which are taken as they are.

    Raises:
        DataError: A file can't be read, lacks a column, or has an empty or unknown label or an empty text.
    """
    if config.file is not None:
        texts = _read_texts(config, config.file, "row")
        splits = split_texts(texts, config, stratified_split, str(config.file))
    else:
        paths = {"train": config.train_file, "val": config.val_file, "test": config.test_file}
        splits = {name: _read_texts(config, path, name) for name, path in paths.items() if path is not None}
        _check_known_labels(config, splits)
    labels = tuple(sorted({text.label for text in splits["train"]}))
    if len(labels) < 2:
        raise DataError(
            f"{config.file or config.train_file}: data.label={config.label} must have two labels at least, "
            f"found {len(labels)}. Is it the right column?"
        )
    warnings = []
    if rare := [label for label, n in Counter(t.label for t in splits["train"]).items() if n == 1]:
        warnings.append(f"table: {len(rare)} of {len(labels)} labels have one training text only, {rare[0]!r} first")
    if shared := texts_in_two_splits(splits):
        warnings.append(f"table: {shared} texts occur in more than one split, which flatters the scores")
    return Corpus("table", labels, splits, digest_splits(splits), config.title is not None, tuple(warnings))


def _read_texts(config: DataConfig, path: Path, prefix: str) -> list[Text]:
    rows = read_rows(path, config.cache_dir)
    assert config.label is not None
    label_key, text_key = "data.label", "data.text" if config.text else "data.body"
    labels = column(rows, config.label, label_key, path)
    bodies = column(rows, config.text or config.body or "", text_key, path)
    titles = column(rows, config.title, "data.title", path, may_be_empty=True) if config.title else [""] * len(rows)
    ids = column(rows, config.id, "data.id", path) if config.id else [f"{prefix}-{i + 1}" for i in range(len(rows))]
    if len(set(ids)) < len(ids):
        twice = next(i for i, n in Counter(ids).items() if n > 1)
        raise DataError(
            f"{path}: data.id={config.id} must be unique, but {twice!r} occurs twice. Choose another column"
        )
    return [Text(*fields) for fields in zip(ids, labels, titles, bodies, strict=True)]


def _check_known_labels(config: DataConfig, splits: dict[str, list[Text]]) -> None:
    known = {text.label for text in splits["train"]}
    for split, path in (("val", config.val_file), ("test", config.test_file)):
        for i, text in enumerate(splits[split]):
            if text.label not in known:
                raise DataError(
                    f"{path}: row {i + 1} has the label {text.label!r}, which no training text has. "
                    f"Add texts of it to {config.train_file}, or remove the row"
                )


def read_rows(path: Path, cache_dir: Path) -> list[Row]:
    """The rows of a table in their order; what CSV and TSV hold is text, never a number or a missing value.

    Args:
        path: CSV, TSV, JSON lines or Parquet, told apart by the ending.
        cache_dir: Folder in which ``datasets`` makes its copy, for a moment.

    Raises:
        DataError: The file can't be read or is empty.
    """
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"{path}: must end with {', '.join(_FORMATS)}. Convert the file")
    try:
        if not path.is_file():
            raise DataError(f"{path}: there is no such file. Check the path")
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty. Give a file with rows")
        with path.open("rb"):
            pass
    except OSError as error:
        raise DataError(f"{path}: can't be read: {os.strerror(error.errno or 0)}") from None
    import datasets  # takes seconds to import, and only tables need it

    options: dict[str, Any] = {}
    if kind == "csv":
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        names = _header(path, separator)
        features = datasets.Features(dict.fromkeys(names, datasets.Value("string")))  # else "007" would be 7
        options = {"sep": separator, "names": names, "header": 0, "features": features}
        options |= {"keep_default_na": False, "encoding": "utf-8-sig"}
    reader = {
        "csv": datasets.Dataset.from_csv,
        "json": datasets.Dataset.from_json,
        "parquet": datasets.Dataset.from_parquet,
    }
    shown, verbosity = datasets.utils.logging.is_progress_bar_enabled(), datasets.utils.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)  # what it logs is said below, once
    cache_dir.mkdir(parents=True, exist_ok=True)
    try:
        # Its cache may be damaged, and takes a restored file for its predecessor: it is of one use here.
        with tempfile.TemporaryDirectory(dir=cache_dir, prefix="table-") as cache:
            table = reader[kind](glob.escape(str(path)), cache_dir=cache, **options)
            rows: list[Row] = table.to_list()
        if kind == "json":
            _restore_dates(path, [str(name) for name in table.column_names], rows)
    except OSError as error:
        if error.errno is not None:
            raise
        raise DataError(f"{path}: can't be read as {kind}: {_cause(error)}") from None
    except Exception as error:  # pandas, pyarrow and datasets raise many kinds for a broken file
        cause = _cause(error)
        if "corresponds to no data" in cause or "BatchSize must be greater" in cause:  # JSON lines; Parquet
            raise DataError(f"{path}: has no rows. Give a file with rows") from None
        raise DataError(f"{path}: can't be read as {kind}: {cause}") from None
    finally:
        datasets.utils.logging.set_verbosity(verbosity)
        if shown:
            datasets.enable_progress_bars()
    if not rows:
        raise DataError(f"{path}: has no rows. Give a file with rows")
    return rows


def _header(path: Path, separator: str) -> list[str]:
    """The column names of a CSV or TSV file; a column without one, as pandas writes its index, is given one."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(islice(filter(None, csv.reader(file, delimiter=separator)), 2))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: can't be read as csv: {_cause(error)}") from None
    if not lines:
        raise DataError(f"{path}: has no rows. Give a file with rows")
    names = [name or f"column {i + 1}" for i, name in enumerate(lines[0])]
    if len(set(names)) < len(names):
        twice = next(name for name, n in Counter(names).items() if n > 1)
        raise DataError(f"{path}: the column {twice!r} occurs twice. Rename one of them")
    if len(lines[-1]) > len(names):  # pandas would take the first column for an index and shift the others
        raise DataError(
            f"{path}: can't be read as csv: row 1 must have {len(names)} fields, as the first line has, "
            f"found {len(lines[-1])}. Quote fields that contain {separator!r}"
        )
    return names


def _restore_dates(path: Path, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Puts text back that the JSON reader took for dates, in ``rows``."""
    dates = [name for name in names if any(isinstance(row[name], date) for row in rows)]
    if not dates:
        return
    content = path.read_text(encoding="utf-8-sig")
    is_array = content.lstrip().startswith("[")
    originals = json.loads(content) if is_array else [json.loads(x) for x in content.split("\n") if x.strip()]
    for row, original in zip(rows, originals, strict=True):
        row.update({name: original.get(name) for name in dates})


def _cause(error: BaseException) -> str:
    """The first line of what went wrong at the bottom: ``datasets`` wraps it in an error that says nothing."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, UnicodeDecodeError):
        return (
            f"it must be UTF-8, found byte {error.object[error.start]:#04x} at position {error.start}. Save it as UTF-8"
        )
    return first_line(error)


def column(rows: Sequence[Row], name: str, key: str, path: Path, may_be_empty: bool = False) -> list[str]:
    """One column as text.

    Args:
        rows: Of ``read_rows``; at least one.
        name: Of the column.
        key: Configuration key that named it, for the message.
        path: Where the rows are from, for the message.
        may_be_empty: Whether cells may be empty.

    Raises:
        DataError: There is no such column, or a cell is empty or no single value.
    """
    if name not in rows[0]:
        near = difflib.get_close_matches(name, rows[0], n=1, cutoff=0.5)
        question = f"Did you mean {near[0]!r}? " if near else ""
        known = ", ".join(map(repr, islice(rows[0], 20)))
        raise DataError(f"{path}: has no column {name!r}. {question}It has {known}. Try {key}=COLUMN")
    values = []
    for i, row in enumerate(rows):
        value = row[name]
        if isinstance(value, dict | list | bytes):
            raise DataError(f"{path}: row {i + 1} of column {name!r} must be one value, found a {type(value).__name__}")
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            value = int(value)  # whole numbers beside missing ones are read as floats
        text = "" if value is None or value != value else str(value)  # NaN, too, is a missing value
        if not may_be_empty and not text.strip():
            raise DataError(f"{path}: row {i + 1} of column {name!r} is empty. Fill it in, or remove the row")
        values.append(text)
    return values

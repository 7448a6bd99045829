"""Rows with labels as a corpus: what every source of tables ends with."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from llm_cls.config.schema import DataConfig
from llm_cls.data.build import ALL, build_corpus
from llm_cls.data.columns import check_ids_differ, handle_empty, read_columns
from llm_cls.data.corpus import Corpus, Text
from llm_cls.data.labels import name_labels, named
from llm_cls.data.rows import Row, column
from llm_cls.data.split import ready_folds
from llm_cls.data.tables.files import row_ids
from llm_cls.data.tables.format import row_fault
from llm_cls.errors import DataError

_SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "validation": "val", "valid": "val", "dev": "val",
    "test": "test",
}  # fmt: skip


def corpus_of_rows(config: DataConfig, tables: Mapping[str, Sequence[Row]], paths: Mapping[str, Path]) -> Corpus:
    """The corpus of tables whose columns ``config`` names.

    Args:
        config: Says how they are read and split.
        tables: The rows of "" (not split) or "train" alone, or of "train" with "val", "test" or both.
        paths: Where they come from, for messages.

    Raises:
        DataError: A table lacks a column, has an empty or unknown label or an empty text, or cannot be split.
    """
    alone = len(tables) == 1
    warnings: list[str] = []
    given = {
        split: read_labelled(rows, config, paths[split], "row" if alone else split, warnings)
        for split, rows in tables.items()
    }
    sources = {split: str(path) for split, path in paths.items()}
    if alone:
        (split,) = tables
        rows, path = tables[split], paths[split]
        if config.split is not None:
            given = _by_split_column(given[split], rows, config.split, path)
        elif config.fold_column is not None:
            given = _by_fold_column(given[split], rows, config.fold_column, config.fold, path)
        sources = dict.fromkeys((ALL, "train", "val", "test"), str(path))
    return build_corpus(config, given, sources, warnings)


def read_labelled(rows: Sequence[Row], config: DataConfig, path: Path, prefix: str, warnings: list[str]) -> list[Text]:
    """The rows as texts with labels and groups; without a column of ids, they are numbered after ``prefix``.

    Raises:
        DataError: As ``corpus_of_rows``.
    """
    assert config.label is not None
    labels = name_labels(column(rows, config.label, "data.label", path), config, path)
    texts = read_columns(rows, config, path)
    if config.id:
        check_ids_differ(texts, rows, config.id, path)
    ids = [text.id for text in texts] if config.id else row_ids(rows, prefix)
    groups = column(rows, config.group, "data.group", path, may_be_empty=True) if config.group else [""] * len(rows)
    texts = [
        Text(id, label, text.title, text.body, text.columns, group, text.row)
        for text, id, label, group in zip(texts, ids, labels, groups, strict=True)
    ]
    kept = handle_empty(texts, rows, config, path)
    if skipped := len(texts) - len(kept):
        warnings.append(f"{skipped} of {len(texts)} rows of {path} have no text and are left out (data.on_empty=skip)")
    return kept


def _by_split_column(texts: Sequence[Text], rows: Sequence[Row], name: str, path: Path) -> dict[str, list[Text]]:
    """The texts by the split that a column names."""
    values = column(rows, name, "data.split", path)
    known = [_SPLIT_NAMES.get(value.strip().lower()) for value in values]
    if None in known:
        unknown = [value for value, split in zip(values, known, strict=True) if split is None]
        i = known.index(None)
        fault = f"of column {name!r} must be train, val (or validation, dev) or test, found "
        fault += named(dict.fromkeys(unknown))
        raise DataError(row_fault(rows[i], i + 1, path, fault, "Correct the column, or name another as data.split"))
    found: defaultdict[str, list[Text]] = defaultdict(list)
    for text in texts:
        found[str(known[text.row - 1])].append(text)
    if "train" not in found:
        raise DataError(f"{path}: column {name!r} has no train rows, found {named(sorted(found))}. Name another column")
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _by_fold_column(
    texts: Sequence[Text], rows: Sequence[Row], name: str, fold: int, path: Path
) -> dict[str, list[Text]]:
    """The texts by the folds that a column names."""
    values = column(rows, name, "data.fold_column", path)
    for i, value in enumerate(values):
        if not value.strip().isdecimal():
            fault = f"of column {name!r} must be the number of a fold, found {named([value])}"
            raise DataError(row_fault(rows[i], i + 1, path, fault, "Correct it, or try data.split=COLUMN"))
    folds: defaultdict[int, list[Text]] = defaultdict(list)
    for text in texts:
        folds[int(values[text.row - 1])].append(text)
    return ready_folds(folds, fold, name, str(path))

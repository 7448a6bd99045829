"""Tables of the user's own texts: CSV, TSV, JSON lines or Parquet."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from llm_cls.config.schema import DataConfig
from llm_cls.data.columns import check_ids_differ, check_not_empty, read_columns
from llm_cls.data.corpus import Corpus, Text, digest_splits, texts_in_two_splits
from llm_cls.data.rows import column, read_rows
from llm_cls.data.split import split_texts, stratified_split
from llm_cls.errors import DataError


def load_table(config: DataConfig) -> Corpus:
    """The texts of one file, which is split, or of three files, which are used as they are.

    Raises:
        DataError: A file could not be read, lacks a column, or has an empty or unknown label or an empty text.
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
            f"{config.file or config.train_file}: data.label={config.label} must have at least two labels, "
            f"found {len(labels)}. Check that it is the right column"
        )
    warnings = []
    if rare := [label for label, n in Counter(t.label for t in splits["train"]).items() if n == 1]:
        warnings.append(
            f"table: {len(rare)} of {len(labels)} labels have only one training text, for example {rare[0]!r}"
        )
    if shared := texts_in_two_splits(splits):
        warnings.append(f"table: {shared} texts occur in more than one split, so the scores are too high")
    return Corpus("table", labels, splits, digest_splits(splits), config.title is not None, tuple(warnings))


def _read_texts(config: DataConfig, path: Path, prefix: str) -> list[Text]:
    rows = read_rows(path)
    assert config.label is not None
    labels = column(rows, config.label, "data.label", path)
    texts = read_columns(rows, config, path)
    if config.id:
        check_ids_differ(texts, config.id, path)
    else:
        texts = [replace(text, id=f"{prefix}-{text.row}") for text in texts]
    texts = [replace(text, label=label) for text, label in zip(texts, labels, strict=True)]
    check_not_empty(texts, config, path)
    return texts


def _check_known_labels(config: DataConfig, splits: dict[str, list[Text]]) -> None:
    known = {text.label for text in splits["train"]}
    for split, path in (("val", config.val_file), ("test", config.test_file)):
        for i, text in enumerate(splits[split]):
            if text.label not in known:
                raise DataError(
                    f"{path}: row {i + 1} has the label {text.label!r}, which no training text has. "
                    f"Add texts of it to {config.train_file}, or remove the row"
                )

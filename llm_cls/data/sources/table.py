"""Tables of the user's own texts: CSV, TSV, JSON lines or Parquet."""

from collections import Counter
from pathlib import Path

from llm_cls.config.schema import DataConfig
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

"""Tables of the user's own texts, in files or on the hub."""

from collections import Counter
from collections.abc import Mapping

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import Corpus, Text, digest_splits, texts_in_two_splits
from llm_cls.data.rows import Row, TableFormat, column
from llm_cls.data.split import split_texts, stratified_split
from llm_cls.data.tables.files import read_files, row_ids, shown
from llm_cls.data.tables.format import file_of, row_fault
from llm_cls.errors import DataError


def load_table(config: DataConfig) -> Corpus:
    """The texts of one table, which is split, or of three, which are used as they are.

    Raises:
        DataError: A file could not be read, lacks a column, or has an empty or unknown label or an empty text.
        ConfigError: A package or the name of a sheet is missing.
    """
    given = {"": config.file, "train": config.train_file, "val": config.val_file, "test": config.test_file}
    format = TableFormat.of(config)
    tables = {
        name: read_files(files, format, f"data.{name}_file" if name else "data.file")
        for name, files in given.items()
        if files is not None
    }
    return corpus_of_rows(config, tables, shown(config.file or config.train_file or []))


def corpus_of_rows(config: DataConfig, tables: Mapping[str, list[Row]], source: str) -> Corpus:
    """The corpus of rows that were read.

    Args:
        config: Names the columns and the split.
        tables: The rows of each given split by its name, or those to be split by "".
        source: Name of the table in messages.

    Raises:
        DataError: As ``load_table``.
    """
    texts = {name: _texts(config, rows, name or "row") for name, rows in tables.items()}
    if "" in texts:
        splits = split_texts(texts[""], config, stratified_split, source)
    else:
        splits = texts
        _check_known_labels(splits, tables)
    labels = tuple(sorted({text.label for text in splits["train"]}))
    if len(labels) < 2:
        raise DataError(
            f"{source}: data.label={config.label} must have at least two labels, "
            f"found {len(labels)}. Check that it is the right column"
        )
    warnings = []
    if rare := [label for label, n in Counter(t.label for t in splits["train"]).items() if n == 1]:
        warnings.append(
            f"{config.name}: {len(rare)} of {len(labels)} labels have only one training text, for example {rare[0]!r}"
        )
    if shared := texts_in_two_splits(splits):
        warnings.append(f"{config.name}: {shared} texts occur in more than one split, so the scores are too high")
    return Corpus(config.name, labels, splits, digest_splits(splits), config.title is not None, tuple(warnings))


def _texts(config: DataConfig, rows: list[Row], prefix: str) -> list[Text]:
    path = file_of(rows)
    assert config.label is not None
    label_key, text_key = "data.label", "data.text" if config.text else "data.body"
    labels = column(rows, config.label, label_key, path)
    bodies = column(rows, config.text or config.body or "", text_key, path)
    titles = column(rows, config.title, "data.title", path, may_be_empty=True) if config.title else [""] * len(rows)
    ids = column(rows, config.id, "data.id", path) if config.id else row_ids(rows, prefix)
    if len(set(ids)) < len(ids):
        twice = next(i for i, n in Counter(ids).items() if n > 1)
        raise DataError(
            f"{path}: data.id={config.id} must be unique, but {twice!r} occurs twice. Choose another column"
        )
    return [Text(*fields) for fields in zip(ids, labels, titles, bodies, strict=True)]


def _check_known_labels(splits: Mapping[str, list[Text]], tables: Mapping[str, list[Row]]) -> None:
    known = {text.label for text in splits["train"]}
    for split in ("val", "test"):
        for i, (text, row) in enumerate(zip(splits[split], tables[split], strict=True), 1):
            if text.label not in known:
                fault = f"has the label {text.label!r}, which no training text has"
                fix = f"Add texts of it to {file_of(tables['train'])}, or remove the row"
                raise DataError(row_fault(row, i, file_of(tables[split]), fault, fix))

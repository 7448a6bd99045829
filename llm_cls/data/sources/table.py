"""Tables of the user's own texts, in files."""

from llm_cls.config.schema import DataConfig
from llm_cls.data.build import ALL
from llm_cls.data.corpus import Corpus
from llm_cls.data.labelled import corpus_of_rows
from llm_cls.data.rows import TableFormat
from llm_cls.data.tables.files import read_files, shown


def load_table(config: DataConfig) -> Corpus:
    """The texts of one table, which is split, or of several, which are used as they are.

    Raises:
        DataError: A file could not be read, lacks a column, or has an empty or unknown label or an empty text.
        ConfigError: A package or the name of a sheet is missing.
    """
    given = {ALL: config.file, "train": config.train_file, "val": config.val_file, "test": config.test_file}
    files = {split: path for split, path in given.items() if path is not None}
    format = TableFormat.of(config)
    keys = {split: f"data.{split}_file" if split else "data.file" for split in files}
    tables = {split: read_files(path, format, keys[split]) for split, path in files.items()}
    return corpus_of_rows(config, tables, {split: shown(path) for split, path in files.items()})

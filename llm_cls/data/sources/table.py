"""Tables of the user's own texts: CSV, TSV, JSON lines or Parquet."""

from llm_cls.config.schema import DataConfig
from llm_cls.data.build import ALL
from llm_cls.data.corpus import Corpus
from llm_cls.data.labelled import corpus_of_rows
from llm_cls.data.rows import read_rows


def load_table(config: DataConfig) -> Corpus:
    """The texts of one file, which is split, or of several files, which are used as they are.

    Raises:
        DataError: A file could not be read, lacks a column, or has an empty or unknown label or an empty text.
    """
    given = {ALL: config.file, "train": config.train_file, "val": config.val_file, "test": config.test_file}
    paths = {split: path for split, path in given.items() if path is not None}
    return corpus_of_rows(config, {split: read_rows(path) for split, path in paths.items()}, paths)

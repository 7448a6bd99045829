"""The corpus that a configuration names."""

from dataclasses import replace

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import Corpus
from llm_cls.data.livedoor import load_livedoor
from llm_cls.data.sample import load_sample
from llm_cls.data.table import load_table
from llm_cls.errors import ConfigError, DataError

_READERS = {"livedoor": load_livedoor, "sample": load_sample, "table": load_table}


def load_corpus(config: DataConfig) -> Corpus:
    """``read_corpus`` and ``check_corpus``."""
    corpus = read_corpus(config)
    check_corpus(corpus, config)
    return corpus


def read_corpus(config: DataConfig) -> Corpus:
    """Reads and splits the corpus.

    Raises:
        DataError: Texts, labels or their files are not as they must be.
    """
    corpus = _READERS[config.name](config)
    if config.limit is not None:
        corpus = replace(corpus, splits={name: texts[: config.limit] for name, texts in corpus.splits.items()})
    for name, texts in corpus.splits.items():
        if not texts:
            n = sum(map(len, corpus.splits.values()))
            raise DataError(
                f"{corpus.name}: the {name} split has no texts: expected 10 texts at least, found {n}. Give more texts"
            )
    return corpus


def check_corpus(corpus: Corpus, config: DataConfig) -> None:
    """Checks that steps of the wanted size can be made.

    Raises:
        ConfigError: There are fewer training texts than a batch has.
    """
    n_train = len(corpus.splits["train"])
    if n_train < config.batch_size:
        raise ConfigError(
            f"data.batch_size must be <= the number of training texts ({n_train}), got {config.batch_size}. "
            f"Try data.batch_size={2 ** (n_train.bit_length() - 1)}"
        )

"""The corpus that a configuration names."""

from dataclasses import replace

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import Corpus
from llm_cls.data.sources import find_source
from llm_cls.errors import ConfigError, DataError


def load_corpus(config: DataConfig) -> Corpus:
    """``read_corpus``, followed by ``check_corpus``."""
    corpus = read_corpus(config)
    check_corpus(corpus, config)
    return corpus


def read_corpus(config: DataConfig) -> Corpus:
    """Reads and splits the corpus.

    Raises:
        ConfigError: There is no corpus of this name.
        DataError: The texts, the labels or their files are not valid, or a split has no texts.
    """
    corpus = find_source(config.name)(config)
    if config.limit is not None:
        corpus = replace(corpus, splits={name: texts[: config.limit] for name, texts in corpus.splits.items()})
    for name, texts in corpus.splits.items():
        if not texts:
            n = sum(map(len, corpus.splits.values()))
            raise DataError(
                f"{corpus.name}: the {name} split has no texts: expected at least 10 texts, found {n}. Add texts"
            )
    return corpus


def check_corpus(corpus: Corpus, config: DataConfig) -> None:
    """Checks that a step of ``data.batch_size`` texts is possible.

    Raises:
        ConfigError: There are fewer training texts than a batch has.
    """
    n_train = len(corpus.splits["train"])
    if n_train < config.batch_size:
        raise ConfigError(
            f"data.batch_size must be <= the number of training texts ({n_train}), got {config.batch_size}. "
            f"Try data.batch_size={2 ** (n_train.bit_length() - 1)}"
        )

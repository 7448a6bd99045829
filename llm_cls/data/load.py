"""The corpus that a configuration names."""

from collections import Counter
from dataclasses import replace

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import Corpus, digest_splits
from llm_cls.data.sample import sample_texts
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
    _check_contract(corpus)
    if config.limit is not None:
        corpus = _limited(corpus, config.limit, config.split_seed)
    for name, texts in corpus.splits.items():
        if not texts and (name != "test" or corpus.has_test):
            n = sum(map(len, corpus.splits.values()))
            raise DataError(
                f"{corpus.name}: the {name} split has no texts: expected at least 10 texts, found {n}. Add texts"
            )
    return corpus


def _limited(corpus: Corpus, limit: int, seed: int) -> Corpus:
    """A sample of every split; its digest is that of the texts in it, because only they are used."""
    splits = {name: sample_texts(texts, limit, seed) for name, texts in corpus.splits.items()}
    if all(len(splits[name]) == len(texts) for name, texts in corpus.splits.items()):
        return corpus
    return replace(corpus, splits=splits, digest=digest_splits(splits))


def _check_contract(corpus: Corpus) -> None:
    """Checks what every source must guarantee, so that a fault of a new one is found before training."""
    labels = set(corpus.labels)
    for split, texts in corpus.splits.items():
        ids = Counter(text.id for text in texts)
        if repeated := next((text_id for text_id, n in ids.items() if n > 1), None):
            raise DataError(f"{corpus.name}: ids must be unique, but {repeated!r} occurs twice in {split}. Rename one")
        if unknown := next((text.label for text in texts if text.label not in labels), None):
            raise DataError(
                f"{corpus.name}: the label {unknown!r} in {split} is not one of the labels of the corpus. Remove its "
                "texts, or add some to train"
            )
    if any(corpus.splits.values()) and len(labels) < 2:
        raise DataError(
            f"{corpus.name}: expected at least two labels, found {len(labels)}. Add texts with another label"
        )


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

"""A corpus: labelled texts in three splits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_cls.files import sha256_json

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Text:
    """One text to classify. ``title`` is empty where the corpus has no titles."""

    id: str
    label: str
    title: str
    body: str


@dataclass(frozen=True)
class Corpus:
    """A corpus, read, checked and split.

    Attributes:
        name: Name in the record of the run.
        labels: All labels, sorted; a class index is a position here.
        splits: The texts of "train", "val" and "test", each in a fixed order.
        digest: Hex sha256 that changes with any text, label or id of the corpus.
        has_titles: Whether the texts have titles that a template can use.
        warnings: Findings that do not prevent training, for the log.
    """

    name: str
    labels: tuple[str, ...]
    splits: Mapping[str, Sequence[Text]]
    digest: str
    has_titles: bool
    warnings: tuple[str, ...] = ()


def digest_splits(splits: Mapping[str, Sequence[Text]]) -> str:
    """Hex sha256 over the texts of every split in their order."""
    return sha256_json({n: [[t.id, t.label, t.title, t.body] for t in texts] for n, texts in splits.items()})


def texts_in_two_splits(splits: Mapping[str, Sequence[Text]]) -> int:
    """Number of distinct (title, body) pairs that occur in more than one split, which leaks labels."""
    occurrences = Counter(pair for texts in splits.values() for pair in {(t.title, t.body) for t in texts})
    return sum(1 for count in occurrences.values() if count > 1)

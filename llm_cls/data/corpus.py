"""A corpus: labelled texts in three splits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_cls.files import sha256_json

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Text:
    """One text to classify.

    Attributes:
        id: Unique within a split.
        label: The label; empty where it is unknown.
        title: Empty where the corpus has no titles.
        body: Empty where a template uses other columns only.
        columns: Names and values of the columns besides title and body that a template may use.
        group: Texts of one group stay together in a split; empty where there are no groups.
        row: Number of its row in its file, from 1; 0 where there are no rows.
    """

    id: str
    label: str
    title: str
    body: str
    columns: tuple[tuple[str, str], ...] = ()
    group: str = ""
    row: int = 0

    @property
    def values(self) -> dict[str, str]:
        """Title, body and columns, by the names that a template has for them."""
        return {"title": self.title, "body": self.body, **dict(self.columns)}

    @property
    def group_key(self) -> tuple[str, str]:
        """Equal for texts of one group; a text without a group is a group by itself."""
        return self.group, "" if self.group.strip() else self.id

    @property
    def content(self) -> tuple[str, ...]:
        """Everything that a template can show of the text."""
        return (self.title, self.body, *(value for _, value in self.columns))


@dataclass(frozen=True)
class Corpus:
    """A corpus, read, checked and split.

    Attributes:
        name: Name in the record of the run.
        labels: All labels, sorted or in the order that the user gave; a class index is a position here.
        splits: The texts of "train", "val" and "test", each in a fixed order; test is empty if not ``has_test``.
        digest: Hex sha256 that changes with any text, label or id of the corpus.
        has_titles: Whether the texts have titles that a template can use.
        warnings: Findings that do not prevent training, for the log.
        columns: The other columns that a template can use.
        own_columns: Names of the columns of the user's own texts that are "title" and "body", by these two; None where
            the texts of the corpus may not be copied.
        has_test: Whether there is a test split.
    """

    name: str
    labels: tuple[str, ...]
    splits: Mapping[str, Sequence[Text]]
    digest: str
    has_titles: bool
    warnings: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    own_columns: Mapping[str, str] | None = None
    has_test: bool = True


def digest_splits(splits: Mapping[str, Sequence[Text]]) -> str:
    """Hex sha256 over the texts of every split in their order."""
    return sha256_json({name: [_digested(text) for text in texts] for name, texts in splits.items()})


def _digested(text: Text) -> list[Any]:
    """What counts of a text; that of earlier versions where it has a title and a body only."""
    own = [[list(column) for column in text.columns]] if text.columns else []
    return [text.id, text.label, text.title, text.body, *own]


def texts_in_two_splits(splits: Mapping[str, Sequence[Text]]) -> int:
    """Number of distinct texts that occur in more than one split, which leaks labels."""
    occurrences = Counter(content for texts in splits.values() for content in {text.content for text in texts})
    return sum(1 for count in occurrences.values() if count > 1)

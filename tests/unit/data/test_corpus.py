"""Digests of splits, and texts that occur in several of them."""

import pytest

from llm_cls.data.corpus import Text, digest_splits, texts_in_two_splits

TEXT = Text("1", "a", "title", "body")


@pytest.mark.parametrize(
    "other", [Text("2", "a", "title", "body"), Text("1", "b", "title", "body"), Text("1", "a", "", "titlebody")]
)
def test_digest_depends_on_every_field(other: Text) -> None:
    assert digest_splits({"train": [TEXT]}) != digest_splits({"train": [other]})


def test_digest_depends_on_the_split_and_the_order() -> None:
    other = Text("2", "b", "", "x")
    digests = {
        digest_splits({"train": [TEXT, other], "val": []}),
        digest_splits({"train": [other, TEXT], "val": []}),
        digest_splits({"train": [TEXT], "val": [other]}),
    }
    assert len(digests) == 3


def test_texts_in_two_splits_are_counted_once_each() -> None:
    again = Text("9", "b", "title", "body")
    alone = Text("3", "a", "title", "other body")
    assert texts_in_two_splits({"train": [TEXT, again, alone], "val": [again], "test": [TEXT]}) == 1
    assert texts_in_two_splits({"train": [TEXT, again], "val": [alone]}) == 0

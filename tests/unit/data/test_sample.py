"""The sample of ``data.limit``: its size, the share of each label, and what it depends on."""

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from llm_cls.data.corpus import Text
from llm_cls.data.sample import label_shares, sample_texts

COUNTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 12), min_size=1)


def texts(counts: dict[str, int]) -> list[Text]:
    """Sorted by label, as many published files are."""
    return [Text(f"{label}-{i}", label, "", "") for label, n in sorted(counts.items()) for i in range(n)]


@settings(max_examples=150, deadline=None)
@given(counts=COUNTS, n=st.integers(1, 60), seed=st.integers(0, 5))
def test_every_label_has_its_share(counts: dict[str, int], n: int, seed: int) -> None:
    given_texts, total = texts(counts), sum(counts.values())
    found = sample_texts(given_texts, n, seed)
    assert len(found) == min(n, total)
    assert list(found) == [text for text in given_texts if text in set(found)], "a subset in the same order"
    shares = Counter(text.label for text in found)
    if n >= len(counts):
        assert shares.keys() == counts.keys()
    bumped = len(counts) if n >= len(counts) else 0  # labels that got a text from others
    for label, count in counts.items():
        exact = min(n, total) * count / total
        assert shares[label] <= count and exact - 1 - bumped < shares[label] < exact + 1 + 1e-9
    shuffled = random.Random(seed).sample(given_texts, total)
    assert set(sample_texts(shuffled, n, seed)) == set(found), "the order of the rows does not matter"


def test_a_file_sorted_by_label_keeps_its_labels() -> None:
    """As banking77 and CLINC150 are published."""
    counts = {f"intent {i:02d}": 130 for i in range(77)}
    assert set(Counter(text.label for text in sample_texts(texts(counts), 320, 42)).values()) == {4, 5}
    few = sample_texts(texts(counts), 10, 42)
    assert len({text.label for text in few}) == 10, "with fewer texts than labels, no label has two"


def test_equal_remainders_are_drawn_by_lot() -> None:
    drawn = {tuple(label_shares({"a": 5, "b": 5}, 3, random.Random(seed)).values()) for seed in range(20)}
    assert drawn == {(1, 2), (2, 1)}

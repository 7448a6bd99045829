"""Splits by groups: groups are never split, shares are met, and only ids, groups and the seed matter."""

import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llm_cls.data.corpus import Text
from llm_cls.data.groups import split_groups
from llm_cls.errors import DataError

WEIGHTS = (0.8, 0.1, 0.1)


def texts(groups: list[list[int]]) -> list[Text]:
    """A text for each label in each group; the group 0 stands for none."""
    return [
        Text(f"{g}-{i}", "abc"[label], "", "", group=f"g{g}" if g else "")
        for g, labels in enumerate(groups)
        for i, label in enumerate(labels)
    ]


@settings(max_examples=80, deadline=None)
@given(
    groups=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=6, max_size=25),
    weights=st.sampled_from([WEIGHTS, (0.2,) * 5, (0.9, 0.1)]),
    seed=st.integers(0, 3),
)
def test_a_partition_by_groups(groups: list[list[int]], weights: tuple[float, ...], seed: int) -> None:
    given_texts = texts(groups)
    parts = split_groups(given_texts, weights, seed, "t.csv", "author")
    assert Counter(text.id for part in parts for text in part) == Counter(text.id for text in given_texts)
    assert len(parts) == len(weights) and all(parts)
    where: defaultdict[str, set[int]] = defaultdict(set)
    for i, part in enumerate(parts):
        for text in part:
            where[text.group or text.id].add(i)
    assert all(len(found) == 1 for found in where.values()), "no group is split"
    shuffled = random.Random(seed).sample(given_texts, len(given_texts))
    assert split_groups(shuffled, weights, seed, "t.csv", "author") == parts


def test_shares_are_about_as_good_as_those_of_scikit_learn() -> None:
    from sklearn.model_selection import StratifiedGroupKFold

    draw = random.Random(0)
    groups = [[draw.choice([0, 0, 0, 1, 1, 2]) for _ in range(draw.randint(1, 12))] for _ in range(120)]
    given_texts = texts([[0], *groups])
    labels, names = np.array([t.label for t in given_texts]), [t.group for t in given_texts]
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    theirs = [labels[test].tolist() for _, test in splitter.split(np.zeros(len(labels)), labels, names)]
    ours = [[text.label for text in part] for part in split_groups(given_texts, (0.2,) * 5, 0, "t.csv", "author")]

    def worst(parts: list[list[str]]) -> float:
        counts = Counter(labels.tolist())
        return max(abs(part.count(label) / n - 0.2) for part in parts for label, n in counts.items())

    assert worst(ours) <= max(worst(theirs), 0.02)
    train, val, test = split_groups(given_texts, WEIGHTS, 0, "t.csv", "author")
    for part, share in ((train, 0.8), (val, 0.1), (test, 0.1)):
        for label, n in Counter(labels.tolist()).items():
            assert abs(sum(text.label == label for text in part) / n - share) < 0.02


@settings(max_examples=80, deadline=None)
@given(
    groups=st.lists(st.integers(0, 4), min_size=10, max_size=30),
    sizes=st.lists(st.integers(1, 9), min_size=30, max_size=30),
    weights=st.sampled_from([WEIGHTS, (0.9, 0.1)]),
)
def test_labels_with_enough_groups_are_in_every_part(
    groups: list[int], sizes: list[int], weights: tuple[float, ...]
) -> None:
    """Where a group has a single label; otherwise a part may lack a label, but never the first one."""
    often = {label for label, n in Counter(groups).items() if n >= len(weights)}
    assume(often)  # without any there are no texts, which test_too_few_groups refuses
    kept = [[label] * n for label, n in zip(groups, sizes, strict=False) if label in often]
    given_texts = [
        Text(f"{g}-{i}", str(label), "", "", group=f"g{g}") for g, own in enumerate(kept) for i, label in enumerate(own)
    ]
    parts = split_groups(given_texts, weights, 0, "t.csv", "author")
    assert all({text.label for text in part} == {str(label) for label in often} for part in parts)


def test_the_seed_decides() -> None:
    given_texts = texts([[i % 2] * 2 for i in range(40)])
    assert split_groups(given_texts, WEIGHTS, 1, "t.csv", "a") != split_groups(given_texts, WEIGHTS, 2, "t.csv", "a")


def test_too_few_groups() -> None:
    with pytest.raises(DataError, match=r"t\.csv: data\.group=author must have at least 3 groups, .* found 2\. Choose"):
        split_groups(texts([[], [0] * 9, [1] * 9]), WEIGHTS, 0, "t.csv", "author")

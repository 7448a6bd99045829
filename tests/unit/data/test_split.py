"""The three splits: sizes, small labels, the order of the texts, and the seed."""

import random
from collections import Counter

import pytest

from llm_cls.data.corpus import SPLITS, Text
from llm_cls.data.split import fold_split, portions, reference_split, stratified_split
from llm_cls.errors import DataError


def texts(label: str, n: int) -> list[Text]:
    return [Text(f"{label}-{i}", label, "", "") for i in range(n)]


def alternating(n: int) -> list[Text]:
    """Texts of the labels "a" and "b" in turns."""
    return [Text(f"t{i:04d}", "ab"[i % 2], "", f"text {i}") for i in range(n)]


@pytest.mark.parametrize("n", [10, 11, 17, 19, 25, 101, 7367])
def test_reference_split(n: int) -> None:
    given = alternating(n)
    splits = reference_split(given, 42)
    sizes = [n // 10 + (i < n % 10) for i in range(10)]
    assert [len(splits[s]) for s in SPLITS] == [sum(sizes[:8]), sizes[8], sizes[9]]
    assert Counter(t.id for split in splits.values() for t in split) == Counter(t.id for t in given)
    shuffled = random.Random(1).sample(given, n)
    assert reference_split(shuffled, 42) == splits, "the order of the texts does not matter"
    oracle = sorted(given, key=lambda t: t.id)
    random.Random(42).shuffle(oracle)
    assert [t for s in SPLITS for t in splits[s]] == oracle
    assert reference_split(given, 7) != splits


@pytest.mark.parametrize("n", [6, 7, 20, 61, 200])
def test_stratified_split_is_a_partition(n: int) -> None:
    given = alternating(n)
    splits = stratified_split(given, 42, "t.csv")
    assert Counter(t.id for split in splits.values() for t in split) == Counter(t.id for t in given)
    assert all({t.label for t in split} == {"a", "b"} for split in splits.values())
    if n >= 20:
        for label in "ab":
            m = sum(t.label == label for t in given)
            assert sum(t.label == label for t in splits["train"]) == portions(m)[0]


@pytest.mark.parametrize(
    ("n", "sizes"),
    [
        (3, (1, 1, 1)),
        (4, (2, 1, 1)),
        (8, (6, 1, 1)),
        (9, (7, 1, 1)),
        (10, (8, 1, 1)),
        (11, (9, 1, 1)),
        (18, (16, 1, 1)),
        (19, (16, 2, 1)),
        (20, (16, 2, 2)),
        (25, (21, 2, 2)),
    ],
)
def test_every_label_is_in_every_split(n: int, sizes: tuple[int, int, int]) -> None:
    splits = stratified_split(texts("small", n) + texts("large", 50), 42, "t.csv")
    assert tuple(sum(t.label == "small" for t in splits[s]) for s in SPLITS) == sizes
    assert tuple(sum(t.label == "large" for t in splits[s]) for s in SPLITS) == (40, 5, 5)


def test_stratified_split_depends_only_on_ids_and_seed() -> None:
    given = texts("a", 30) + texts("b", 12)
    splits = stratified_split(given, 42, "t.csv")
    assert stratified_split(random.Random(1).sample(given, len(given)), 42, "t.csv") == splits
    assert stratified_split(given, 43, "t.csv") != splits
    labels = [t.label for t in splits["train"]]
    assert labels != sorted(labels), "the labels are mixed"


@pytest.mark.parametrize(("n", "found"), [(1, "1 text,"), (2, "2 texts,")])
def test_label_with_too_few_texts(n: int, found: str) -> None:
    with pytest.raises(DataError) as caught:
        stratified_split(texts("x\n", n) + texts("y", 9), 42, "t.csv")
    message = str(caught.value)
    assert message.startswith(f"t.csv: label 'x\\n' has {found} but each label needs at least 3")
    assert "\n" not in message


def test_reference_split_of_few_texts_leaves_the_last_portions_empty() -> None:
    assert [len(reference_split(texts("a", 8), 42)[s]) for s in SPLITS] == [8, 0, 0]


@pytest.mark.parametrize(("folds", "counts"), [(3, (3, 3)), (5, (17, 40)), (10, (10, 101))])
def test_folds_cover_the_texts_and_share_none(folds: int, counts: tuple[int, int]) -> None:
    given = texts("a", counts[0]) + texts("b", counts[1])
    splits = [fold_split(given, folds, fold, 42, "t.csv") for fold in range(folds)]
    for name in ("val", "test"):
        ids = [t.id for split in splits for t in split[name]]
        assert sorted(ids) == sorted(t.id for t in given), f"every text is in {name} once"
        assert max(len(s[name]) for s in splits) - min(len(s[name]) for s in splits) <= 1
        for label, n in zip("ab", counts, strict=True):
            per_fold = [sum(t.label == label for t in split[name]) for split in splits]
            assert max(per_fold) - min(per_fold) <= 1 and sum(per_fold) == n
    for split in splits:
        assert sorted(t.id for s in SPLITS for t in split[s]) == sorted(t.id for t in given)
    assert {t.id for t in splits[1]["test"]} == {t.id for t in splits[0]["val"]}


def test_folds_depend_only_on_ids_and_seed() -> None:
    given = texts("a", 30) + texts("b", 12)
    assert fold_split(given[::-1], 5, 2, 42, "t.csv") == fold_split(given, 5, 2, 42, "t.csv")
    assert fold_split(given, 5, 2, 7, "t.csv") != fold_split(given, 5, 2, 42, "t.csv")


def test_label_with_fewer_texts_than_folds() -> None:
    with pytest.raises(DataError, match=r"t\.csv: label 'a' has 4 texts, but data\.folds=5 needs 5"):
        fold_split(texts("a", 4) + texts("b", 30), 5, 0, 42, "t.csv")

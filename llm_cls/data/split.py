"""Splits into train, val and test: eight, one and one of ten portions."""

import random
from collections import defaultdict
from collections.abc import Sequence

from llm_cls.data.corpus import Text
from llm_cls.errors import DataError


def portions(n_texts: int) -> tuple[int, int]:
    """Where val and test begin among n texts: ten portions, of which the first ``n % 10`` get one more.

    >>> portions(7367)
    (5895, 6631)
    """
    sizes = [n_texts // 10 + (i < n_texts % 10) for i in range(10)]
    return sum(sizes[:8]), sum(sizes[:9])


def reference_split(texts: Sequence[Text], seed: int) -> dict[str, list[Text]]:
    """The published split: sorted by id, shuffled, cut.

    It doesn't depend on the order in which a file system or an archive lists its files.
    """
    ordered = sorted(texts, key=lambda text: text.id)
    random.Random(seed).shuffle(ordered)
    val, test = portions(len(ordered))
    return {"train": ordered[:val], "val": ordered[val:test], "test": ordered[test:]}


def stratified_split(texts: Sequence[Text], seed: int, source: str) -> dict[str, list[Text]]:
    """The same rule within every label, so that each split has texts of each label.

    Raises:
        DataError: A label has fewer than three texts; ``source`` names where they come from.
    """
    by_label: defaultdict[str, list[Text]] = defaultdict(list)
    for text in sorted(texts, key=lambda text: text.id):
        by_label[text.label].append(text)
    shuffle = random.Random(seed)
    splits: dict[str, list[Text]] = {"train": [], "val": [], "test": []}
    for label, group in sorted(by_label.items()):
        if len(group) < 3:
            raise DataError(
                f"{source}: label {label!r} has {len(group)} text{'s' * (len(group) > 1)}, but each label needs at "
                "least 3, one for each of train, val and test. Add texts, or merge the label with another"
            )
        shuffle.shuffle(group)
        val, test = portions(len(group))
        test = min(test, len(group) - 1)
        val = min(val, test - 1)
        splits["train"] += group[:val]
        splits["val"] += group[val:test]
        splits["test"] += group[test:]
    for split in splits.values():
        shuffle.shuffle(split)
    return splits

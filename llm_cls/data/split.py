"""Splits into train, val and test: eight, one and one of ten portions, or the folds of a cross-validation."""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import Text
from llm_cls.errors import DataError


def portions(n_texts: int) -> tuple[int, int]:
    """The positions where val and test begin: ten portions, of which the first ``n_texts % 10`` get one more.

    >>> portions(7367)
    (5895, 6631)
    """
    sizes = [n_texts // 10 + (i < n_texts % 10) for i in range(10)]
    return sum(sizes[:8]), sum(sizes[:9])


Split = dict[str, list[Text]]


def split_texts(
    texts: Sequence[Text], config: DataConfig, rule: Callable[[Sequence[Text], int, str], Split], source: str
) -> Split:
    """A fold of a cross-validation if ``data.folds`` is set, otherwise the split by ``rule``.

    Raises:
        DataError: A label has too few texts. The message names ``source``.
    """
    if config.folds is None:
        return rule(texts, config.split_seed, source)
    return fold_split(texts, config.folds, config.fold, config.split_seed, source)


def reference_split(texts: Sequence[Text], seed: int, source: str = "") -> Split:
    """The published split: sorted by id, shuffled, cut. ``source`` is unused; the rules of ``split_texts`` share it.

    The split does not depend on the order of ``texts``, because file systems list files in any order.
    """
    ordered = sorted(texts, key=lambda text: text.id)
    random.Random(seed).shuffle(ordered)
    val, test = portions(len(ordered))
    return {"train": ordered[:val], "val": ordered[val:test], "test": ordered[test:]}


def _by_label(texts: Sequence[Text]) -> list[tuple[str, list[Text]]]:
    """The texts of each label sorted by id, the labels sorted."""
    groups: defaultdict[str, list[Text]] = defaultdict(list)
    for text in sorted(texts, key=lambda text: text.id):
        groups[text.label].append(text)
    return sorted(groups.items())


def stratified_split(texts: Sequence[Text], seed: int, source: str) -> Split:
    """The split 8:1:1 within every label, so that each split has texts of each label.

    Raises:
        DataError: A label has fewer than three texts. The message names ``source``.
    """
    shuffle = random.Random(seed)
    splits: Split = {"train": [], "val": [], "test": []}
    for label, group in _by_label(texts):
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


def fold_split(texts: Sequence[Text], folds: int, fold: int, seed: int, source: str) -> Split:
    """One split of a stratified cross-validation: test is ``fold``, val the fold after it, train the rest.

    Over all values of ``fold``, every text is in test once and in val once. Folds differ by at most one
    text per label, and by at most one text in all.

    Raises:
        DataError: A label has fewer texts than there are folds. The message names ``source``.
    """
    shuffle = random.Random(seed)
    parts: list[list[Text]] = [[] for _ in range(folds)]
    position = 0  # continues from label to label, so that the folds differ by at most one text
    for label, group in _by_label(texts):
        if len(group) < folds:
            raise DataError(
                f"{source}: label {label!r} has {len(group)} text{'s' * (len(group) > 1)}, but data.folds={folds} "
                f"needs {folds} of each label. Add texts, or try data.folds={max(3, len(group))}"
            )
        shuffle.shuffle(group)
        for text in group:
            parts[position % folds].append(text)
            position += 1
    test, val = fold, (fold + 1) % folds
    train = [text for i, part in enumerate(parts) if i not in (test, val) for text in part]
    splits = {"train": train, "val": parts[val], "test": parts[test]}
    for split in splits.values():
        shuffle.shuffle(split)
    return splits

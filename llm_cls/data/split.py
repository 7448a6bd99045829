"""Splits into train, val and test: eight, one and one of ten portions, or the folds of a cross-validation."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import Text
from llm_cls.data.groups import split_groups
from llm_cls.data.labels import ALL_NAMED, named
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

    With ``data.group``, both keep the texts of a group together.

    Raises:
        DataError: A label has too few texts, or there are too few groups. The message names ``source``.
    """
    if config.group is not None:
        return _grouped(texts, config, source)
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
    check_counts(Counter(text.label for text in texts), 3, source)
    shuffle = random.Random(seed)
    splits: Split = {"train": [], "val": [], "test": []}
    for _, group in _by_label(texts):
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
    check_counts(Counter(text.label for text in texts), folds, source, folds=folds)
    shuffle = random.Random(seed)
    parts: list[list[Text]] = [[] for _ in range(folds)]
    position = 0  # continues from label to label, so that the folds differ by at most one text
    for _, group in _by_label(texts):
        shuffle.shuffle(group)
        for text in group:
            parts[position % folds].append(text)
            position += 1
    splits = _of_folds(parts, fold)
    for split in splits.values():
        shuffle.shuffle(split)
    return splits


def _of_folds(parts: Sequence[list[Text]], fold: int) -> Split:
    """Test is the part ``fold``, val the part after it, train the rest."""
    test, val = fold, (fold + 1) % len(parts)
    train = [text for i, part in enumerate(parts) if i not in (test, val) for text in part]
    return {"train": train, "val": parts[val], "test": parts[test]}


def ready_folds(texts: Mapping[int, list[Text]], fold: int, column: str, source: str) -> Split:
    """The split where the fold of each text is given.

    Args:
        texts: The texts of each fold, by its number.
        fold: The number of the fold that is test.
        column: Name of the column with the folds, for messages.
        source: The file, for messages.

    Raises:
        DataError: There are fewer than three folds, or none with this number.
    """
    numbers = sorted(texts)
    known = ", ".join(map(str, numbers))
    if len(numbers) < 3:
        raise DataError(
            f"{source}: data.fold_column={column} must have at least three folds, one each for train, val and test, "
            f"found {known}. Try data.split=COLUMN, or data.folds=5"
        )
    if fold not in texts:
        raise DataError(f"{source}: data.fold={fold} is not in the column {column!r}. Try one of {known}")
    return _of_folds([texts[number] for number in numbers], numbers.index(fold))


def carve_val(train: Sequence[Text], config: DataConfig, source: str) -> tuple[list[Text], list[Text]]:
    """The training texts without a tenth of each label, and that tenth; at least one text of each label.

    Both keep their order; which texts are val depends on ids and seed only.

    Raises:
        DataError: A label has a single text, or there are too few groups. The message names ``source``.
    """
    if config.group is not None:
        val = {text.id for text in split_groups(train, (0.9, 0.1), config.split_seed, source, config.group)[1]}
    else:
        check_counts(Counter(text.label for text in train), 2, source)
        draw = random.Random(config.split_seed)
        val = set()
        for _, group in _by_label(train):
            n = max(1, (len(group) + 5) // 10)
            val |= {text.id for text in draw.sample(group, n)}
    return [text for text in train if text.id not in val], [text for text in train if text.id in val]


def _grouped(texts: Sequence[Text], config: DataConfig, source: str) -> Split:
    assert config.group is not None
    weights = (0.8, 0.1, 0.1) if config.folds is None else (1 / config.folds,) * config.folds
    parts = split_groups(texts, weights, config.split_seed, source, config.group)
    if config.folds is None:
        return dict(zip(("train", "val", "test"), parts, strict=True))
    return _of_folds(parts, config.fold)


def check_counts(
    counts: Mapping[str, int], needed: int, source: str, folds: int | None = None, fix: str = "", unit: str = "text"
) -> None:
    """Refuses labels that have too few texts for every split.

    Args:
        counts: Number of texts of each label.
        needed: How many each needs.
        source: The file, for the message.
        folds: Where a cross-validation needs them.
        fix: What can be done instead of adding texts, in a sentence.
        unit: What is counted.

    Raises:
        DataError: Some have too few; the message names them.
    """
    rare = sorted((label, n) for label, n in counts.items() if n < needed)
    if not rare:
        return
    wanted = {2: "one for each of train and val", 3: "one for each of train, val and test"}.get(needed, "")
    why = f"each label needs at least {needed}, {wanted}"
    fix = fix or "or merge the label with another"
    if folds is not None:
        why = f"data.folds={folds} needs {needed} of each label"
        fix += f", or try data.folds={max(3, min(n for _, n in rare))}"
    if len(rare) == 1:
        label, n = rare[0]
        found = f"label {label!r} has {n} {unit}{'s' * (n > 1)}"
    else:
        found = f"{len(rare)} labels have too few {unit}s ({named(dict(rare), counts, ALL_NAMED)})"
    raise DataError(f"{source}: {found}, but {why}. Add texts, {fix}")

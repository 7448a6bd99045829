"""Splits that keep the texts of a group together.

``StratifiedGroupKFold`` of scikit-learn makes parts of equal size only, and its parts may change with its version.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from llm_cls.config.messages import echo
from llm_cls.data.corpus import Text
from llm_cls.errors import DataError


def split_groups(
    texts: Sequence[Text], weights: Sequence[float], seed: int, source: str, column: str
) -> list[list[Text]]:
    """The texts in parts that have about the same share of every label, with each group in a single part.

    The largest groups are assigned first, each to the part that comes nearest to its share of all texts and of each
    label then. The last groups with a label go to the parts that lack it. A text without a group is a group by itself.
    The parts depend on ids, groups and seed only.

    Args:
        texts: The texts.
        weights: The share of each part; they sum to 1.
        seed: Decides between groups of the same size, and shuffles the parts.
        source: The file, for messages.
        column: Name of the column with the groups, for messages.

    Raises:
        DataError: There are fewer groups than parts. The message names ``source``.
    """
    check_groups(texts, len(weights), source, column)
    groups: defaultdict[tuple[str, str], list[Text]] = defaultdict(list)
    for text in sorted(texts, key=lambda text: text.id):
        groups[text.group_key].append(text)
    shuffle = random.Random(seed)
    order = sorted(groups)
    shuffle.shuffle(order)
    order.sort(key=lambda key: -len(groups[key]))
    totals = Counter(text.label for text in texts) + Counter({None: len(texts)})  # None: all labels together
    parts: list[list[Text]] = [[] for _ in weights]
    filled: list[Counter[str | None]] = [Counter() for _ in weights]
    left = Counter(label for group in groups.values() for label in (None, *{text.label for text in group}))
    for key in order:
        group = groups[key]
        counts: Counter[str | None] = Counter({None: len(group)})
        counts.update(text.label for text in group)
        choices = list(range(len(parts)))
        for label in counts:  # None comes first, so that no part stays empty
            lacking = [i for i in choices if not filled[i][label]]
            if left[label] <= sum(not one[label] for one in filled):
                choices = lacking or choices
            left[label] -= 1
        best = min(choices, key=lambda i: (_excess(counts, filled[i], totals, weights[i]), i))
        parts[best] += group
        filled[best] += counts
    for part in parts:
        shuffle.shuffle(part)
    return parts


def check_groups(texts: Sequence[Text], parts: int, source: str, column: str) -> None:
    """Refuses texts of fewer groups than there are parts.

    Raises:
        DataError: There are fewer. The message names ``source``.
    """
    groups = {text.group_key: text.group for text in texts}
    if len(groups) < parts:
        only = f", {echo(repr(next(iter(groups.values()))))}, in all rows" if len(groups) == 1 else ""
        raise DataError(
            f"{source}: data.group={column} must have at least {parts} groups, one for each part of the split, found "
            f"{len(groups)}{only}. Choose another column, or leave data.group out"
        )


def _excess(
    counts: Counter[str | None], filled: Counter[str | None], totals: Counter[str | None], weight: float
) -> float:
    """By how much the squared distance of a part from its share changes with a group, relative to the share."""
    change = 0.0
    for label, n in counts.items():
        before, added = filled[label] / totals[label], n / totals[label]
        change += added * (2 * (before - weight) + added) / weight
    return change

"""A smaller corpus for trials: a sample of each split with every label in its share."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

from llm_cls.data.corpus import Text


def sample_texts(texts: Sequence[Text], n: int, seed: int) -> Sequence[Text]:
    """``n`` of the texts, in their order; all of them where there are no more.

    Every label has its share, and at least one text where ``n`` is large enough. Which texts are chosen depends on
    their ids and labels and on the seed only.
    """
    if len(texts) <= n:
        return texts
    by_label: defaultdict[str, list[Text]] = defaultdict(list)
    for text in sorted(texts, key=lambda text: text.id):
        by_label[text.label].append(text)
    draw = random.Random(seed)
    shares = label_shares({label: len(by_label[label]) for label in sorted(by_label)}, n, draw)
    chosen = {text.id for label, share in shares.items() for text in draw.sample(by_label[label], share)}
    return [text for text in texts if text.id in chosen]


def label_shares(counts: Mapping[str, int], n: int, draw: random.Random) -> dict[str, int]:
    """How many of ``n`` texts each label gets: in proportion, by largest remainders, equal ones by lot.

    A label without a share gets one text from the label with most, where ``n`` is large enough.

    >>> label_shares({"a": 6, "b": 3, "c": 1}, 5, random.Random(0))
    {'a': 3, 'b': 1, 'c': 1}
    """
    total = sum(counts.values())
    shares = {label: n * count // total for label, count in counts.items()}
    order = list(counts)
    draw.shuffle(order)
    order.sort(key=lambda label: (n >= len(counts) and shares[label] > 0, -(n * counts[label] % total)))
    for label in order[: n - sum(shares.values())]:
        shares[label] += 1
    if n >= len(counts):
        for label in order:
            if shares[label] == 0:
                shares[max(order, key=lambda other: shares[other])] -= 1
                shares[label] = 1
    return shares

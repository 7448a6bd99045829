"""Whether one classifier is worse than another on the same texts: a paired permutation test with early stopping.

Under the hypothesis that both are equally good, which of the two gave which answer to a text says nothing, so that the
answers to each text may be swapped (Fisher, 1935; for classifiers Yeh, 2000). The p-value is the share of random swaps
that separate the two at least as much as they are. SciPy's ``permutation_test`` calls the score once per swap, and
always draws all of them, of which small levels need very many.
"""

import math
from collections.abc import Callable

import numpy as np

from llm_cls.metrics.scores import Floats, Score
from llm_cls.metrics.statistics import Ints

_MOST_CELLS = 4_000_000  # of the arrays of one block of swaps


def is_worse(labels: Ints, own: Ints, other: Ints, n_labels: int, score: Score, level: float, seed: int = 0) -> bool:
    """Whether the score of ``own`` is significantly lower than that of ``other``, by a one-sided test.

    Of two that are equally good, one is found to be worse with a probability of at most ``level``.

    Args:
        labels: Class indices, shape ``(n_texts,)``.
        own: Predictions, shape ``(n_texts,)``.
        other: Predictions, shape ``(n_texts,)``.
        n_labels: Number of labels of the data.
        score: One of ``scores.SCORES``.
        level: See above; between 0 and 1.
        seed: Seed of the swaps.
    """
    cells = np.stack([labels * n_labels + own, labels * n_labels + other])
    differ = np.flatnonzero(own != other)
    occurring, places = np.unique(cells, return_inverse=True)
    member = (places.reshape(cells.shape)[..., None] == np.arange(len(occurring))).astype(np.float32)
    total = member.sum((0, 1))  # of both; exact below 2**24 texts
    fixed = member[0].sum(0)
    change = (member[1] - member[0])[differ]

    def gaps(swapped: Floats) -> Floats:
        counts = np.zeros((2, len(swapped), n_labels * n_labels), np.int64)
        counts[0][:, occurring] = np.rint(fixed + swapped.astype(np.float32) @ change)
        counts[1][:, occurring] = np.rint(total) - counts[0][:, occurring]
        first, second = score(counts.reshape(2, -1, n_labels, n_labels))
        difference: Floats = second - first
        return difference

    return _is_rare(gaps, len(differ), max(len(differ), 2 * n_labels**2), level, seed)


def has_larger_loss(own: Floats, other: Floats, level: float, seed: int = 0) -> bool:
    """The same for the mean loss: ``own`` and ``other`` are the losses of the texts, shape ``(n_texts,)``."""
    difference = np.asarray(own, np.float64) - other

    def gaps(swapped: Floats) -> Floats:
        means: Floats = (1 - 2 * swapped) @ difference / len(difference)
        return means

    return _is_rare(gaps, len(difference), len(difference), level, seed)


def _is_rare(gaps: Callable[[Floats], Floats], n: int, size: int, level: float, seed: int) -> bool:
    """Whether the gap without swaps is among the largest of all, as ``level`` demands.

    The p-value is (k + 1) / (m + 1) for k of m swaps with at least this gap (Phipson and Smyth, 2010).

    Args:
        gaps: From swaps, shape ``(m, n)``, of 0 and 1, to how far the other one is ahead after each.
        n: What can be swapped.
        size: Numbers that ``gaps`` needs per swap.
        level: The largest p-value that counts.
        seed: Seed of the swaps.
    """
    observed = float(gaps(np.zeros((1, n)))[0])
    if observed <= 0:
        return False
    draws = max(999, math.ceil(10 / level))
    allowed = math.floor(level * (draws + 1)) - 1
    random, reached, drawn = np.random.default_rng(seed), 0, 0
    while drawn < draws and reached <= allowed:
        block = min(draws - drawn, max(1, _MOST_CELLS // size), 1000 if not drawn else draws)
        swapped = random.integers(0, 2, (block, n), np.int8).astype(np.float64)
        reached += int((gaps(swapped) >= observed - 1e-12).sum())
        drawn += block
    return reached <= allowed

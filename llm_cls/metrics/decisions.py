"""Decisions from probabilities: when to abstain, sets of labels with a guarantee, and the label of least cost.

Written here because MAPIE wraps scikit-learn estimators, not stored probabilities, and its risk control has no fixed
sequence of thresholds. Each routine is a few lines, and tests check its guarantee by simulation. The conformal sets are
those of MAPIE 1.6 (score "lac").
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_cls.metrics.scores import Floats
from llm_cls.metrics.statistics import Ints

Flags = npt.NDArray[np.bool_]
_STEPS = 30  # thresholds that are tested
_SHOWN = 1000  # thresholds of a curve


def exact_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of Clopper and Pearson (1934) for a share of ``hits`` of ``n``."""
    from scipy.special import betaincinv  # takes half a second

    tail = (1 - level) / 2
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return low, high


@dataclass(frozen=True)
class Abstention:
    """What remains where texts below a threshold are left out.

    Attributes:
        threshold: The smallest confidence that is kept.
        n: All texts.
        kept: Texts that are kept.
        right: Texts of these whose label is right.
    """

    threshold: float
    n: int
    kept: int
    right: int

    @property
    def coverage(self) -> float:
        """Share of the texts that are kept."""
        return self.kept / self.n

    @property
    def accuracy(self) -> float | None:
        """Share of the kept texts that are right; None where none is kept."""
        return self.right / self.kept if self.kept else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The exact 95 % interval of the accuracy; None where no text is kept."""
        return exact_interval(self.right, self.kept) if self.kept else None


def abstain(confidences: Floats, correct: Flags, threshold: float) -> Abstention:
    """The coverage and the selective accuracy at a threshold."""
    kept = confidences >= threshold
    return Abstention(threshold, len(kept), int(kept.sum()), int(correct[kept].sum()))


def controlled_threshold(confidences: Floats, correct: Flags, target: float, delta: float) -> float | None:
    """The smallest threshold whose selective accuracy is at least ``target`` with probability ``1 - delta``.

    Learn then Test (Angelopoulos et al., 2021) with fixed-sequence testing. Of the texts sorted by confidence, sets of
    the k most confident ones are tested, from few to all. The k are chosen from n, ``target`` and ``delta`` alone.
    Given the confidence of the next text, the k are independent draws of texts above it, so that their errors are
    binomial, and "the accuracy above it is below ``target``" is rejected where so few errors have a probability of at
    most ``delta``: where the bound of Clopper and Pearson is above ``target``. Testing ends with the first set that is
    not rejected. Assumes that the texts of val and of use are draws from one distribution, that confidence and
    ``correct`` come from a classifier that has not seen them, and that a higher confidence does not mean more errors.

    Args:
        confidences: Shape ``(n,)``.
        correct: Whether the label is right, shape ``(n,)``.
        target: The accuracy to keep, below 1.
        delta: The probability with which it may fail.

    Returns:
        Texts with at least this confidence are labelled; 0 means all, None that no threshold was accepted.
    """
    from scipy.special import bdtr  # takes half a second

    n, risk = len(confidences), 1 - target
    order = np.argsort(-confidences, kind="stable")
    ordered, errors = confidences[order], np.cumsum(~correct[order])
    threshold: float | None = None
    for k in _set_sizes(n, risk, delta):
        last = int(np.searchsorted(-ordered, -ordered[k - 1], side="right"))  # equal confidences stay together
        if bdtr(int(errors[last - 1]), last, risk) > delta:
            break
        threshold = 0.0 if last == n else float(np.nextafter(ordered[last], 2.0))
    return threshold


def _set_sizes(n: int, risk: float, delta: float) -> Iterator[int]:
    """Sizes of the tested sets, in geometric steps; the first one has room for as many as two errors."""
    from scipy.special import bdtr

    sizes = np.arange(1, n + 1)
    for errors in (2, 1, 0):
        enough = np.flatnonzero(bdtr(errors, np.maximum(sizes, errors + 1), risk) <= delta)
        enough = enough[sizes[enough] > errors]
        if len(enough):
            first = int(sizes[enough[0]])
            steps = first * (n / first) ** (np.arange(_STEPS + 1) / _STEPS)
            yield from np.unique(np.rint(steps).astype(int)).tolist()
            return


def conformal_level(probabilities: Floats, labels: Ints, alpha: float) -> float:
    """The probability from which a label belongs to the set of a text, by the split-conformal method.

    The sets are those of Sadinle, Lei and Wasserman (2019): all labels with at least this probability, where the share
    ``1 - alpha`` of val texts, with one text more, has its true label in the set. A new text then has it with a
    probability of at least ``1 - alpha`` if it and the val texts are exchangeable. 0 where val has too few texts.
    """
    n = len(labels)
    rank = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    if rank > n:
        return 0.0
    true = np.sort(probabilities[np.arange(n), labels])
    return float(true[n - rank])


@dataclass(frozen=True)
class Sets:
    """Sets of labels: their mean size, the number of texts whose set has the true label, and of empty sets."""

    mean_size: float
    covered: int
    empty: int
    n: int

    @property
    def coverage(self) -> float:
        """Share of the texts whose set has the true label."""
        return self.covered / self.n


def sets_at(probabilities: Floats, labels: Ints, level: float) -> Sets:
    """The sets of all labels with a probability of at least ``level``."""
    member = probabilities >= level
    sizes = member.sum(axis=1)
    covered = member[np.arange(len(labels)), labels]
    return Sets(float(sizes.mean()), int(covered.sum()), int((sizes == 0).sum()), len(labels))


def cheapest(probabilities: Floats, costs: Floats) -> Ints:
    """The decision of least expected cost for each text, the first of equal ones.

    Args:
        probabilities: Shape ``(n, n_labels)``.
        costs: Of each decision (column) for each true label (row), shape ``(n_labels, n_decisions)``.

    Returns:
        Positions of decisions, shape ``(n,)``.
    """
    best: Ints = np.argmin(probabilities @ costs, axis=1)
    return best


def coverage_curve(confidences: Floats, correct: Flags) -> tuple[Floats, Ints, Ints]:
    """Every threshold that changes what is kept, from high to low, with the texts kept and those of them right."""
    order = np.argsort(-confidences, kind="stable")
    ordered, right = confidences[order], np.cumsum(correct[order])
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    return ordered[ends], ends + 1, right[ends].astype(np.int64)


def out_of_scope(confidences: Floats, predicted: Flags, true: Flags, threshold: float) -> tuple[float, float]:
    """Recall and precision of "out of scope": the label itself, or a confidence below the threshold.

    Args:
        confidences: Shape ``(n,)``.
        predicted: Whether the most probable label is the one for out of scope, shape ``(n,)``.
        true: Whether the text is out of scope, shape ``(n,)``; at least one is.
        threshold: 0 is arg max alone.

    Returns:
        Recall and precision, which is 0 where nothing is found.
    """
    named = predicted | (confidences < threshold)
    hits = int((named & true).sum())
    return hits / int(true.sum()), hits / max(1, int(named.sum()))


def out_of_scope_thresholds(confidences: Floats, predicted: Flags) -> Floats:
    """0, and the thresholds that leave out one text more each, or evenly chosen ones of more than 1,000."""
    values = np.unique(confidences[~predicted])
    chosen = np.unique(np.linspace(0, max(0, len(values) - 1), min(len(values), _SHOWN)).round().astype(int))
    return np.append(0.0, np.nextafter(values[chosen], 2.0))

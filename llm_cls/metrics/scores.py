"""Scores from confusion matrices.

The definitions are those of scikit-learn (``precision_recall_fscore_support``, ``balanced_accuracy_score``,
``matthews_corrcoef``) with fixed ``labels`` and ``zero_division=0``: the macro mean is over all labels of the data, and
an undefined score is 0. scikit-learn and
torchmetrics lack the macro F1 of many confusion matrices at once, which the bootstrap needs for 2,000 of them;
the import of either takes more than a second, and torchmetrics omits labels that never occur from the macro mean.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

METRICS = ("accuracy", "precision", "recall", "f1")


@dataclass(frozen=True)
class Scores:
    """The scores of one classifier on one split, each between 0 and 1; the fields are those of ``METRICS``."""

    accuracy: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class PerClass:
    """The scores of each label; arrays of shape ``(..., n_labels)``."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: npt.NDArray[np.int64]


def confusion_matrix(
    labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64], n_labels: int
) -> npt.NDArray[np.int64]:
    """Counts of shape ``(n_labels, n_labels)``: rows are the true labels, columns the predictions."""
    cells = np.bincount(labels * n_labels + predictions, minlength=n_labels * n_labels)
    return cells.reshape(n_labels, n_labels).astype(np.int64)


def per_class(confusion: npt.NDArray[np.int64]) -> PerClass:
    """Precision, recall and F1 of each label; 0 if undefined.

    Args:
        confusion: Counts of shape ``(..., n_labels, n_labels)``.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    support, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    return PerClass(
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, support),
        f1=_ratio(2 * hits, support + predicted),
        support=support,
    )


def scores(confusion: npt.NDArray[np.int64]) -> Scores:
    """Accuracy and macro means over all labels, from a confusion matrix of shape ``(n_labels, n_labels)``."""
    columns = per_class(confusion)
    return Scores(
        accuracy=float(np.trace(confusion) / max(1, confusion.sum())),
        precision=float(columns.precision.mean()),
        recall=float(columns.recall.mean()),
        f1=float(columns.f1.mean()),
    )


def macro_f1(confusion: npt.NDArray[np.int64]) -> Floats:
    """Macro F1 of many confusion matrices at once: ``(..., n_labels, n_labels)`` to ``(...)``."""
    means: Floats = per_class(confusion).f1.mean(axis=-1)
    return means


def resampled_macro_f1(resamples: npt.NDArray[np.int64], original: npt.NDArray[np.int64]) -> Floats:
    """Macro F1 of bootstrap resamples: ``(..., n_labels, n_labels)`` to ``(...)``.

    A label that has a text in ``original`` and none in a resample does not count there. Its F1 is undefined, and as 0
    it would pull the resamples of data with few texts per label far below the score of the original.
    """
    columns = per_class(resamples)
    lost = (_occurs(original) & ~_occurs(resamples)).sum(axis=-1)
    return _ratio(columns.f1.sum(axis=-1), original.shape[-1] - lost)


def accuracy(confusion: npt.NDArray[np.int64]) -> Floats:
    """Share of right predictions: ``(..., n_labels, n_labels)`` to ``(...)``."""
    return _ratio(_hits(confusion), confusion.sum(axis=(-2, -1)))


def balanced_accuracy(confusion: npt.NDArray[np.int64]) -> Floats:
    """Mean recall of the labels that occur: ``(..., n_labels, n_labels)`` to ``(...)``."""
    columns = per_class(confusion)
    return _ratio(columns.recall.sum(axis=-1), (columns.support > 0).sum(axis=-1))


def weighted_f1(confusion: npt.NDArray[np.int64]) -> Floats:
    """Mean F1, each label weighted by its number of texts: ``(..., n_labels, n_labels)`` to ``(...)``."""
    columns = per_class(confusion)
    return _ratio((columns.f1 * columns.support).sum(axis=-1), columns.support.sum(axis=-1))


def mcc(confusion: npt.NDArray[np.int64]) -> Floats:
    """Matthews correlation coefficient (Gorodkin, 2004): ``(..., n_labels, n_labels)`` to ``(...)``, from -1 to 1."""
    true, predicted = (confusion.sum(axis=axis).astype(np.float64) for axis in (-1, -2))
    n = true.sum(axis=-1)
    covariance = n * _hits(confusion) - (true * predicted).sum(axis=-1)
    spread = np.sqrt((n**2 - (true**2).sum(axis=-1)) * (n**2 - (predicted**2).sum(axis=-1)))
    found: Floats = np.divide(covariance, spread, out=np.zeros(np.shape(covariance)), where=spread != 0)
    return found


Score = Callable[[npt.NDArray[np.int64]], Floats]
SCORES: Mapping[str, Score] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1": macro_f1,
    "weighted_f1": weighted_f1,
    "mcc": mcc,
}


def _occurs(confusion: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each label is that of a text, or predicted: ``(..., n_labels, n_labels)`` to ``(..., n_labels)``."""
    found: npt.NDArray[np.bool_] = confusion.sum(axis=-1) + confusion.sum(axis=-2) > 0
    return found


def _hits(confusion: npt.NDArray[np.int64]) -> Floats:
    hits: Floats = np.diagonal(confusion, axis1=-2, axis2=-1).sum(axis=-1).astype(np.float64)
    return hits


def _ratio(part: Floats, whole: npt.NDArray[np.int64]) -> Floats:
    """``part / whole``; 0 where ``whole`` is 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole != 0)

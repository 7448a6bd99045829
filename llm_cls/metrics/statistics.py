"""Confidence intervals of scores, tests of differences, and calibration.

SciPy's bootstrap calls the statistic once per resample unless it is vectorised over texts, which macro F1 is not; its
import takes half a second, and statsmodels is not a dependency of llm_cls. Tests compare each routine with
SciPy, statsmodels or scikit-learn. The probability of a predicted label is called its confidence.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_cls.metrics.scores import Floats, Score, confusion_matrix, macro_f1, resampled_macro_f1

Ints = npt.NDArray[np.int64]


def ci95(confusion: Ints, score: Score = macro_f1, seed: int = 0, n_resamples: int = 2000) -> tuple[float, float]:
    """95 % interval of a score by the percentile bootstrap over texts (Efron, 1979).

    The score depends on the texts only through the confusion matrix. Its counts after drawing n texts with
    replacement are multinomial with the shares of the cells as probabilities, so no texts are drawn.

    Args:
        confusion: Counts of shape ``(n_labels, n_labels)``.
        score: One of ``scores.SCORES``.
        seed: Seed of the resampling.
        n_resamples: Number of resamples.

    Returns:
        Lower and upper bound.
    """
    n_texts = int(confusion.sum())
    draws = np.random.default_rng(seed).multinomial(n_texts, confusion.ravel() / n_texts, size=n_resamples)
    return percentile_ci95(_of_resamples(score, draws.reshape(-1, *confusion.shape), confusion))


def percentile_ci95(resampled: Floats) -> tuple[float, float]:
    """The 2.5th and the 97.5th percentile of resampled values."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def draw_texts(n_texts: int, seed: int = 0, n_resamples: int = 2000) -> Ints:
    """How often each text is drawn in each bootstrap resample, shape ``(n_resamples, n_texts)``.

    The same draws for two classifiers make a paired bootstrap.
    """
    return np.random.default_rng(seed).multinomial(n_texts, np.full(n_texts, 1 / n_texts), size=n_resamples)


def resampled(draws: Ints, labels: Ints, predictions: Ints, n_labels: int, score: Score = macro_f1) -> Floats:
    """A score of one classifier in each resample, shape ``(n_resamples,)``.

    Args:
        draws: Result of ``draw_texts``, shape ``(n_resamples, n_texts)``.
        labels: Class indices, shape ``(n_texts,)``.
        predictions: Class indices, shape ``(n_texts,)``.
        n_labels: Number of labels of the data.
        score: One of ``scores.SCORES``.

    Returns:
        Shape ``(n_resamples,)``.
    """
    occurring, cell = np.unique(labels * n_labels + predictions, return_inverse=True)
    member = (cell[:, None] == np.arange(len(occurring))).astype(np.float32)  # exact below 2**24 texts
    counts = np.zeros((len(draws), n_labels * n_labels), dtype=np.int64)
    counts[:, occurring] = np.rint(draws.astype(np.float32) @ member)
    original = confusion_matrix(labels, predictions, n_labels)
    return _of_resamples(score, counts.reshape(-1, n_labels, n_labels), original)


def _of_resamples(score: Score, resamples: Ints, original: Ints) -> Floats:
    return resampled_macro_f1(resamples, original) if score is macro_f1 else score(resamples)


def bootstrap_p_value(differences: Floats) -> float:
    """Two-sided p-value of "no difference" from resampled differences (Davison and Hinkley, 1997, 4.2).

    Twice the share of resamples on the rarer side of 0. One is added to both counts, because a finite number
    of resamples cannot show a probability of 0.
    """
    n = len(differences)
    rarer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (n + 1))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's test (1947) for two classifiers on the same texts.

    Exact binomial test below 25 discordant texts, otherwise chi-squared with the continuity correction of
    Edwards (1948).

    Args:
        only_first: Number of texts that only the first classifier predicts correctly.
        only_second: Number of texts that only the second classifier predicts correctly.
    """
    n, rarer = only_first + only_second, min(only_first, only_second)
    if n < 25:
        return min(1.0, 2 * sum(math.comb(n, k) for k in range(rarer + 1)) / (1 << n))
    statistic = max(0, abs(only_first - only_second) - 1) ** 2 / n
    return math.erfc(math.sqrt(statistic / 2))  # survival function of chi-squared with one degree of freedom


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for multiple comparisons (Holm, 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    stepped = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, dtype=np.float64)[order] * factors))
    adjusted = np.empty(len(order))
    adjusted[order] = stepped
    return [float(p) for p in adjusted]


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); the deviation of a single value is None."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean; None for a single value."""
    sd = mean_sd(values)[1]
    return None if sd is None else sd / math.sqrt(len(values))


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy by bins of confidence; empty bins are omitted.

    Attributes:
        edges: Lower and upper bound of each bin, shape ``(n_bins, 2)``.
        confidence: Mean confidence in each bin.
        accuracy: Share of correct predictions in each bin.
        counts: Number of texts in each bin.
        ece: Expected calibration error: mean absolute difference of the two, weighted by ``counts``.
    """

    edges: Floats
    confidence: Floats
    accuracy: Floats
    counts: Ints
    ece: float


def reliability(confidences: Floats, correct: npt.NDArray[np.bool_], n_bins: int = 10) -> Reliability:
    """Reliability diagram and expected calibration error (Guo et al., 2017) in bins of equal width.

    Args:
        confidences: Probability of the predicted label, shape ``(n_texts,)``.
        correct: Whether the prediction is correct, shape ``(n_texts,)``.
        n_bins: Number of bins between 0 and 1; a bin includes its upper bound, the first one also 0.
    """
    bounds = np.linspace(0, 1, n_bins + 1)
    bins = np.searchsorted(bounds[1:-1], confidences)
    counts = np.bincount(bins, minlength=n_bins)
    used = counts > 0
    confidence = np.bincount(bins, weights=confidences, minlength=n_bins)[used] / counts[used]
    accuracy = np.bincount(bins, weights=correct, minlength=n_bins)[used] / counts[used]
    return Reliability(
        edges=np.stack([bounds[:-1], bounds[1:]], axis=1)[used],
        confidence=confidence,
        accuracy=accuracy,
        counts=counts[used].astype(np.int64),
        ece=float(np.abs(confidence - accuracy) @ counts[used] / max(1, counts.sum())),
    )

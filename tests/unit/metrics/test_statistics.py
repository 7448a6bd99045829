"""Each routine against an independent implementation."""

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, scoreatpercentile, sem
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from llm_cls.metrics import statistics
from llm_cls.metrics.scores import confusion_matrix

N_LABELS = 4


def _texts(seed: int, n: int = 300, right: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, N_LABELS, n)
    predictions = np.where(rng.random(n) < right, labels, rng.integers(0, N_LABELS, n))
    return labels, predictions


def _sklearn_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float(f1_score(labels, predictions, labels=range(N_LABELS), average="macro", zero_division=0))


def test_ci95_agrees_with_scipys_bootstrap_of_sklearns_f1() -> None:
    labels, predictions = _texts(0)
    ours = statistics.ci95(confusion_matrix(labels, predictions, N_LABELS))
    theirs = bootstrap(
        (labels, predictions), _sklearn_f1, paired=True, vectorized=False, n_resamples=600,
        method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.012)
    assert ours[0] < _sklearn_f1(labels, predictions) < ours[1]


def test_percentile_ci95_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).gamma(2, size=2000)
    assert statistics.percentile_ci95(values) == pytest.approx(tuple(scoreatpercentile(values, [2.5, 97.5])), abs=1e-12)


def test_ci95_is_repeatable_and_narrows_with_more_texts() -> None:
    few = confusion_matrix(*_texts(0, n=100), N_LABELS)
    many = confusion_matrix(*_texts(0, n=3000), N_LABELS)
    assert statistics.ci95(few) == statistics.ci95(few) != statistics.ci95(few, seed=1)
    assert np.diff(statistics.ci95(many)) < np.diff(statistics.ci95(few))


def test_ci95_of_a_perfect_classifier_has_no_width() -> None:
    assert statistics.ci95(np.diag([90, 90, 90, 90])) == (1.0, 1.0)


@pytest.mark.parametrize(("n_labels", "per_label", "right"), [(77, 1, 0.97), (150, 1, 0.5), (40, 2, 0.8)])
def test_intervals_of_few_texts_per_label_contain_the_score(n_labels: int, per_label: int, right: float) -> None:
    """Most resamples lack a third of such labels; the macro mean is over those that a resample has."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(n_labels), per_label)
    predictions = np.where(rng.random(len(labels)) < right, labels, rng.integers(0, n_labels, len(labels)))
    own = float(f1_score(labels, predictions, labels=range(n_labels), average="macro", zero_division=0))
    low, high = statistics.ci95(confusion_matrix(labels, predictions, n_labels))
    assert low < own < high and high - low < 0.3
    draws = statistics.draw_texts(len(labels), n_resamples=50)
    occurring = set(labels) | set(predictions)
    for row, found in zip(draws, statistics.resampled(draws, labels, predictions, n_labels), strict=True):
        drawn, answers = np.repeat(labels, row), np.repeat(predictions, row)
        kept = set(drawn) | set(answers) | (set(range(n_labels)) - occurring)
        expected = f1_score(drawn, answers, labels=sorted(kept), average="macro", zero_division=0)
        assert found == pytest.approx(expected, abs=1e-12)


def test_resampled_f1_is_sklearns_f1_of_the_drawn_texts() -> None:
    labels, predictions = _texts(3)
    draws = statistics.draw_texts(len(labels), n_resamples=20)
    assert draws.shape == (20, len(labels)) and (draws.sum(axis=1) == len(labels)).all()
    expected = [_sklearn_f1(np.repeat(labels, row), np.repeat(predictions, row)) for row in draws]
    assert statistics.resampled(draws, labels, predictions, N_LABELS) == pytest.approx(expected, abs=1e-12)


def test_paired_differences_agree_with_scipys_paired_bootstrap() -> None:
    labels, first = _texts(4)
    second = np.where(np.arange(len(labels)) % 10 == 0, (first + 1) % N_LABELS, first)
    draws = statistics.draw_texts(len(labels))
    ours = statistics.resampled(draws, labels, first, N_LABELS) - statistics.resampled(draws, labels, second, N_LABELS)
    theirs = bootstrap(
        (labels, first, second), lambda y, a, b: _sklearn_f1(y, a) - _sklearn_f1(y, b), paired=True,
        vectorized=False, n_resamples=500, method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert statistics.percentile_ci95(ours) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_bootstrap_p_value_is_large_where_nothing_differs_and_never_zero() -> None:
    assert statistics.bootstrap_p_value(np.zeros(1999)) == 1.0
    assert statistics.bootstrap_p_value(np.ones(1999)) == pytest.approx(2 / 2000)
    normal = np.random.default_rng(0).normal(1.96, 1, 200_000)
    assert statistics.bootstrap_p_value(normal) == pytest.approx(0.05, abs=0.003)


@pytest.mark.parametrize("pair", [(0, 0), (1, 0), (3, 9), (12, 12), (24, 0), (13, 12), (40, 22), (30, 30), (25, 0)])
def test_mcnemar_agrees_with_statsmodels(pair: tuple[int, int]) -> None:
    first, second = pair
    table = [[50, first], [second, 7]]
    expected = statsmodels_mcnemar(table, exact=sum(pair) < 25, correction=True).pvalue
    if first != second or sum(pair) < 25:  # at equal counts the correction of statsmodels goes below zero
        assert statistics.mcnemar(first, second) == pytest.approx(expected, rel=1e-12)
    else:
        assert statistics.mcnemar(first, second) == 1.0
    if 0 < sum(pair) < 25:
        assert statistics.mcnemar(first, second) == pytest.approx(binomtest(first, sum(pair)).pvalue, rel=1e-12)


@pytest.mark.parametrize("p_values", [[0.01, 0.04, 0.03, 0.005], [0.2], [0.5, 0.5, 0.9], [0.001, 0.001, 0.3], []])
def test_holm_agrees_with_statsmodels(p_values: list[float]) -> None:
    expected = multipletests(p_values, method="holm")[1] if p_values else []
    assert statistics.holm(p_values) == pytest.approx(list(expected))


def test_mean_sd() -> None:
    assert statistics.mean_sd([0.9, 0.95, 1.0]) == pytest.approx((0.95, 0.05))
    assert statistics.mean_sd([0.9]) == (0.9, None)


def test_standard_error_agrees_with_scipy() -> None:
    assert statistics.standard_error([0.9, 0.93, 0.98]) == pytest.approx(sem([0.9, 0.93, 0.98]))
    assert statistics.standard_error([0.9]) is None


def test_reliability_agrees_with_sklearns_calibration_curve() -> None:
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.12, 1, 2000)
    correct = rng.random(2000) < confidences**1.5
    ours = statistics.reliability(confidences, correct)
    accuracy, confidence = calibration_curve(correct, confidences, n_bins=10)
    assert ours.accuracy == pytest.approx(accuracy) and ours.confidence == pytest.approx(confidence)
    assert ours.counts.sum() == 2000 and len(ours.edges) == len(ours.counts) == 9
    weights = np.histogram(confidences, bins=np.linspace(0, 1, 11))[0][1:] / 2000
    assert ours.ece == pytest.approx(float(np.abs(accuracy - confidence) @ weights))


def test_reliability_at_the_bounds_and_when_perfect() -> None:
    ours = statistics.reliability(np.array([0.0, 1.0, 1.0]), np.array([False, True, True]))
    assert ours.ece == 0 and ours.counts.tolist() == [1, 2]


def test_a_confidence_on_a_bound_is_in_the_bin_below_as_in_sklearn() -> None:
    confidences = np.array([0.25, 0.5, 0.5, 0.75, 1.0])
    correct = np.array([True, False, True, False, True])
    accuracy, confidence = calibration_curve(correct, confidences, n_bins=4)
    ours = statistics.reliability(confidences, correct, n_bins=4)
    assert ours.accuracy == pytest.approx(accuracy) and ours.confidence == pytest.approx(confidence)
    assert ours.counts.tolist() == [1, 2, 1, 1]

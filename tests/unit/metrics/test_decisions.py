"""Guarantees by simulation, against SciPy's exact tests, and what abstention does to texts out of scope."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from llm_cls.metrics.decisions import (
    _set_sizes,
    abstain,
    cheapest,
    conformal_level,
    controlled_threshold,
    coverage_curve,
    exact_interval,
    out_of_scope,
    out_of_scope_thresholds,
    sets_at,
)
from tests.unit.reporting.calibrated_runs import draw

DRAWS = 500


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (5, 5), (3, 10), (450, 736)])
def test_the_exact_interval_is_that_of_scipy(hits: int, n: int) -> None:
    other = binomtest(hits, n).proportion_ci(0.95, method="exact")
    assert exact_interval(hits, n) == pytest.approx((other.low, other.high))


@pytest.mark.parametrize("digits", [17, 2])
def test_the_threshold_keeps_its_target_as_often_as_stated(digits: int) -> None:
    """Accuracy given the confidence is the confidence, so that what lies above a threshold is known exactly.

    Of 500 val splits, as many miss the target as ``delta`` allows, up to the binomial error. With confidences rounded
    to two digits many are equal.
    """
    rng, target, delta, n = np.random.default_rng(0), 0.9, 0.1, 1000
    missed = found = 0
    for _ in range(DRAWS):
        confidences = np.round(rng.uniform(0.5, 1, n), digits)
        correct = rng.random(n) < confidences
        threshold = controlled_threshold(confidences, correct, target, delta)
        if threshold is not None:
            found += 1
            missed += (max(threshold, 0.5) + 1) / 2 < target - 10.0**-digits
    assert found > 0.8 * DRAWS, "it must find one nearly always: the best is 0.8"
    assert missed <= binom.ppf(0.999, DRAWS, delta)
    assert missed >= binom.ppf(0.001, DRAWS, delta / 4), "and not be far too careful"


def test_a_threshold_that_nothing_supports_is_none() -> None:
    assert controlled_threshold(np.full(20, 0.9), np.ones(20, bool), 0.95, 0.1) is None, "20 right texts are too few"
    assert controlled_threshold(np.full(45, 0.9), np.ones(45, bool), 0.95, 0.1) == 0, "0.95 ** 45 < 0.1"
    assert controlled_threshold(np.linspace(0.5, 1, 400), np.zeros(400, bool), 0.5, 0.1) is None


def test_texts_at_the_threshold_are_those_that_were_tested() -> None:
    confidences = np.linspace(0.99, 0.5, 1000)
    correct = np.arange(1000) < 500
    threshold = controlled_threshold(confidences, correct, 0.9, 0.1)
    assert threshold is not None
    kept = abstain(confidences, correct, threshold)
    assert kept.accuracy is not None and kept.interval is not None
    assert kept.kept > 500 and kept.accuracy > 0.9
    assert binom.cdf(kept.kept - kept.right, kept.kept, 0.1) <= 0.1
    assert kept.kept in set(_set_sizes(1000, 1 - 0.9, 0.1)), "and not one text more"


def test_testing_ends_with_the_first_set_that_fails() -> None:
    """What comes later would need a correction for the number of tests."""
    correct = np.concatenate([np.ones(200, bool), np.zeros(60, bool), np.ones(3000, bool)])
    threshold = controlled_threshold(np.linspace(1, 0.5, len(correct)), correct, 0.9, 0.1)
    assert threshold is not None
    kept = abstain(np.linspace(1, 0.5, len(correct)), correct, threshold).kept
    assert 150 < kept < 230 and binom.cdf(60, 3260, 0.1) < 0.1, "all texts together would pass"


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_conformal_sets_cover_as_stated(alpha: float) -> None:
    """Over 500 val splits the mean coverage lies between 1 - alpha and 1 - alpha + 1 / (n + 1)."""
    n = 100
    p, labels = draw(DRAWS * n, 2.0, seed=1)
    fresh, truth = draw(50_000, 2.0, seed=2)
    levels = [conformal_level(p[i : i + n], labels[i : i + n], alpha) for i in range(0, DRAWS * n, n)]
    true = np.sort(fresh[np.arange(len(truth)), truth])
    coverage = 1 - np.searchsorted(true, levels) / len(true)
    error = 3 * (alpha * (1 - alpha) / (n * DRAWS) + alpha * (1 - alpha) / len(truth)) ** 0.5
    assert 1 - alpha - error <= coverage.mean() <= 1 - alpha + 1 / (n + 1) + error
    found = sets_at(fresh, truth, levels[0])
    assert found.coverage == pytest.approx(coverage[0]) and found.mean_size >= 1 - alpha


def test_too_few_texts_give_all_labels() -> None:
    p, labels = draw(8, 1.0, seed=1)
    level = conformal_level(p, labels, 0.1)
    assert level == 0 and sets_at(p, labels, level).mean_size == 4


def test_the_cheapest_decision_costs_least() -> None:
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    costs = np.array([[0.0, 1.0, 0.3], [5.0, 0.0, 0.3]])
    assert cheapest(p, costs).tolist() == [2, 2, 1], "of 0.5, 0.9, 0.3; 2.0, 0.6, 0.3; 4.0, 0.2, 0.3"
    assert cheapest(p, 1 - np.eye(2)).tolist() == p.argmax(axis=1).tolist()


def test_the_curve_is_that_of_every_threshold() -> None:
    confidences, correct = np.array([0.9, 0.5, 0.9, 0.7]), np.array([True, False, False, True])
    thresholds, kept, right = (found.tolist() for found in coverage_curve(confidences, correct))
    assert (thresholds, kept, right) == ([0.9, 0.7, 0.5], [2, 3, 4], [1, 2, 2])
    for t, k, r in zip(thresholds, kept, right, strict=True):
        assert (abstain(confidences, correct, t).kept, abstain(confidences, correct, t).right) == (k, r)


def clinc_like(n: int, seed: int) -> tuple[Any, Any]:
    """Ten intents and, as the last label, texts out of scope: few in training, and unlike one another.

    The classifier is sure of intents, and unsure of texts out of scope, which it mostly gives some intent.
    """
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(n) < 0.18, 10, rng.integers(0, 10, n))
    logits = rng.standard_normal((n, 11))
    logits[np.arange(n), labels] += np.where(labels == 10, 1.2, 6.0)
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), labels


def test_abstention_raises_the_recall_of_texts_out_of_scope() -> None:
    p, labels = clinc_like(3000, seed=0)
    confidences, predicted, true = p.max(axis=1), p.argmax(axis=1) == 10, labels == 10
    recall, _ = out_of_scope(confidences, predicted, true, 0.0)
    assert recall == pytest.approx((predicted & true).sum() / true.sum()) and 0.2 < recall < 0.45
    better, still = out_of_scope(confidences, predicted, true, 0.8)
    assert better > 0.85 and still > 0.75
    thresholds = out_of_scope_thresholds(confidences, predicted)
    curve = [out_of_scope(confidences, predicted, true, t)[0] for t in thresholds.tolist()]
    assert curve[0] == recall and curve[-1] == 1 and sorted(curve) == curve and len(thresholds) <= 1001

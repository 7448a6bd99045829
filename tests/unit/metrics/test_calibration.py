"""Calibration against independent optimizers, scikit-learn, and what must hold for any probabilities."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax as scipy_log_softmax
from sklearn.metrics import brier_score_loss, log_loss

from llm_cls.metrics.calibration import Scaling, choose, fit, logs, no_scaling, quality
from llm_cls.metrics.evaluation import log_softmax
from llm_cls.metrics.statistics import reliability
from tests.unit.reporting.calibrated_runs import draw


def loss(log_p: Any, labels: Any, temperature: float, biases: Any = 0.0) -> float:
    return -float(scipy_log_softmax(log_p / temperature + biases, axis=1)[np.arange(len(labels)), labels].mean())


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_is_that_of_another_optimizer(sharpness: float) -> None:
    p, labels = draw(800, sharpness, seed=3)
    found = fit(logs(p), labels, "temperature")
    other = minimize_scalar(
        lambda t: loss(logs(p), labels, t), bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9}
    )
    assert found.temperature == pytest.approx(other.x, rel=1e-5) and not any(found.biases)
    assert found.temperature == pytest.approx(sharpness, rel=0.15), "the labels were drawn with this one"


def test_biases_are_at_the_minimum_of_the_penalized_loss() -> None:
    """It is convex: where every direction goes up, there is no lower place."""
    p, labels = draw(300, 2.0, seed=4)
    shifted = logs(p) + np.array([1.5, 0, 0, -1.0])
    found = fit(shifted, labels, "temperature_and_bias")

    def penalized(t: float, b: Any) -> float:
        return loss(shifted, labels, t, b) + float(np.square(b).sum()) / (2 * len(labels))

    biases = np.array(found.biases)
    best = penalized(found.temperature, biases)
    assert best < penalized(found.temperature, np.zeros(4)) - 0.01 and biases.sum() == pytest.approx(0, abs=1e-9)
    for step in np.vstack([np.eye(4), -np.eye(4)]) * 1e-3:
        assert penalized(found.temperature, biases + step) > best
    assert min(penalized(found.temperature * f, biases) for f in (0.999, 1.001)) > best


def test_a_label_without_texts_has_a_finite_bias() -> None:
    p, labels = draw(200, 2.0, seed=5)
    found = fit(logs(p)[labels != 3], labels[labels != 3], "temperature_and_bias")
    assert np.isfinite(found.biases).all() and found.biases[3] < 0


def test_quality_is_that_of_scikit_learn() -> None:
    p, labels = draw(400, 2.5, seed=6)
    found = quality(logs(p), labels)
    assert found.brier[0] == pytest.approx(brier_score_loss(labels, p, labels=range(4), scale_by_half=False))
    assert found.log_loss[0] == pytest.approx(log_loss(labels, p, labels=range(4)))
    assert found.ece[0] == pytest.approx(reliability(p.max(axis=1), p.argmax(axis=1) == labels).ece)
    for value, low, high in (found.brier, found.log_loss):
        assert low < value < high
    spread = np.square(p - np.eye(4)[labels]).sum(axis=1).std() / len(labels) ** 0.5
    assert found.brier[2] - found.brier[1] == pytest.approx(2 * 1.96 * spread, rel=0.1), "that of a normal mean"


def test_the_method_is_the_one_that_helps() -> None:
    sharp, labels = draw(2000, 2.0, seed=7)
    assert choose(logs(sharp), labels).method == "temperature"
    shifted = logs(sharp) + np.array([2.0, 0, 0, -2.0])
    chosen = choose(shifted, labels)
    assert chosen.method == "temperature_and_bias"
    assert chosen.log_loss["temperature_and_bias"] < chosen.log_loss["temperature"] < chosen.log_loss["none"]
    assert choose(shifted, labels, "none").method == "none"
    right = np.eye(4)[labels] * 0.9 + 0.025
    found = choose(logs(right), labels)
    assert found.method == "none" and "every val text is right" in found.reason
    assert fit(logs(right), labels, "temperature").identity, "the loss would fall for ever"


def test_held_out_texts_do_not_change_their_own_calibration() -> None:
    p, labels = draw(100, 2.0, seed=8)
    before = choose(logs(p), labels, "temperature").held_out
    folds = np.random.default_rng(0).permutation(100) % 5
    for fold in range(5):
        scaling = fit(logs(p)[folds != fold], labels[folds != fold], "temperature")
        assert np.array_equal(before[folds == fold], scaling.apply(logs(p)[folds == fold]))


log_rows = arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(2, 5)), elements=st.floats(-700, 0)).map(
    lambda logits: log_softmax(logits)
)


@given(log_rows, st.floats(0.05, 20))
@settings(max_examples=100, deadline=None)
def test_a_temperature_keeps_the_most_probable_label(log_p: Any, temperature: float) -> None:
    found = Scaling(temperature, (0.0,) * log_p.shape[1]).apply(log_p)
    rows = np.arange(len(log_p))
    assert np.array_equal(found[rows, log_p.argmax(axis=1)], found.max(axis=1))
    assert np.exp(found).sum(axis=1) == pytest.approx(1)


@given(log_rows)
@settings(max_examples=50, deadline=None)
def test_no_scaling_changes_no_bit(log_p: Any) -> None:
    assert no_scaling(log_p.shape[1]).apply(log_p).tobytes() == log_p.tobytes()


def test_probabilities_of_zero_stay_finite() -> None:
    p, labels = np.array([[1.0, 0.0], [0.6, 0.4], [0.0, 1.0]]), np.array([1, 0, 1])
    assert np.isfinite(quality(logs(p), labels).log_loss).all()
    assert 1 < fit(logs(p), labels, "temperature").temperature <= 20

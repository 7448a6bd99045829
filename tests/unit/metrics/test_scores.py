"""The scores against scikit-learn with all labels of the data."""

import math
import warnings
from dataclasses import asdict
from typing import get_args

import numpy as np
import pytest
from sklearn import metrics

from llm_cls.config.fields import MonitorName
from llm_cls.metrics.evaluation import evaluate
from llm_cls.metrics.scores import METRICS, SCORES, confusion_matrix, macro_f1, per_class, scores
from llm_cls.metrics.selection import MONITORS

N_LABELS = 5
RNG = np.random.default_rng(0)
CASES = {
    "usual": (RNG.integers(0, N_LABELS, 200), RNG.integers(0, N_LABELS, 200)),
    "a label that never occurs": (RNG.integers(0, N_LABELS - 1, 50), RNG.integers(0, N_LABELS, 50)),
    "a label in neither": (RNG.integers(0, N_LABELS - 1, 50), RNG.integers(0, N_LABELS - 1, 50)),
    "one label predicted": (RNG.integers(0, N_LABELS, 50), np.zeros(50, dtype=np.int64)),
    "all right": (np.arange(N_LABELS), np.arange(N_LABELS)),
    "all wrong": (np.arange(N_LABELS), (np.arange(N_LABELS) + 1) % N_LABELS),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_agree_with_sklearn(case: str) -> None:
    labels, predictions = CASES[case]
    confusion = confusion_matrix(labels, predictions, N_LABELS)
    assert confusion.dtype == np.int64
    assert (confusion == metrics.confusion_matrix(labels, predictions, labels=range(N_LABELS))).all()
    expected = metrics.precision_recall_fscore_support(labels, predictions, labels=range(N_LABELS), zero_division=0)
    ours = per_class(confusion)
    for mine, theirs in zip((ours.precision, ours.recall, ours.f1, ours.support), expected, strict=True):
        assert mine == pytest.approx(theirs)
    total = scores(confusion)
    assert total.accuracy == pytest.approx(metrics.accuracy_score(labels, predictions))
    assert [total.precision, total.recall, total.f1] == pytest.approx([column.mean() for column in expected[:3]])


def test_macro_f1_of_many_matrices_at_once() -> None:
    confusions = np.random.default_rng(1).integers(0, 9, (2, 3, N_LABELS, N_LABELS))
    expected = [[scores(confusion).f1 for confusion in row] for row in confusions]
    assert macro_f1(confusions) == pytest.approx(np.array(expected))


def test_scores_without_texts_are_zero_and_named_as_the_metrics() -> None:
    assert asdict(scores(np.zeros((3, 3), dtype=np.int64))) == dict.fromkeys(METRICS, 0.0)


@pytest.mark.parametrize("n_labels", [2, 5, 150])
@pytest.mark.parametrize("quality", [0.0, 0.6, 1.0])
def test_monitored_scores_are_scikit_learns(n_labels: int, quality: float) -> None:
    rng = np.random.default_rng(n_labels)
    labels = np.minimum(rng.geometric(0.3, 400) - 1, n_labels - 1)  # few texts of most labels, none of some
    predictions = np.where(rng.random(400) < quality, labels, rng.integers(0, n_labels, 400))
    confusion = confusion_matrix(labels, predictions, n_labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of labels that are predicted but do not occur
        expected = {
            "accuracy": metrics.accuracy_score(labels, predictions),
            "balanced_accuracy": metrics.balanced_accuracy_score(labels, predictions),
            "f1": metrics.f1_score(labels, predictions, labels=range(n_labels), average="macro", zero_division=0),
            "weighted_f1": metrics.f1_score(labels, predictions, average="weighted", zero_division=0),
            "mcc": metrics.matthews_corrcoef(labels, predictions),
        }
    assert SCORES.keys() == expected.keys()
    for name, score in SCORES.items():
        assert float(score(confusion)) == pytest.approx(expected[name], abs=1e-12), name
        many = score(np.stack([confusion, np.diag(np.arange(1, n_labels + 1)), confusion]))
        assert many.shape == (3,) and many[0] == many[2] == pytest.approx(expected[name], abs=1e-12)
        assert many[1] == pytest.approx(1.0), name


@pytest.mark.parametrize("name", SCORES)
def test_a_single_predicted_label_and_no_text_give_finite_scores(name: str) -> None:
    confusion = confusion_matrix(np.array([0, 1, 1, 2]), np.zeros(4, np.int64), 3)
    assert math.isfinite(SCORES[name](confusion)) and float(SCORES[name](np.zeros((3, 3), np.int64))) == 0.0
    if name == "mcc":
        assert SCORES[name](confusion) == metrics.matthews_corrcoef([0, 1, 1, 2], [0, 0, 0, 0]) == 0.0


def test_every_monitor_is_a_choice_and_names_a_figure() -> None:
    assert tuple(MONITORS) == get_args(MonitorName) and set(MONITORS) == {*SCORES, "loss"}
    found = evaluate(np.array([[2.0, 0], [0, 1], [1, 0]], np.float32), np.array([0, 1, 1]))
    for monitor in MONITORS.values():
        figures = found.figures(monitor.name)
        assert figures[monitor.name] == found.value(monitor.name)
        assert list(figures)[:5] == ["loss", *METRICS] and len(figures) == 5 + (monitor.name not in list(figures)[:5])
        assert monitor.improves(found.value(monitor.name), monitor.worst)
        assert not monitor.improves(float("nan"), 0.5) and not monitor.improves(0.5, 0.5)
    assert found.losses.mean() == pytest.approx(found.loss, rel=1e-12)
    assert MONITORS["loss"].improves(0.4, 0.5) and not MONITORS["loss"].improves(0.6, 0.5)
    assert MONITORS["mcc"].improves(0.6, 0.5) and MONITORS["loss"].on_test == "f1" and MONITORS["mcc"].on_test == "mcc"

"""The scores against scikit-learn with all labels of the data."""

from dataclasses import asdict

import numpy as np
import pytest
from sklearn import metrics

from llm_cls.metrics.scores import METRICS, confusion_matrix, macro_f1, per_class, scores

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

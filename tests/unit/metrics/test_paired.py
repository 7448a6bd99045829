"""The paired permutation test, compared with SciPy; how often it errs is simulated."""

import numpy as np
import pytest
from scipy import stats

from llm_cls.metrics.paired import has_larger_loss, is_worse
from llm_cls.metrics.scores import SCORES, confusion_matrix

N_LABELS = 9


def classifiers(random: np.random.Generator, n: int, *accuracies: float) -> list[np.ndarray]:
    """Labels, and predictions of so many right answers; a text that is hard for one is hard for the others."""
    labels = random.integers(0, N_LABELS, n)
    hard = random.uniform(size=n)
    found = [labels]
    for accuracy in accuracies:
        ease = np.argsort(hard + random.normal(0, 0.05, n))
        wrong = ease[round(accuracy * n) :]
        predictions = labels.copy()
        predictions[wrong] = (labels[wrong] + random.integers(1, N_LABELS, len(wrong))) % N_LABELS
        found.append(predictions)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_accuracy_agrees_with_the_exact_test_of_mcnemar(seed: int) -> None:
    """Of accuracies the test is that of McNemar: the texts that only one has right are heads or tails."""
    labels, own, other = classifiers(np.random.default_rng(seed), 400, 0.90, 0.93)
    only_own = int(((own == labels) & (other != labels)).sum())
    only_other = int(((own != labels) & (other == labels)).sum())
    exact = stats.binomtest(only_other, only_own + only_other, alternative="greater").pvalue
    assert 1e-4 < exact < 0.2
    arguments = labels, own, other, N_LABELS, SCORES["accuracy"]
    assert is_worse(*arguments, level=exact * 2) and not is_worse(*arguments, level=exact / 2)
    assert not is_worse(labels, other, own, N_LABELS, SCORES["accuracy"], level=0.5), "the better one"


@pytest.mark.parametrize("name", ["f1", "mcc"])
def test_scores_agree_with_the_permutation_test_of_scipy(name: str) -> None:
    labels, own, other = classifiers(np.random.default_rng(3), 200, 0.89, 0.92)

    def gap(a: np.ndarray, b: np.ndarray) -> float:
        first, second = (SCORES[name](confusion_matrix(labels, found, N_LABELS)) for found in (a, b))
        return float(second - first)

    found = stats.permutation_test(
        (own, other), gap, permutation_type="samples", alternative="greater", n_resamples=2000, vectorized=False,
        rng=np.random.default_rng(0),
    ).pvalue  # fmt: skip
    assert 0.001 < found < 0.2
    arguments = labels, own, other, N_LABELS, SCORES[name]
    assert is_worse(*arguments, level=found * 2) and not is_worse(*arguments, level=found / 2)


def test_losses_agree_with_the_permutation_test_of_scipy() -> None:
    random = np.random.default_rng(0)
    other = random.gamma(0.3, 1.0, 300)
    own = other + random.normal(0.03, 0.3, 300)
    found = stats.permutation_test(
        (own, other), lambda a, b, axis: (a - b).mean(axis), permutation_type="samples",
        alternative="greater", n_resamples=20_000, rng=random, vectorized=True,
    ).pvalue  # fmt: skip
    assert 0.001 < found < 0.2
    assert has_larger_loss(own, other, found * 2) and not has_larger_loss(own, other, found / 2)
    assert not has_larger_loss(other, own, 0.5)


def test_equal_answers_show_nothing() -> None:
    labels, own = classifiers(np.random.default_rng(0), 50, 0.5)
    assert not is_worse(labels, own, own, N_LABELS, SCORES["f1"], 0.99)
    assert not has_larger_loss(np.ones(50), np.ones(50), 0.99)


def test_a_clear_difference_shows_at_small_levels_and_with_many_labels() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 150, 1000)
    own, other = labels.copy(), labels.copy()
    own[:200] = (labels[:200] + 1) % 150
    other[900:] = (labels[900:] + 1) % 150
    assert is_worse(labels, own, other, 150, SCORES["f1"], 1e-3)
    assert not is_worse(labels, other, own, 150, SCORES["f1"], 1e-3)


def wrongly_ended(n_sweeps: int, alpha: float, corrected: bool, n_runs: int = 6, epochs: int = 6) -> int:
    """Simulated sweeps in which one run is found to be worse than the best of the others, all being equally good.

    The worst case: the run is compared with whichever of the others is best on these texts.
    """
    random = np.random.default_rng(1)
    level = alpha / ((n_runs - 1) * (epochs - 2)) if corrected else alpha
    ended = 0
    for _ in range(n_sweeps):
        labels = random.integers(0, N_LABELS, 300)
        hard = np.clip(random.normal(0.9, 0.15, 300), 0, 1)
        for _epoch in range(2, epochs):
            right = random.uniform(size=(n_runs, 300)) < hard
            wrong = (labels + random.integers(1, N_LABELS, (n_runs, 300))) % N_LABELS
            runs = np.where(right, labels, wrong)
            scores = [SCORES["f1"](confusion_matrix(labels, run, N_LABELS)) for run in runs]
            best = 1 + int(np.argmax(scores[1:]))
            if is_worse(labels, runs[0], runs[best], N_LABELS, SCORES["f1"], level):
                ended += 1
                break
    return ended


def test_one_of_the_best_is_rarely_taken_for_a_worse_one() -> None:
    n = 100
    most = int(stats.binom.ppf(0.999, n, 0.2))
    assert wrongly_ended(n, 0.2, corrected=True) <= most
    assert wrongly_ended(n, 0.2, corrected=False) > most, "without the correction it often is"

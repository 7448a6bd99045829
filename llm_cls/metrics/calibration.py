"""Calibration of probabilities after training: a temperature, and a bias for each label where it helps.

The calibrated log-probability of a label is ``log p / T + b``, normalised. A temperature keeps the most probable label
of every text (Guo et al., 2017); biases may change it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from llm_cls.metrics.evaluation import log_softmax
from llm_cls.metrics.scores import Floats
from llm_cls.metrics.statistics import Ints, draw_texts, percentile_ci95

Method = Literal["none", "temperature", "temperature_and_bias"]

FOLDS = 5
_LARGEST = 20.0  # a temperature, and the inverse of the smallest
_SMALLEST_P = float(np.nextafter(0.0, 1.0))
_AT_ONCE = 100  # resamples, which bounds the memory
N_RESAMPLES = 2000


@dataclass(frozen=True)
class Scaling:
    """A temperature and a bias for each label, which is 0 where none is fitted."""

    temperature: float
    biases: tuple[float, ...]

    @property
    def identity(self) -> bool:
        """Whether it changes nothing."""
        return self.temperature == 1 and not any(self.biases)

    def apply(self, log_probabilities: Floats) -> Floats:
        """The calibrated log-probabilities, shape ``(n, n_labels)``; bit for bit the same if it is the identity."""
        if self.identity or not len(log_probabilities):
            return log_probabilities
        return log_softmax(log_probabilities / self.temperature + np.asarray(self.biases))


def no_scaling(n_labels: int) -> Scaling:
    """The scaling that changes nothing."""
    return Scaling(1.0, (0.0,) * n_labels)


def logs(probabilities: Floats) -> Floats:
    """Log-probabilities; a probability that was rounded to 0 is the smallest number above it."""
    result: Floats = np.log(np.maximum(probabilities, _SMALLEST_P))
    return result


def fit(log_probabilities: Floats, labels: Ints, method: Method) -> Scaling:
    """The scaling with the least log loss.

    The loss is convex in ``1 / T`` and the biases. A temperature lies between 1/20 and 20. Where every text is right,
    the loss falls for ever with T, so that T stays 1. The biases have a standard normal prior: without it, that of a
    label that no text has would be minus infinity.

    Args:
        log_probabilities: Shape ``(n, n_labels)``.
        labels: Class indices, shape ``(n,)``.
        method: What is fitted.
    """
    n, n_labels = log_probabilities.shape
    rows = np.arange(n)
    if method == "none" or n_labels == 1 or not _determined(log_probabilities, labels):
        return no_scaling(n_labels)
    from scipy.optimize import minimize  # takes half a second

    with_bias = method == "temperature_and_bias"

    def loss(parameters: Floats) -> tuple[float, Floats]:
        biases = parameters[1:] if with_bias else np.zeros(n_labels)
        scaled = log_softmax(parameters[0] * log_probabilities + biases)
        residual = np.exp(scaled)
        residual[rows, labels] -= 1
        slope = float((residual * log_probabilities).sum()) / n
        value = -float(scaled[rows, labels].mean())
        if not with_bias:
            return value, np.array([slope])
        return value + float(biases @ biases) / (2 * n), np.append(slope, residual.sum(axis=0) / n + biases / n)

    bounds = [(1 / _LARGEST, _LARGEST)] + [(None, None)] * (n_labels if with_bias else 0)
    start = np.zeros(len(bounds))
    start[0] = 1.0
    options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    biases = found[1:] - found[1:].mean() if with_bias else np.zeros(n_labels)
    return Scaling(float(1 / found[0]), tuple(biases.tolist()))


def _determined(log_probabilities: Floats, labels: Ints) -> bool:
    """Whether the texts determine a temperature: some label is more probable than the true one."""
    true = log_probabilities[np.arange(len(labels)), labels]
    return bool((log_probabilities.max(axis=1) > true).any())


@dataclass(frozen=True)
class Choice:
    """The method chosen, and why.

    Attributes:
        method: The method.
        log_loss: Mean log loss of each method on texts that it was not fitted on.
        held_out: The log-probabilities that the method gives for texts that it was not fitted on.
        reason: In one sentence.
    """

    method: Method
    log_loss: dict[str, float]
    held_out: Floats
    reason: str


def choose(log_probabilities: Floats, labels: Ints, wanted: Literal["auto"] | Method = "auto", seed: int = 0) -> Choice:
    """Compares the methods by cross-validation.

    A temperature is chosen where its log loss is lower than without it; biases where theirs is lower than that by more
    than one standard error of the paired difference, because there are as many of them as labels.

    Args:
        log_probabilities: Shape ``(n, n_labels)``.
        labels: Class indices, shape ``(n,)``.
        wanted: "auto", or the method to use whatever the comparison says.
        seed: Of the folds.
    """
    n = len(labels)
    folds = np.random.default_rng(seed).permutation(n) % min(FOLDS, n)
    methods: tuple[Method, ...] = ("none", "temperature", "temperature_and_bias")
    held_out = {method: _cross_validated(log_probabilities, labels, method, folds) for method in methods}
    losses = {method: -found[np.arange(n), labels] for method, found in held_out.items()}
    means: dict[str, float] = {method: float(loss.mean()) for method, loss in losses.items()}
    if wanted != "auto":
        return Choice(wanted, means, held_out[wanted], f"method={wanted}")
    if not _determined(log_probabilities, labels):
        return Choice("none", means, held_out["none"], "every val text is right, so that no temperature is determined")
    method: Method = "temperature" if means["temperature"] < means["none"] else "none"
    gain = losses[method] - losses["temperature_and_bias"]
    if float(gain.mean()) > float(gain.std(ddof=1)) / n**0.5:
        method = "temperature_and_bias"
    figures = ", ".join(f"{name} {mean:.4f}" for name, mean in means.items())
    return Choice(method, means, held_out[method], f"cross-validated log loss on val: {figures}")


def _cross_validated(log_probabilities: Floats, labels: Ints, method: Method, folds: Ints) -> Floats:
    found = np.empty_like(log_probabilities)
    for fold in np.unique(folds):
        out = folds == fold
        if out.all():  # a single text
            return log_probabilities
        found[out] = fit(log_probabilities[~out], labels[~out], method).apply(log_probabilities[out])
    return found


@dataclass(frozen=True)
class Quality:
    """How good probabilities are; less is better. Each value with its 95 % interval.

    Attributes:
        ece: Expected calibration error over ten bins of confidence (``statistics.reliability``).
        brier: Mean squared distance from the true label's unit vector, between 0 and 2 (Brier, 1950).
        log_loss: Mean of ``-log p`` of the true label, in nats.
    """

    ece: tuple[float, float, float]
    brier: tuple[float, float, float]
    log_loss: tuple[float, float, float]


def quality(log_probabilities: Floats, labels: Ints, seed: int = 0) -> Quality:
    """Calibration error, Brier score and log loss with percentile intervals of the bootstrap over texts.

    That of the calibration error lies above it where it is small: resampling adds noise, which the error counts.
    """
    n = len(labels)
    rows = np.arange(n)
    p = np.exp(log_probabilities)
    confidences, correct = p.max(axis=1), p.argmax(axis=1) == labels
    brier = ((p - np.eye(p.shape[1])[labels]) ** 2).sum(axis=1)
    log_loss = -log_probabilities[rows, labels]
    bins = np.searchsorted(np.linspace(0, 1, 11)[1:-1], confidences)
    gaps = np.where(bins[:, None] == np.arange(10), (confidences - correct)[:, None], 0.0)
    columns = np.column_stack([gaps, brier, log_loss])

    def figures(means: Floats) -> Floats:
        return np.column_stack([np.abs(means[:, :10]).sum(axis=1), means[:, 10:]])

    value = figures(columns.mean(axis=0)[None])[0]
    resampled = resample(lambda draws: figures(draws @ columns / n), n, seed)
    found = [(float(value[i]), *percentile_ci95(resampled[:, i])) for i in range(3)]
    return Quality(*found)


def resample(statistic: Callable[[npt.NDArray[np.float64]], Floats], n: int, seed: int = 0) -> Floats:
    """A statistic of each bootstrap resample, in bounded memory.

    Args:
        statistic: Of how often each text is drawn, shape ``(n_resamples, n)``, to shape ``(n_resamples, ...)``.
        n: Number of texts.
        seed: Of the resampling.
    """
    parts = range(N_RESAMPLES // _AT_ONCE)
    return np.concatenate(
        [statistic(draw_texts(n, seed + part, _AT_ONCE).astype(np.float64)) for part in parts], axis=0
    )

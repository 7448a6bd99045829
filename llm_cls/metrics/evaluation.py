"""The evaluation of a split: from logits to scores."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_cls.metrics.scores import METRICS, SCORES, Scores, confusion_matrix, scores


@dataclass(frozen=True)
class Evaluation:
    """The predictions of a classifier for a split, and their scores.

    Attributes:
        probabilities: float64, shape ``(n, n_labels)``; NaN if any logit of the split is not finite.
        labels: Class indices, shape ``(n,)``.
        loss: Mean cross-entropy in nats; NaN if any logit is not finite.
        confusion: Counts, shape ``(n_labels, n_labels)``, rows true, columns predicted; None if any logit is
            not finite, because the argmax of NaNs is the first label and would look like a prediction.
        scores: Macro scores over all labels; None if ``confusion`` is None.
    """

    probabilities: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    loss: float
    confusion: npt.NDArray[np.int64] | None
    scores: Scores | None

    @property
    def finite(self) -> bool:
        """Whether all logits are finite."""
        return self.scores is not None

    @property
    def f1(self) -> float:
        """Macro F1; NaN if there are no scores."""
        return self.scores.f1 if self.scores is not None else float("nan")

    @property
    def predictions(self) -> npt.NDArray[np.int64]:
        """Class index of the most probable label of each text, shape ``(n,)``; undefined if not ``finite``."""
        best: npt.NDArray[np.int64] = np.argmax(self.probabilities, axis=1)
        return best

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """Cross-entropy of each text in nats, shape ``(n,)``; NaN if any logit is not finite."""
        tiny = np.finfo(np.float64).tiny
        own: npt.NDArray[np.float64] = -np.log(np.maximum(self.probabilities, tiny))[
            np.arange(len(self.labels)), self.labels
        ]
        return own

    def value(self, name: str) -> float:
        """The loss or one of ``scores.SCORES``; NaN if there are no scores."""
        if name == "loss":
            return self.loss
        if self.confusion is None:
            return float("nan")
        return float(getattr(self.scores, name) if name in METRICS else SCORES[name](self.confusion))

    def figures(self, monitor: str = "f1") -> dict[str, float | None]:
        """Loss and scores by name, as in the result of a run: the usual ones, and ``monitor`` where it is another."""
        found: dict[str, float | None] = {"loss": self.loss}
        found |= {name: getattr(self.scores, name, None) for name in METRICS}
        return found if monitor in found else found | {monitor: self.value(monitor)}

    @property
    def collapsed(self) -> bool:
        """Whether at least half of the labels that occur are never predicted, or the logits are not finite.

        A network that has learnt nothing predicts one label for all texts.
        """
        if self.confusion is None:
            return True
        occurring = self.confusion.sum(axis=1) > 0
        never = occurring & (self.confusion.sum(axis=0) == 0)
        return bool(2 * never.sum() >= occurring.sum())


def evaluate(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Evaluation:
    """Evaluates ``logits``, shape ``(n, n_labels)``, against the class indices ``labels``, shape ``(n,)``."""
    wide = logits.astype(np.float64)
    if not np.isfinite(wide).all():
        return Evaluation(np.full_like(wide, np.nan), labels, float("nan"), None, None)
    log_probabilities = log_softmax(wide)
    loss = -float(log_probabilities[np.arange(len(labels)), labels].mean())
    confusion = confusion_matrix(labels, np.argmax(wide, axis=1), wide.shape[1])
    return Evaluation(np.exp(log_probabilities), labels, loss, confusion, scores(confusion))


def log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logarithm of the softmax over the last axis. NumPy has none, and the report imports no torch."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result

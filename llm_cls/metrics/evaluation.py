"""From logits to scores: the one place where a split is judged."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_cls.metrics.scores import Scores, confusion_matrix, scores


@dataclass(frozen=True)
class Evaluation:
    """A split and what the classifier says of it.

    Attributes:
        probabilities: float64, shape ``(n, n_labels)``; NaN where the logits were not finite.
        labels: Class indices, shape ``(n,)``.
        loss: Mean cross-entropy; NaN where some logit was not finite.
        confusion: Counts, rows true, columns predicted; None where some logit was not finite, because
            the largest of NaNs is always the first label, which would look like a prediction.
        scores: Macro scores over all labels; None where ``confusion`` is.
    """

    probabilities: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    loss: float
    confusion: npt.NDArray[np.int64] | None
    scores: Scores | None

    @property
    def finite(self) -> bool:
        """Whether the classifier gave a number for every text."""
        return self.scores is not None

    @property
    def f1(self) -> float:
        """Macro F1, NaN where there is none."""
        return self.scores.f1 if self.scores is not None else float("nan")

    @property
    def predictions(self) -> npt.NDArray[np.int64]:
        """The most probable label of each text, shape ``(n,)``; meaningless where not finite."""
        best: npt.NDArray[np.int64] = np.argmax(self.probabilities, axis=1)
        return best

    def figures(self) -> dict[str, float | None]:
        """Loss and scores as ``metrics.json`` has them."""
        names = ("accuracy", "precision", "recall", "f1")
        return {"loss": self.loss} | {n: getattr(self.scores, n) if self.scores else None for n in names}

    @property
    def collapsed(self) -> bool:
        """Whether at least half of the labels that occur are never predicted, or nothing is.

        A network that learnt nothing gives all texts one label; one that forgot most gives a few.
        """
        if self.confusion is None:
            return True
        occurring = self.confusion.sum(axis=1) > 0
        never = occurring & (self.confusion.sum(axis=0) == 0)
        return bool(2 * never.sum() >= occurring.sum())


def evaluate(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Evaluation:
    """Judges ``logits``, shape ``(n, n_labels)``, by the class indices ``labels``, shape ``(n,)``."""
    wide = logits.astype(np.float64)
    if not np.isfinite(wide).all():
        return Evaluation(np.full_like(wide, np.nan), labels, float("nan"), None, None)
    log_probabilities = log_softmax(wide)
    loss = -float(log_probabilities[np.arange(len(labels)), labels].mean())
    confusion = confusion_matrix(labels, np.argmax(wide, axis=1), wide.shape[1])
    return Evaluation(np.exp(log_probabilities), labels, loss, confusion, scores(confusion))


def log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logarithm of the softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result

"""The rule by which the best of several results is selected."""

from collections.abc import Mapping
from dataclasses import dataclass

from llm_cls.metrics.percent import percent
from llm_cls.metrics.scores import SCORES


@dataclass(frozen=True)
class Monitor:
    """A figure of the val split by which epochs and runs are selected.

    Attributes:
        name: As in ``trainer.monitor`` and in the files of a run.
        title: As people write it within a sentence.
        larger_is_better: Whether more is better.
        lowest: The least value; None where there is no limit. Of those with one, the greatest is 1.
    """

    name: str
    title: str
    larger_is_better: bool = True
    lowest: float | None = 0.0

    @property
    def worst(self) -> float:
        """A value that every number improves."""
        return float("-inf") if self.larger_is_better else float("inf")

    def improves(self, value: float, best: float) -> bool:
        """Whether an epoch with ``value`` is better than the best one before it, which has ``best``.

        The first one stays the best on a tie, and NaN, the score of logits that are not finite, is never better.

        >>> f1 = MONITORS["f1"]
        >>> f1.improves(0.9, f1.worst), f1.improves(0.9, 0.9), f1.improves(float("nan"), 0.1)
        (True, False, False)
        """
        return value > best if self.larger_is_better else value < best

    def goodness(self, value: float) -> float:
        """``value`` with a sign that makes more better."""
        return value if self.larger_is_better else -value

    @property
    def on_test(self) -> str:
        """The score of test that is compared between runs: the same one, but F1 where the loss selects.

        A loss is no score of predicted labels, which are what a classifier is used for and all that a baseline has.
        """
        return self.name if self.name in SCORES else "f1"

    def show(self, value: float) -> str:
        """A value for people: scores in percent, a correlation as well, as in GLUE.

        >>> MONITORS["mcc"].show(0.9312), MONITORS["loss"].show(0.9312)
        ('93.12 %', '0.9312')
        """
        return f"{value:.4f}" if self.lowest is None else f"{percent(value)} %"


MONITORS: Mapping[str, Monitor] = {
    monitor.name: monitor
    for monitor in (
        Monitor("f1", "F1"),
        Monitor("accuracy", "accuracy"),
        Monitor("balanced_accuracy", "balanced accuracy"),
        Monitor("weighted_f1", "weighted F1"),
        Monitor("mcc", "MCC", lowest=-1.0),
        Monitor("loss", "loss", larger_is_better=False, lowest=None),
    )
}

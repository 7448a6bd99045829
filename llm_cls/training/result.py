"""From the evaluations of a run to the content of its result files."""

from collections.abc import Iterator, Sequence
from typing import Any

from llm_cls.data.corpus import Corpus
from llm_cls.files import finite
from llm_cls.metrics.evaluation import Evaluation
from llm_cls.metrics.scores import SCORES, per_class
from llm_cls.metrics.statistics import ci95
from llm_cls.runs.schema import SCHEMA, Durations, LabelScores, Metrics, Prediction, TestScores, ValScores
from llm_cls.training.recorder import RunRecorder


def prediction_lines(evaluation: Evaluation, corpus: Corpus, split: str) -> Iterator[Prediction]:
    """A line per text of a split, in the order of the corpus."""
    names = corpus.labels
    for text, p, best in zip(corpus.splits[split], evaluation.probabilities, evaluation.predictions, strict=True):
        title = {"title": text.title} if corpus.has_titles else {}
        yield Prediction(
            id=text.id,
            label=text.label,
            prediction=names[best] if evaluation.finite else None,
            probabilities=finite(dict(zip(names, p.tolist(), strict=True))),
            **title,
        )


def collect_metrics(
    recorder: RunRecorder, val: Evaluation, test: Evaluation, labels: Sequence[str], seconds: float
) -> Metrics:
    """The content of ``metrics.json``.

    Args:
        recorder: What happened in training.
        val: The val split, scored with the weights of the best epoch.
        test: The test split, likewise.
        labels: All labels, in the order of the class indices.
        seconds: Wall-clock time of the whole run.
    """
    per_label: dict[str, LabelScores | None] = dict.fromkeys(labels)
    interval: list[float] | None = None
    more: dict[str, Any] = {}  # what default runs do not have
    if test.confusion is not None:
        columns = per_class(test.confusion)
        per_label = {
            label: LabelScores(
                precision=float(columns.precision[i]),
                recall=float(columns.recall[i]),
                f1=float(columns.f1[i]),
                support=int(columns.support[i]),
            )
            for i, label in enumerate(labels)
        }
        interval = list(ci95(test.confusion))
        if (score := recorder.monitor.on_test) != "f1":
            more["monitor_ci95"] = list(ci95(test.confusion, SCORES[score]))
    epochs, monitor = recorder.history, recorder.monitor
    return Metrics(
        schema_version=SCHEMA,
        status=recorder.status,
        collapsed=val.collapsed,
        best_epoch=recorder.best_epoch,
        epochs_run=len(epochs),
        val=ValScores(**finite(val.figures(monitor.name)), n=len(val.labels)),
        test=TestScores(**finite(test.figures(monitor.name)), n=len(test.labels), f1_ci95=interval, **more),
        per_class=per_label,
        seconds=Durations(total=seconds, per_epoch=sum(epoch.seconds for epoch in epochs) / len(epochs)),
        tokens_per_second=sum(epoch.tokens_per_second or 0.0 for epoch in epochs) / len(epochs),
        peak_memory_gib=max(epoch.peak_memory_gib or 0.0 for epoch in epochs),
    )

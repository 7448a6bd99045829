"""From the evaluations of a run to the content of its result files."""

from collections.abc import Iterator, Sequence
from typing import Any

from llm_cls.data.corpus import Corpus, Text
from llm_cls.files import finite
from llm_cls.metrics.evaluation import Evaluation
from llm_cls.metrics.scores import SCORES, per_class
from llm_cls.metrics.selection import Monitor
from llm_cls.metrics.statistics import ci95
from llm_cls.runs.schema import SCHEMA, Durations, LabelScores, Metrics, Prediction, TestScores, ValScores
from llm_cls.training.recorder import RunRecorder

_KEPT_CHARACTERS = 2_000  # of each column: enough to see what a text is about


def prediction_lines(
    evaluation: Evaluation, corpus: Corpus, split: str, keep_texts: bool = True
) -> Iterator[Prediction]:
    """A line per text of a split, in the order of the corpus; the user's own texts are in it if ``keep_texts``."""
    names = corpus.labels
    own = corpus.own_columns is not None
    for text, p, best in zip(corpus.splits[split], evaluation.probabilities, evaluation.predictions, strict=True):
        shown: dict[str, Any] = {"title": text.title} if corpus.has_titles and (keep_texts or not own) else {}
        if own and keep_texts:
            shown["columns"] = {name: _beginning(value) for name, value in own_texts(corpus, text).items()}
        yield Prediction(
            id=text.id,
            label=text.label,
            prediction=names[best] if evaluation.finite else None,
            probabilities=finite(dict(zip(names, p.tolist(), strict=True))),
            **shown,
        )


def own_texts(corpus: Corpus, text: Text) -> dict[str, str]:
    """The columns of one of the user's own texts, by their names in the file."""
    values = {"title": text.title, "body": text.body}
    return {name: values[key] for key, name in (corpus.own_columns or {}).items()} | dict(text.columns)


def _beginning(value: str) -> str:
    return value if len(value) <= _KEPT_CHARACTERS else f"{value[:_KEPT_CHARACTERS]}…"


def collect_scores(
    evaluation: Evaluation, labels: Sequence[str], monitor: Monitor
) -> tuple[TestScores, dict[str, LabelScores | None]]:
    """The scores of a split with the interval of F1, and those of each label.

    Args:
        evaluation: The split, with at least one text.
        labels: All labels, in the order of the class indices.
        monitor: What selected the epoch of the run.
    """
    per_label: dict[str, LabelScores | None] = dict.fromkeys(labels)
    interval: list[float] | None = None
    more: dict[str, Any] = {}  # what runs that are selected by F1 do not have
    if evaluation.confusion is not None:
        columns = per_class(evaluation.confusion)
        per_label = {
            label: LabelScores(
                precision=float(columns.precision[i]),
                recall=float(columns.recall[i]),
                f1=float(columns.f1[i]),
                support=int(columns.support[i]),
            )
            for i, label in enumerate(labels)
        }
        interval = list(ci95(evaluation.confusion))
        if (score := monitor.on_test) != "f1":
            more["monitor_ci95"] = list(ci95(evaluation.confusion, SCORES[score]))
    figures = finite(evaluation.figures(monitor.name))
    return TestScores(**figures, n=len(evaluation.labels), f1_ci95=interval, **more), per_label


def collect_metrics(
    recorder: RunRecorder,
    val: Evaluation,
    test: Evaluation | None,
    labels: Sequence[str],
    seconds: float,
    test_seconds: float,
) -> Metrics:
    """The result of a run.

    Args:
        recorder: What happened in training.
        val: The val split, scored with the weights of the best epoch.
        test: The test split, likewise; None where there is none.
        labels: All labels, in the order of the class indices.
        seconds: Wall-clock time of the whole run.
        test_seconds: The part of it in which test was scored.
    """
    epochs, monitor = recorder.history, recorder.monitor
    none: dict[str, LabelScores | None] = dict.fromkeys(labels)
    test_scores, per_label = (None, none) if test is None else collect_scores(test, labels, monitor)
    durations: dict[str, float] = {} if test is None else {"test": test_seconds}
    return Metrics(
        schema_version=SCHEMA,
        status=recorder.status,
        collapsed=val.collapsed,
        best_epoch=recorder.best_epoch,
        epochs_run=len(epochs),
        val=ValScores(**finite(val.figures(monitor.name)), n=len(val.labels)),
        test=test_scores,
        per_class=per_label,
        seconds=Durations(total=seconds, per_epoch=sum(epoch.seconds for epoch in epochs) / len(epochs), **durations),
        tokens_per_second=sum(epoch.tokens_per_second or 0.0 for epoch in epochs) / len(epochs),
        peak_memory_gib=max(epoch.peak_memory_gib or 0.0 for epoch in epochs),
    )

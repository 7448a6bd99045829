"""What the winner gets right and wrong, and how far its confidence can be trusted."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_cls.metrics.scores import confusion_matrix, per_class
from llm_cls.metrics.statistics import Ints, reliability
from llm_cls.reporting.charts import figure, reliability_plot
from llm_cls.reporting.html import plots, rows_table, scrollable
from llm_cls.reporting.markup import Safe, japanese, join, tag
from llm_cls.reporting.predictions import Predictions
from llm_cls.reporting.runs import Run
from llm_cls.reporting.tables import Column

MAX_TEXTS = 100
_ARTICLE = "https://news.livedoor.com/article/detail/{}/"


def winner_section(run: Run, texts: Predictions) -> Safe:
    """Confusion matrix, figures of each label and calibration of one run."""
    confusion = confusion_matrix(texts.labels, texts.predictions, len(texts.names))
    columns = per_class(confusion)
    rows = [
        {"label": name, "precision": p, "recall": r, "f1": f, "support": s}
        for name, p, r, f, s in zip(
            texts.names, columns.precision.tolist(), columns.recall.tolist(), columns.f1.tolist(),
            columns.support.tolist(), strict=True,
        )
    ]  # fmt: skip
    table = rows_table("Per label", "Figures of each label on test.", (
        Column("label", "Label"), Column("precision", "Precision", "percent"), Column("recall", "Recall", "percent"),
        Column("f1", "F1", "percent"), Column("support", "Texts", "number"),
    ), rows)  # fmt: skip
    correct = texts.predictions == texts.labels
    found = reliability(_confidence(texts), correct)
    caption = (
        f"Expected calibration error {100 * found.ece:.2f} points over ten bins; numbers are texts. Points "
        "below the diagonal are overconfident: right less often than the probability says."
    )
    return join([
        tag("p", "Of the run ", tag("code", run.name), "."),
        tag("h3", "Confusion matrix"),
        _confusion_table(confusion, texts.names),
        tag("h3", "Per label"),
        table,
        tag("h3", "Calibration"),
        plots(figure(reliability_plot(found), caption)),
    ])  # fmt: skip


def _confusion_table(confusion: Ints, names: tuple[str, ...]) -> Safe:
    totals = np.maximum(1, confusion.sum(axis=1, keepdims=True))
    shades = np.ceil(4 * confusion / totals).astype(int)
    wrong_most = max(1, int((confusion - np.diag(np.diag(confusion))).max()))
    head = tag("tr", tag("th", "true \\ predicted", scope="col"), *(tag("th", japanese(n), scope="col") for n in names))
    body = []
    for i, name in enumerate(names):
        cells = []
        for j, count in enumerate(confusion[i].tolist()):
            shade = f"h{shades[i, j]}" if i == j else f"w{int(np.ceil(4 * count / wrong_most))}"
            cells.append(tag("td", count, class_=shade if count else "zero"))
        body.append(tag("tr", tag("th", japanese(name), scope="row"), *cells))
    note = "Rows are the true labels, columns the predictions; texts of the test split."
    table = tag("table", tag("thead", head), tag("tbody", *body), class_="confusion", aria_label="Confusion matrix")
    return scrollable("Confusion matrix", note, table)


def texts_section(texts: Predictions, is_livedoor: bool) -> Safe:
    """The misclassified texts, surest first, and the least certain ones."""
    confidence = _confidence(texts)
    wrong = np.flatnonzero(texts.predictions != texts.labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    unsure = np.argsort(confidence, kind="stable")[: MAX_TEXTS // 2]
    shown = wrong[:MAX_TEXTS]
    counted = f"{len(wrong):,} of {len(texts.ids):,} texts" + (
        f", the first {len(shown)} shown" if len(wrong) > len(shown) else ""
    )
    surest = f"{counted}; those the model was surest of come first."
    doubtful = "Right or wrong, by the probability of the prediction."
    return join([
        tag("h3", "Misclassified"),
        _texts_table("Misclassified texts", surest, texts, shown, is_livedoor),
        tag("h3", "Least certain"),
        _texts_table("Least certain texts", doubtful, texts, unsure, is_livedoor),
    ])  # fmt: skip


def _texts_table(title: str, note: str, texts: Predictions, chosen: Any, is_livedoor: bool) -> Safe:
    columns = (
        Column("title", "Text"),
        Column("label", "Label"),
        Column("prediction", "Prediction"),
        Column("confidence", "p\N{NO-BREAK SPACE}(%)", "percent"),
        Column("probabilities", "Most probable labels, and the true one"),
    )
    return rows_table(title, note, columns, [_text_row(texts, int(i), is_livedoor) for i in chosen])


def _text_row(texts: Predictions, i: int, is_livedoor: bool) -> Mapping[str, Any]:
    name = japanese(texts.titles[i] or texts.ids[i])
    number = re.search(r"-([0-9]{1,12})(\.txt)?$", texts.ids[i]) if is_livedoor else None
    link = tag("a", name, href=_ARTICLE.format(number[1]), rel="noopener noreferrer") if number else name
    p = texts.probabilities[i]
    ranked = [int(j) for j in np.argsort(-p, kind="stable")]
    listed = [j for place, j in enumerate(ranked) if (place < 3 and p[j] >= 0.0005) or j == texts.labels[i]]
    most = [f"{texts.names[j]} {100 * p[j]:.1f}\N{NO-BREAK SPACE}%" for j in listed]
    return {
        "title": tag("span", link),
        "label": texts.names[texts.labels[i]],
        "prediction": texts.names[texts.predictions[i]],
        "confidence": float(p[texts.predictions[i]]),
        "probabilities": tag("span", japanese(", ".join(most))),
    }


def _confidence(texts: Predictions) -> Any:
    """Probability of the predicted label, shape ``(n,)``."""
    return texts.probabilities[np.arange(len(texts.labels)), texts.predictions]

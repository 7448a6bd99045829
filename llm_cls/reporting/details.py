"""The sections on the winner as data: its predictions label by label and text by text, and its comparisons."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_cls.metrics.scores import Floats, confusion_matrix, per_class
from llm_cls.metrics.statistics import Reliability, reliability
from llm_cls.reporting.comparison import Comparison
from llm_cls.reporting.tables import Column, Table
from llm_cls.runs.predictions import Predictions

MAX_TEXTS = 100
_MOST_PAIRS = 20
_FITTING_LABELS = 12
_SHOWN_CHARACTERS = 200  # of a text; the page has more of it on demand
_KEPT_CHARACTERS = 10_000  # of a column, so that the page stays small whatever the texts
_ARTICLE = "https://news.livedoor.com/article/detail/{}/"
_TEXTS = (
    Column("text", "Text", "passages"),
    Column("label", "Label"),
    Column("prediction", "Prediction"),
    Column("confidence", "p\N{NO-BREAK SPACE}(%)", "percent"),
    Column("probabilities", "Most probable labels, and the true one"),
)


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix for the page.

    Attributes:
        names: The labels, in the order of rows and columns.
        rows: For each true label its name, and the count and the CSS class of each cell.
        is_large: Whether it has more labels than fit on a screen; they are then sorted by their errors.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[int, str], ...]], ...]
    is_large: bool

    @property
    def note(self) -> str:
        """What a reader needs to know."""
        more = " The labels with most errors, as true or as predicted label, come first." if self.is_large else ""
        return f"Rows are the true labels, columns the predictions; texts of the test split.{more}"


def confusion_of(texts: Predictions) -> Confusion:
    """The confusion matrix; shades of right cells are shares of the label, those of wrong ones of the worst cell."""
    counts, names = texts.confusion, texts.names
    if is_large := len(names) > _FITTING_LABELS:
        errors = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
        order = np.argsort(-errors, kind="stable")
        counts, names = counts[np.ix_(order, order)], tuple(names[i] for i in order)
    right = np.ceil(4 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))).astype(int)
    most = max(1, int((counts - np.diag(np.diag(counts))).max()))
    wrong = np.ceil(4 * counts / most).astype(int)
    rows = []
    for i, name in enumerate(names):
        shades = [f"h{right[i, j]}" if i == j else f"w{wrong[i, j]}" for j in range(len(names))]
        cells = zip(counts[i].tolist(), shades, strict=True)
        rows.append((name, tuple((count, shade if count else "zero") for count, shade in cells)))
    return Confusion(names, tuple(rows), is_large)


def confused_pairs_table(texts: Predictions) -> Table:
    """The most frequent errors: pairs of a true label and another one predicted instead."""
    counts = texts.confusion
    support = counts.sum(axis=1)
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_PAIRS]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[i, j]]
    columns = (
        Column("label", "True label"),
        Column("prediction", "Predicted"),
        Column("texts", "Texts", "number"),
        Column("share", "Of the true label's", "percent"),
        Column("back", "The other way", "number"),
    )
    rows = tuple(
        {
            "label": texts.names[i], "prediction": texts.names[j], "texts": int(wrong[i, j]),
            "share": float(wrong[i, j] / support[i]), "back": int(wrong[j, i]),
        }
        for i, j in pairs
    )  # fmt: skip
    n_pairs, n_errors = int((wrong > 0).sum()), int(wrong.sum())
    limit = f"; the {len(rows)} most frequent of {n_pairs:,}" if n_pairs > len(rows) else ""
    note = f"{n_errors:,} errors in {n_pairs:,} pair{'s' if n_pairs != 1 else ''} of labels{limit}."
    return Table("pairs", "Most confused pairs", note, columns, rows)


def per_label_table(texts: Predictions) -> Table:
    """Precision, recall and F1 of each label."""
    found = per_class(confusion_matrix(texts.labels, texts.predictions, len(texts.names)))
    columns = (
        Column("label", "Label"),
        Column("precision", "Precision", "percent"),
        Column("recall", "Recall", "percent"),
        Column("f1", "F1", "percent"),
        Column("support", "Texts", "number"),
    )
    values = (texts.names, *(getattr(found, column.key).tolist() for column in columns[1:]))
    keys = [column.key for column in columns]
    rows = tuple(dict(zip(keys, row, strict=True)) for row in zip(*values, strict=True))
    return Table("per_label", "Per label", "Scores of each label on test.", columns, rows)


def calibration_of(texts: Predictions) -> Reliability:
    """How well the probabilities of the predictions match their accuracy."""
    return reliability(_confidence(texts), texts.predictions == texts.labels)


def texts_tables(texts: Predictions, is_livedoor: bool) -> tuple[Table, Table]:
    """The misclassified texts, the most confident first, and the texts with the least confident predictions.

    Args:
        texts: The predictions of a run.
        is_livedoor: Whether the ids name articles of the livedoor corpus, which get a link.
    """
    confidence = _confidence(texts)
    wrong = np.flatnonzero(texts.predictions != texts.labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    uncertain = np.argsort(confidence, kind="stable")[: MAX_TEXTS // 2]
    limit = f", the first {MAX_TEXTS} shown" if len(wrong) > MAX_TEXTS else ""
    note = f"{len(wrong):,} of {len(texts.ids):,} texts{limit}; the most confident predictions come first."
    first = tuple(_text_row(texts, i, is_livedoor) for i in wrong[:MAX_TEXTS].tolist())
    second = tuple(_text_row(texts, i, is_livedoor) for i in uncertain.tolist())
    doubtful = "Right or wrong, by the probability of the prediction."
    return (
        Table("misclassified", "Misclassified texts", note, _TEXTS, first),
        Table("uncertain", "Least certain texts", doubtful, _TEXTS, second),
    )


def _text_row(texts: Predictions, i: int, is_livedoor: bool) -> dict[str, Any]:
    number = re.search(r"-([0-9]{1,12})(\.txt)?$", texts.ids[i]) if is_livedoor else None
    p = texts.probabilities[i]
    ranked = np.argsort(-p, kind="stable").tolist()
    listed = [j for place, j in enumerate(ranked) if (place < 3 and p[j] >= 0.0005) or j == texts.labels[i]]
    return {
        "text": _passages(texts, i),
        "link": _ARTICLE.format(number[1]) if number else None,
        "label": texts.names[texts.labels[i]],
        "prediction": texts.names[texts.predictions[i]],
        "confidence": float(p[texts.predictions[i]]),
        "probabilities": ", ".join(f"{texts.names[j]} {100 * p[j]:.1f}\N{NO-BREAK SPACE}%" for j in listed),
    }


@dataclass(frozen=True)
class Passage:
    """A column of a text for the page.

    Attributes:
        column: Its name; empty where a text has a single one.
        head: The text, or its beginning.
        whole: The text where ``head`` is not all of it; of a very long one the first part. Otherwise empty.
    """

    column: str
    head: str
    whole: str = ""


def _passages(texts: Predictions, i: int) -> tuple[Passage, ...]:
    """The columns of a text as the run saw them; its title or id where the predictions have no texts."""
    columns = texts.columns[i] or {"": texts.titles[i] or texts.ids[i]}
    return tuple(_passage(name if len(columns) > 1 else "", text) for name, text in columns.items())


def _passage(column: str, text: str) -> Passage:
    if len(text) <= _SHOWN_CHARACTERS:
        return Passage(column, text)
    whole = text[:_KEPT_CHARACTERS]
    if len(text) > _KEPT_CHARACTERS:
        whole += f" … (the first {_KEPT_CHARACTERS:,} of {len(text):,} characters)"
    return Passage(column, text[:_SHOWN_CHARACTERS] + "…", whole)


def _confidence(texts: Predictions) -> Floats:
    """Probability of the predicted label, shape ``(n,)``."""
    confidence: Floats = texts.probabilities[np.arange(len(texts.labels)), texts.predictions]
    return confidence


def comparisons_table(comparisons: Sequence[Comparison], winner: str, score: str) -> Table:
    """The winner against each other setting, by the ``score`` of this title; ``comparisons`` is not empty."""
    columns = (
        Column("other", "Winner against"),
        Column("difference", "Difference", "points"),
        Column("low", "95 % low", "points"),
        Column("high", "95 % high", "points"),
        Column("p_bootstrap", "p (bootstrap)", "number"),
        Column("p_mcnemar", "p (McNemar)", "number"),
        Column("only_winner", "Only winner right", "number"),
        Column("only_other", "Only other right", "number"),
        Column("significant", "Significant"),
    )
    rows = tuple(
        {
            "other": pair.other, "difference": pair.difference, "low": pair.interval[0], "high": pair.interval[1],
            "p_bootstrap": float(f"{pair.p_bootstrap:.2g}"), "p_mcnemar": float(f"{pair.p_mcnemar:.2g}"),
            "only_winner": pair.only_winner, "only_other": pair.only_other, "significant": _significance(pair),
        }
        for pair in comparisons
    )  # fmt: skip
    n_texts = {pair.n_texts for pair in comparisons}  # they differ where a setting lacks a fold
    texts = " to ".join(f"{n:,}" for n in sorted({min(n_texts), max(n_texts)}))
    note = (
        f"Test {score} of the winner ({winner}) minus that of another setting, in points, on the same {texts} texts. "
        "Each setting is named by what differs from the winner. p-values are Holm-corrected over "
        f"{len(rows)} pair{'s' if len(rows) > 1 else ''}. Significant: the bootstrap p is below 0.05 and, where both "
        "sides have several runs, the difference is more than twice its standard error over them."
    )
    return Table("comparisons", "Comparisons", note, columns, rows)


def _significance(pair: Comparison) -> str:
    if not pair.significant:
        return "no"
    return "yes" if pair.exceeds_run_error else "on these runs only"

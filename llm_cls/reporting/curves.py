"""The curves of a calibrated run: coverage against accuracy, and the label for texts that are out of scope."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llm_cls.files import write_text
from llm_cls.metrics import decisions
from llm_cls.reporting.calibration import Split
from llm_cls.reporting.drawing import Axis, Point, Series, draw, standalone
from llm_cls.reporting.export import to_csv
from llm_cls.reporting.tables import Column, Table
from llm_cls.runs import layout

_DRAWN = 200  # points of a curve


def write_curves(run: Path, splits: Sequence[Split], oos: int | None) -> list[Path]:
    """Writes each curve as CSV and as SVG to ``calibration/`` of the run.

    Args:
        run: The run directory.
        splits: Val and test.
        oos: Class index of the label for texts that are out of scope.

    Returns:
        The files.
    """
    written = _write(run, *_coverage(splits))
    if oos is not None:
        written += _write(run, *_out_of_scope(splits, oos))
    return written


def _coverage(splits: Sequence[Split]) -> tuple[Table, str]:
    rows, series = [], []
    for split in splits:
        thresholds, kept, right = decisions.coverage_curve(split.confidences, split.correct)
        n = len(split.labels)
        found = [
            {"split": split.name, "threshold": t, "coverage": k / n, "accuracy": r / k, "texts": k}
            for t, k, r in zip(thresholds.tolist(), kept.tolist(), right.tolist(), strict=True)
        ]
        rows += found
        points = [Point(100 * row["coverage"], 100 * row["accuracy"]) for row in _thinned(found)]
        series.append(Series(split.name, _named(points, split.name), marks=False))
    columns = (
        Column("split", "Split"),
        Column("threshold", "Threshold", "number"),
        Column("coverage", "Coverage", "number"),
        Column("accuracy", "Accuracy", "number"),
        Column("texts", "Texts", "number"),
    )
    low = min(point.y for one in series for point in one.points)
    x, y = Axis("labelled texts (%)", 0, 100), Axis("accuracy of these (%)", max(0.0, low - 2), 101)
    title = "Accuracy by coverage"
    plot = draw("coverage", title, "Accuracy of the most confident texts", "", series, x, y)
    return Table("coverage", title, "", columns, tuple(rows)), standalone(plot)


def _out_of_scope(splits: Sequence[Split], oos: int) -> tuple[Table, str]:
    rows, series = [], []
    for split in splits:
        predicted, true = split.predictions == oos, split.labels == oos
        found = []
        for t in decisions.out_of_scope_thresholds(split.confidences, predicted).tolist():
            recall, precision = decisions.out_of_scope(split.confidences, predicted, true, t)
            found.append({"split": split.name, "threshold": t, "recall": recall, "precision": precision})
        rows += found
        points = [Point(100 * row["recall"], 100 * row["precision"]) for row in _thinned(found)]
        series.append(Series(split.name, _named(points, split.name), marks=False))
    columns = (
        Column("split", "Split"),
        Column("threshold", "Threshold", "number"),
        Column("recall", "Recall", "number"),
        Column("precision", "Precision", "number"),
    )
    title = "Texts out of scope"
    x, y = Axis("recall (%)", 0, 100), Axis("precision (%)", 0, 108)
    plot = draw("oos", title, "Precision over recall; the first point is arg max alone", "", series, x, y)
    return Table("oos", title, "", columns, tuple(rows)), standalone(plot)


def _named(points: list[Point], name: str) -> list[Point]:
    """The points with the name of the curve at its last one: the file has no legend."""
    last = points[-1]
    return [*points[:-1], Point(last.x, last.y, note=name)]


def _thinned(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(_DRAWN, len(rows))).round().astype(int))
    return [rows[i] for i in chosen.tolist()]


def _write(run: Path, table: Table, svg: str) -> list[Path]:
    folder = run / layout.CURVES
    write_text(folder / f"{table.name}.csv", to_csv(table))
    write_text(folder / f"{table.name}.svg", svg)
    return [folder / f"{table.name}.csv", folder / f"{table.name}.svg"]

"""The evaluations of finished runs on other texts, as a table."""

from collections.abc import Sequence

from llm_cls.errors import ArtifactError
from llm_cls.reporting.runs import Run
from llm_cls.reporting.tables import Column, Table
from llm_cls.runs.evaluations import read_evaluations

_COLUMNS = (
    Column("file", "File"),
    Column("run", "Run"),
    Column("n", "Texts", "number"),
    Column("accuracy", "Accuracy", "percent"),
    Column("f1", "F1", "percent"),
    Column("low", "95 % low", "percent"),
    Column("high", "95 % high", "percent"),
    Column("not_scored", "Not scored", "number"),
)
_NOTE = "What llm_cls.evaluate found. Not scored are rows without a text, or with a label that the run does not know."


def evaluations_table(runs: Sequence[Run]) -> Table | None:
    """A row for each evaluation of each scored run; None where there is none."""
    rows, damaged = [], []
    for run in runs:
        if not run.scored or run.record is None:
            continue
        try:
            found = read_evaluations(run.path, run.record.run_id)
        except ArtifactError as error:  # the run itself is whole
            damaged.append(str(error).replace(str(run.path), run.name))
            continue
        for record in found:
            low, high = record.scores.f1_ci95 or (None, None)
            rows.append(
                {
                    "file": record.file.name, "run": run.name, "n": record.scores.n,
                    "accuracy": record.scores.accuracy, "f1": record.scores.f1, "low": low, "high": high,
                    "not_scored": record.rows - record.scores.n,
                }
            )  # fmt: skip
    if not rows and not damaged:
        return None
    return Table("evaluations", "Evaluations on other texts", " ".join([_NOTE, *damaged]), _COLUMNS, tuple(rows))

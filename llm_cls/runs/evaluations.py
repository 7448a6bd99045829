"""The evaluations of a finished run on other texts: a folder each, by default in ``evaluations/`` of the run.

They come after the run: its manifest does not list them. ``evaluation.json`` is written last and has the sha256 of the
predictions beside it.
"""

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from llm_cls.errors import ArtifactError, ConfigError
from llm_cls.files import remove, sha256_file
from llm_cls.runs import layout
from llm_cls.runs.calibration import SetsOfSplit
from llm_cls.runs.content import read_content, write_content, write_lines
from llm_cls.runs.schema import Count, FileContent, Fraction, LabelScores, Number, TestScores

_FIX = "Remove its folder, or evaluate again"


class EvaluatedFile(FileContent):
    """The file of an evaluation."""

    name: str
    sha256: str
    bytes: Count


class DecisionRecord(FileContent):
    """What a rule other than the most probable label does, where it was asked for.

    Attributes:
        rule: "policy", "cost", or the smallest confidence.
        none: The label of texts on which the classifier abstains.
        n: Scored texts.
        labelled: Those on which it does not abstain.
        right: Those of them whose label is right.
        coverage: Share of ``labelled`` in ``n``.
        accuracy: Share of ``right`` in ``labelled``; null where it always abstains.
        accuracy_ci95: Its exact interval.
        unknown: Texts with labels that the run does not know.
        unknown_none: Those of them on which it abstains.
    """

    rule: str
    none: str
    n: Count
    labelled: Count
    right: Count
    coverage: Fraction
    accuracy: Fraction | None
    accuracy_ci95: list[Fraction] | None
    unknown: Count
    unknown_none: Count


class EvaluatedSets(SetsOfSplit):
    """Size and coverage of the conformal sets, with the exact 95 % interval of the coverage.

    Attributes:
        alpha: The share of the texts whose set may miss the true label.
        level: The probability from which a label belongs to a set.
    """

    alpha: Fraction
    level: Fraction


class EvaluationRecord(FileContent):
    """``evaluation.json``: the scores of a run on one file.

    Attributes:
        schema_version: Of this file.
        run_id: Of the run.
        file: What was evaluated.
        rows: Rows of the file.
        unknown_labels: Labels that the run does not know, with their rows, which are not scored.
        without_text: Why other rows are not scored, with their number.
        absent_labels: Labels of the run that no scored row has; they count as 0 in macro averages.
        scores: Over the scored rows.
        per_class: The scores of each label.
        predictions_sha256: Of the predictions.
        created_at: When, in UTC.
        calibration: The sha256 of the calibration of the probabilities; null for those of the network.
        decision: What another rule than the most probable label does; ``scores`` are always those of that label.
        sets: The sets of labels, where they were asked for.
    """

    schema_version: int = Field(1, alias="schema")
    run_id: str
    file: EvaluatedFile
    rows: Count
    unknown_labels: dict[str, Count]
    without_text: dict[str, Count]
    absent_labels: list[str]
    scores: TestScores
    per_class: dict[str, LabelScores | None]
    predictions_sha256: str
    created_at: str
    calibration: str | None = None
    decision: DecisionRecord | None = None
    sets: EvaluatedSets | None = None


class EvaluatedText(FileContent):
    """A line of the predictions of an evaluation: a row of the file, whether it is ``scored`` or not.

    ``decision`` is there where another rule than the most probable label, the ``prediction``, was asked for, and
    ``label_set`` where sets were.
    """

    id: str
    label: str
    prediction: str | None
    probabilities: dict[str, Number] | None
    scored: bool
    error: str | None
    decision: str | None = None
    label_set: list[str] | None = None


def folder_name(file: Path, digest: str) -> str:
    """The default folder for the evaluation of a file: its name and the beginning of its sha256."""
    return f"{file.name.partition('.')[0] or file.name}-{digest[:8]}"


def check_folder(folder: Path) -> None:
    """Checks that an evaluation may be written to ``folder``.

    Raises:
        ConfigError: Something else is there.
    """
    if folder.is_dir():
        others = sorted({path.name for path in folder.iterdir()} - {layout.EVALUATION, layout.EVALUATED})
        if others:
            raise ConfigError(f"output={folder} holds {others[0]}, which is no evaluation. Give another folder")
    elif folder.exists():
        raise ConfigError(f"output={folder} is a file. Give a folder")


def write_evaluation(folder: Path, record: EvaluationRecord, texts: Iterable[EvaluatedText]) -> None:
    """Writes an evaluation; an earlier one is replaced. The digest in ``record`` is that of ``texts`` afterwards."""
    remove(folder / layout.EVALUATION)  # a kill in between leaves no contradiction
    write_lines(folder / layout.EVALUATED, texts)
    digest = sha256_file(folder / layout.EVALUATED)
    write_content(folder / layout.EVALUATION, record.model_copy(update={"predictions_sha256": digest}))


def read_evaluations(run: Path, run_id: str) -> list[EvaluationRecord]:
    """The evaluations in a run directory, in the order of their names.

    Raises:
        ArtifactError: One is damaged or of another run.
    """
    found = []
    for path in sorted((run / layout.EVALUATIONS).glob(f"*/{layout.EVALUATION}")):
        record = read_content(path, EvaluationRecord, _FIX)
        if record is not None:
            if record.run_id != run_id:
                raise ArtifactError(f"{path} belongs to run {record.run_id}, not to {run_id}. {_FIX}")
            found.append(record)
    return found

"""``calibration.json``: the calibration of a finished run and the decisions fitted on its val texts.

It comes after the run, so that the manifest of the run does not list it. Instead it has the sha256 of its own content
and of the predictions that it was fitted on.
"""

import json
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from llm_cls.errors import ArtifactError
from llm_cls.files import finite, sha256_file, sha256_json
from llm_cls.metrics.calibration import Method, Scaling
from llm_cls.runs import layout
from llm_cls.runs.content import plain, read_bytes, read_content, write_content
from llm_cls.runs.schema import Count, FileContent, Fraction, Number, RunRecord

SCHEMA = 1
_FIX = "Remove it, or run llm_cls.calibrate again"

Interval = Annotated[list[Number], Field(min_length=3, max_length=3)]  # value, lower and upper bound
Pair = Annotated[list[Fraction], Field(min_length=2, max_length=2)]


class QualityRecord(FileContent):
    """The quality of the probabilities of a split, each value with its 95 % interval."""

    ece: Interval
    brier: Interval
    log_loss: Interval


class BeforeAfter(FileContent):
    """The quality of a split without and with the calibration; of val by cross-validation."""

    n: Count
    before: QualityRecord
    after: QualityRecord


class Kept(FileContent):
    """Coverage and selective accuracy of a split, with the exact 95 % interval."""

    n: Count
    kept: Count
    right: Count
    coverage: Fraction
    accuracy: Fraction | None
    interval: Pair | None


class Policy(FileContent):
    """The threshold for a target accuracy; null where none was accepted."""

    target_accuracy: Fraction
    delta: Fraction
    threshold: Annotated[float, Field(ge=0)] | None
    guarantee: str
    val: Kept | None
    test: Kept | None
    target_kept_on_test: bool | None


class SetsOfSplit(FileContent):
    """Size and coverage of the conformal sets of a split, with the exact 95 % interval."""

    n: Count
    mean_size: Annotated[float, Field(ge=0)]
    empty: Count
    coverage: Fraction
    interval: Pair


class ConformalSets(FileContent):
    """Split-conformal sets: all labels with at least the probability ``level``."""

    alpha: Fraction
    level: Fraction
    guarantee: str
    val: SetsOfSplit
    test: SetsOfSplit | None


class Costs(FileContent):
    """The cost matrix, and what decisions cost per text: by arg max, and by least expected cost.

    Attributes:
        decisions: The labels, and the abstention if the matrix has a cost of it.
        matrix: A row for each label, with the cost of each decision.
        arg_max: Mean cost on val and on test of the most probable label.
        least: The same of the decision of least expected cost.
    """

    decisions: list[str]
    matrix: list[list[Annotated[float, Field(ge=0, le=1e12)]]]
    arg_max: dict[str, float]
    least: dict[str, float]


class FoundOutOfScope(FileContent):
    """Recall and precision of the label for texts that are out of scope, at a threshold; 0 is arg max alone."""

    threshold: Annotated[float, Field(ge=0)]
    recall: Fraction
    precision: Fraction


class OutOfScope(FileContent):
    """The label for texts that are out of scope, on test, or on val where there is no test split.

    Attributes:
        label: The label.
        arg_max: By arg max alone.
        best: With the threshold that has the best F1 of this label on val.
        policy: With the threshold of the policy, if there is one.
    """

    label: str
    arg_max: FoundOutOfScope
    best: FoundOutOfScope
    policy: FoundOutOfScope | None


class CalibrationRecord(FileContent):
    """``calibration.json``.

    Attributes:
        schema_version: Of this file.
        run_id: Of the run.
        labels: In the order of ``biases``.
        method: What is fitted.
        reason: Why this method.
        temperature: T of ``log p / T + b``.
        biases: b of each label.
        predictions: The sha256 of the predictions of val, on which it was fitted, and of test.
        scores: Of each split before and after.
        none: The label of texts on which the classifier abstains.
        policy: The threshold for a target accuracy.
        sets: The conformal sets.
        costs: The cost matrix.
        out_of_scope: The label for texts that are out of scope.
        versions: Of the software.
        created_at: When, in UTC.
        digest: The sha256 of all this, as canonical JSON.
    """

    schema_version: int = Field(SCHEMA, alias="schema")
    run_id: str
    labels: Annotated[list[str], Field(min_length=1)]
    method: Method
    reason: str
    temperature: Annotated[float, Field(ge=0.01, le=100)]
    biases: list[Annotated[float, Field(ge=-1e6, le=1e6)]]
    predictions: dict[str, str]
    scores: dict[str, BeforeAfter]
    none: str = "none"
    policy: Policy | None = None
    sets: ConformalSets | None = None
    costs: Costs | None = None
    out_of_scope: OutOfScope | None = None
    versions: dict[str, str | None]
    created_at: str
    digest: str = ""

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if len(self.biases) != len(self.labels):
            raise ValueError(f"biases must be {len(self.labels)}, got {len(self.biases)}")
        if self.costs is not None and [len(row) for row in self.costs.matrix] != [len(self.costs.decisions)] * len(
            self.labels
        ):
            raise ValueError("costs.matrix must have a row for each label and a column for each decision")
        return self

    @property
    def scaling(self) -> Scaling:
        """The calibration itself."""
        return Scaling(self.temperature, tuple(self.biases))


def write_calibration(run: Path, record: CalibrationRecord) -> CalibrationRecord:
    """Writes ``calibration.json``, atomically, and returns what it holds; an earlier one is replaced."""
    content = finite(plain(record))
    content.pop("digest", None)
    sealed = CalibrationRecord.model_validate({**content, "digest": sha256_json(content)})
    write_content(run / layout.CALIBRATION, sealed)
    return sealed


def read_calibration(run: Path, record: RunRecord) -> CalibrationRecord | None:
    """``calibration.json`` of a run; None where there is none.

    Raises:
        ArtifactError: It is damaged, of another run, or of other predictions.
    """
    path = run / layout.CALIBRATION
    found = read_content(path, CalibrationRecord, _FIX)
    if found is None:
        return None
    try:
        content = json.loads(read_bytes(path, _FIX) or b"{}")
        digest = sha256_json({key: value for key, value in content.items() if key != "digest"})
    except (ValueError, RecursionError):  # an unknown key may hold what JSON has no form for
        digest = ""
    if digest != found.digest:
        raise ArtifactError(f"{path} is damaged: its content does not have its sha256. {_FIX}")
    if found.run_id != record.run_id:
        raise ArtifactError(f"{path} belongs to run {found.run_id}, not to {record.run_id}. {_FIX}")
    if found.labels != record.data.labels:
        raise ArtifactError(f"{path} has other labels than {layout.RECORD}. {_FIX}")
    for split, digest in found.predictions.items():
        file = run / layout.PREDICTIONS / f"{split}.jsonl"
        if not file.is_file() or sha256_file(file) != digest:
            raise ArtifactError(
                f"{path} was fitted on other predictions than {layout.PREDICTIONS}/{split}.jsonl. {_FIX}"
            )
    return found

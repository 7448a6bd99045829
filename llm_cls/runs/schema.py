"""The content of every file of a run, one typed model each, used to write it and to read it.

Readers ignore keys that a later version adds. Values that are not finite are null (``files.finite``),
because JSON has no NaN.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    field_validator,
    model_validator,
)  # fmt: skip

from llm_cls.config.fields import MayHoldSecret
from llm_cls.metrics.scores import METRICS, SCORES
from llm_cls.metrics.selection import MONITORS, Monitor

SCHEMA = 3  # schema 1 had a different ``identity``; schemas 1 and 2 had no manifest of the run

Status = Literal["finished", "diverged", "pruned"]


Fraction = Annotated[float, Field(ge=0, le=1)]
Number = float | None  # null in the file where it is not finite
Count = Annotated[int, Field(ge=0, lt=2**63)]  # of any more, sums and means would overflow
Positive = Annotated[int, Field(ge=1, lt=2**63)]
_Correlation = Annotated[float, Field(ge=-1, le=1)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]


class FileContent(BaseModel):
    """Base class: values are checked strictly, unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True)


class Scores(FileContent):
    """The scores of a split; all of them are null where the logits were not finite."""

    loss: Number = None
    accuracy: Fraction | None
    precision: Fraction | None
    recall: Fraction | None
    f1: Fraction | None
    balanced_accuracy: Fraction | None = None  # this and the next two: only where trainer.monitor names them
    weighted_f1: Fraction | None = None
    mcc: _Correlation | None = None

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        given = [name for name in type(self).model_fields if name in SCORES and name in self.model_fields_set]
        names = [*METRICS, *(name for name in given if name not in METRICS)]
        if len({getattr(self, name) is None for name in names}) > 1:
            raise ValueError(f"{', '.join(names[:-1])} and {names[-1]} must all be numbers, or all be null")
        return self

    def value(self, name: str) -> float | None:
        """The figure that a monitor names."""
        found: float | None = getattr(self, name)
        return found


class ValScores(Scores):
    """The scores of the val split; ``n`` is its number of texts."""

    n: Count


class TestScores(ValScores):
    """The scores of the test split; ``monitor_ci95`` where runs are compared by another score than F1."""

    __test__ = False  # pytest must not collect it
    f1_ci95: Annotated[list[Fraction], Field(min_length=2, max_length=2)] | None
    monitor_ci95: Annotated[list[_Correlation], Field(min_length=2, max_length=2)] | None = None

    @model_validator(mode="after")
    def _f1_has_its_interval(self) -> Self:
        if (self.f1 is None) != (self.f1_ci95 is None):
            raise ValueError("f1 and f1_ci95 must both be numbers, or both be null")
        return self


class LabelScores(FileContent):
    """The test scores of one label; ``support`` is its number of test texts."""

    precision: Fraction
    recall: Fraction
    f1: Fraction
    support: Count


class Durations(FileContent):
    """Wall-clock seconds of a run; ``test`` is what scoring the test texts took with the final weights."""

    total: Seconds
    per_epoch: Seconds | None = None
    test: Seconds | None = None  # runs of earlier versions do not have it


class Metrics(FileContent):
    """The result of a run (``layout.METRICS``), written last, so that its existence means that the run is complete."""

    schema_version: int = Field(1, alias="schema")
    status: Status
    collapsed: bool
    best_epoch: Positive | None
    epochs_run: Positive
    val: ValScores
    test: TestScores | None  # null where the data has no test split
    per_class: dict[str, LabelScores | None] = Field(default_factory=dict)
    seconds: Durations
    tokens_per_second: Number = None
    peak_memory_gib: Number = None

    @model_validator(mode="after")
    def _only_a_diverged_run_has_no_scores(self) -> Self:
        if self.status != "diverged" and self.val.f1 is None:
            raise ValueError(f"status is {self.status}, but val.f1 is null")
        return self


class Epoch(FileContent):
    """A line of ``history.jsonl``."""

    epoch: Positive
    train_loss: Number = None
    val: Scores
    lr: Number = None
    seconds: Seconds
    tokens_per_second: Number = None
    peak_memory_gib: Number = None


class Prediction(FileContent):
    """A line of ``predictions/val.jsonl`` or ``predictions/test.jsonl``.

    ``title`` is there where the corpus has titles, ``columns`` where the texts are the user's own: the beginning of
    each of their columns, by its name.
    """

    id: str
    label: str
    prediction: str | None
    probabilities: dict[str, Number]
    title: str | None = None
    columns: dict[str, str] | None = None


class DataRecord(FileContent):
    """The ``data`` part of ``run.json``."""

    name: str
    digest: str
    n_train: Count
    n_val: Count
    n_test: Count
    labels: Annotated[list[str], Field(min_length=1)]
    warnings: list[str] = Field(default_factory=list)


class ModelRecord(FileContent):
    """The ``model`` part of ``run.json``; the counts are known once the network is built."""

    name: str | None = None
    revision: str | None = None
    parameters: Count | None = None
    trainable_parameters: Count | None = None


class RunRecord(FileContent):
    """``run.json``: what was run, on what, from which data and code."""

    schema_version: int = Field(1, alias="schema")
    run_id: str
    identity: dict[str, Any] | None = None
    overrides: list[MayHoldSecret] = Field(default_factory=list)
    git_commit: str | None = None
    versions: dict[str, str | None] = Field(default_factory=dict)
    data: DataRecord
    model: ModelRecord
    hardware: Any = None
    world_size: Positive = 1
    threads: Positive | None = None  # of torch on the CPU, and what its kernels use there: both change the last digits
    cpu_capability: str | None = None
    started_at: str | None = None
    finished_at: str | None = None

    @field_validator("identity")
    @classmethod
    def _states_the_epochs(cls, identity: dict[str, Any] | None) -> dict[str, Any] | None:
        if identity is not None:
            epochs = identity.get("trainer.max_epochs")
            if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
                raise ValueError(f"trainer.max_epochs must be a whole number >= 1, got {epochs!r}")
            if huge := [key for key, value in identity.items() if isinstance(value, int) and abs(value) >= 2**63]:
                raise ValueError(f"{huge[0]} is too large a number")
            if (monitor := identity.get("trainer.monitor", "f1")) not in list(MONITORS):
                raise ValueError(f"trainer.monitor must be one of {', '.join(MONITORS)}, got {monitor!r}")
        return identity

    @property
    def monitor(self) -> Monitor:
        """What selected the best epoch; runs from before there was a choice were selected on F1."""
        return MONITORS[(self.identity or {}).get("trainer.monitor", "f1")]

    @property
    def max_epochs(self) -> int | None:
        """Planned epochs; None where the file does not say."""
        return None if self.identity is None else int(self.identity["trainer.max_epochs"])


class Failure(FileContent):
    """``failed.json``: why a run of a sweep failed."""

    reason: MayHoldSecret
    exit_code: int


class Labels(RootModel[Annotated[list[str], Field(min_length=1)]]):
    """``model/labels.json``: the labels, in the order of the head's outputs."""

    model_config = ConfigDict(strict=True)

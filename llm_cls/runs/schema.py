"""The files of a run as they are read back: each has its shape here, and one that hasn't is an ``ArtifactError``.

What is missing is None, because a run may not be that far; what a later version adds is passed over.
"""

import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json
from typing_extensions import Self

from llm_cls.errors import ArtifactError

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Duration = Annotated[float, Field(ge=0)]
T = TypeVar("T", bound=BaseModel)


class Part(BaseModel):
    """Base of what is read back: values are checked, what a later version adds is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class Figures(Part):
    """The scores of a split; all of them are null where a run gave no numbers."""

    accuracy: Fraction | None
    precision: Fraction | None
    recall: Fraction | None
    f1: Fraction | None

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        if len({value is None for value in (self.accuracy, self.precision, self.recall, self.f1)}) > 1:
            raise ValueError("accuracy, precision, recall and f1 must all be numbers, or all be null")
        return self


class ValFigures(Figures):
    """The scores of the val split."""

    n: Count


class TestFigures(Figures):
    """The scores of the test split."""

    __test__ = False  # not a test, whatever its name begins with
    n: Count
    f1_ci95: Annotated[list[Fraction], Field(min_length=2, max_length=2)] | None

    @model_validator(mode="after")
    def _f1_has_its_interval(self) -> Self:
        if (self.f1 is None) != (self.f1_ci95 is None):
            raise ValueError("f1 and f1_ci95 must both be there, or both be null")
        return self


class Seconds(Part):
    """Wall-clock time of a run."""

    total: Duration


class Metrics(Part):
    """``metrics.json``."""

    status: Literal["finished", "diverged", "pruned"]
    collapsed: bool
    best_epoch: Positive | None
    epochs_run: Positive
    val: ValFigures
    test: TestFigures
    seconds: Seconds
    tokens_per_second: float | None = None
    peak_memory_gib: float | None = None

    @model_validator(mode="after")
    def _only_a_diverged_run_has_no_scores(self) -> Self:
        if self.status != "diverged" and self.val.f1 is None:
            raise ValueError(f"status is {self.status}, but val.f1 is null")
        return self


class Epoch(Part):
    """A line of ``history.jsonl``."""

    epoch: Positive
    val: Figures
    seconds: Duration


class Data(Part):
    """The ``data`` part of ``run.json``."""

    name: str
    digest: str
    n_train: Count
    n_val: Count
    n_test: Count
    labels: Annotated[list[str], Field(min_length=1)]


class Identity(Part):
    """What is read of the ``identity`` part of ``run.json``; all of it is compared elsewhere."""

    max_epochs: Annotated[Positive, Field(alias="trainer.max_epochs")]


class Record(Part):
    """``run.json``."""

    run_id: str
    data: Data
    model: dict[str, Any]
    identity: Identity | None = None
    git_commit: str | None = None
    versions: dict[str, str | None] = Field(default_factory=dict)
    overrides: list[str] = Field(default_factory=list)
    hardware: Any = None
    world_size: Positive = 1
    started_at: str | None = None
    finished_at: str | None = None


class Failure(Part):
    """``failed.json``: why a run of a sweep failed."""

    reason: str
    exit_code: int


@dataclass(frozen=True)
class RunFiles:
    """What a run directory tells of its run.

    Attributes:
        record: ``run.json``; None before the run has begun.
        history: ``history.jsonl``; empty before the end of the first epoch.
        metrics: ``metrics.json``; None while the run isn't complete.
    """

    record: Record | None
    history: list[Epoch]
    metrics: Metrics | None


def read_run_files(directory: Path) -> RunFiles:
    """What is in a run directory.

    Raises:
        ArtifactError: One of its files is damaged, or there is a result without its ``run.json``.
    """
    again = f"Restore it, or remove {directory} and start again"
    record = read_json(directory / "run.json", Record, again)
    history = read_lines(
        directory / "history.jsonl", Epoch, "Restore it, or remove it: only the learning curve is lost"
    )
    metrics = read_metrics(directory)
    if metrics is not None and record is None:
        raise ArtifactError(f"{directory / 'run.json'} is missing, but there is a metrics.json. {again}")
    return RunFiles(record, history, metrics)


def read_metrics(directory: Path) -> Metrics | None:
    """``metrics.json`` of a run; None while the run isn't complete.

    Raises:
        ArtifactError: The file is damaged.
    """
    return read_json(directory / "metrics.json", Metrics, "Restore it, or remove it and run again")


def read_json(path: Path, schema: type[T], fix: str) -> T | None:
    """The content of a JSON file; None where there is no such file.

    Raises:
        ArtifactError: The file can't be read or is not as ``schema`` says; the message ends with ``fix``.
    """
    content = _read(path, fix)
    return None if content is None else _parse(content, schema, str(path), fix)


def read_lines(path: Path, schema: type[T], fix: str) -> list[T]:
    """The lines of a JSON-lines file; none where there is no such file.

    Raises:
        ArtifactError: As ``read_json``; the message names the line.
    """
    lines = enumerate((_read(path, fix) or b"").split(b"\n"), start=1)
    return [_parse(line, schema, f"{path}, line {n},", fix) for n, line in lines if line.strip()]


def read_object(path: Path) -> dict[str, Any]:
    """All of a JSON object that ``read_json`` has found to be one."""
    content: dict[str, Any] = from_json(path.read_bytes())
    return content


def _read(path: Path, fix: str) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error.strerror}. {fix}") from None


def _parse(content: bytes, schema: type[T], where: str, fix: str) -> T:
    try:
        return schema.model_validate_json(content)
    except ValidationError as error:
        raise ArtifactError(f"{where} is damaged: {describe(error)}. {fix}") from None


def describe(error: ValidationError) -> str:
    """The first fault in one short line: key, what was expected, what was found."""
    fault = error.errors(include_url=False)[0]
    key = ".".join(map(str, fault["loc"]))
    if fault["type"] == "missing":
        return f"{key} is missing"
    if fault["type"] == "json_invalid":
        return fault["msg"]
    if fault["type"] == "value_error":  # of a validator above, whose input is the whole object
        return f"{key}: {fault['msg'].removeprefix('Value error, ')}".removeprefix(": ")
    wanted = fault["msg"].replace("Input should be", "must be")
    return f"{key} {wanted}, got {reprlib.repr(fault['input'])}".lstrip()

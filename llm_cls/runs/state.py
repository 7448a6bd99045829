"""How far a run is: the only state machine, used by runs, sweeps, status and the report.

planned -> running -> finished, diverged or pruned, and from running also -> interrupted or failed -> running. The state
is read from the files and the lock; a directory whose files contradict one another is damaged.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from llm_cls.errors import ArtifactError, ConfigError
from llm_cls.metrics.selection import MONITORS, Monitor
from llm_cls.runs import layout
from llm_cls.runs.content import read_content, read_lines
from llm_cls.runs.lock import is_locked
from llm_cls.runs.schema import Epoch, Failure, Metrics, RunRecord

StateName = Literal["planned", "running", "interrupted", "finished", "diverged", "pruned", "failed", "damaged"]


@dataclass(frozen=True)
class RunState:
    """The state of a run with what its files say.

    Attributes:
        name: The state.
        record: ``run.json``; None before the run has begun, or where it could not be read.
        history: ``history.jsonl``; empty before the end of the first epoch.
        metrics: Its result; None while the run is not complete.
        reason: Why it failed or is damaged, in one line.
        exit_code: The exit code of that failure.
    """

    name: StateName
    record: RunRecord | None = None
    history: Sequence[Epoch] = ()
    metrics: Metrics | None = None
    reason: str = ""
    exit_code: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether the run has a result."""
        return self.metrics is not None

    @property
    def epochs(self) -> int:
        """Epochs trained so far."""
        return self.metrics.epochs_run if self.metrics else len(self.history)

    @property
    def max_epochs(self) -> int | None:
        """Planned epochs; None before the run has begun."""
        planned = self.record.max_epochs if self.record else None
        return self.epochs if planned is None and self.metrics else planned

    @property
    def monitor(self) -> Monitor:
        """What selects the best epoch."""
        return self.record.monitor if self.record else MONITORS["f1"]

    @property
    def val_score(self) -> float | None:
        """Val figure of the best epoch so far, by ``monitor``; None before the first."""
        name = self.monitor.name
        if self.metrics:
            return self.metrics.val.value(name)
        values = (epoch.val.value(name) for epoch in self.history)
        return max((value for value in values if value is not None), key=self.monitor.goodness, default=None)

    @property
    def seconds(self) -> float:
        """Training time so far."""
        return self.metrics.seconds.total if self.metrics else sum(epoch.seconds for epoch in self.history)


class RunFiles(NamedTuple):
    """What is in a run directory; see ``RunState``."""

    record: RunRecord | None
    history: list[Epoch]
    metrics: Metrics | None


def read_files(directory: Path) -> RunFiles:
    """Reads the files of the run in ``directory``.

    Raises:
        ArtifactError: One of them is damaged, or they contradict one another.
    """
    record, metrics = read_result(directory)
    fix = "Restore it, or remove it: only the learning curve is lost"
    return RunFiles(record, read_lines(directory / layout.HISTORY, Epoch, fix), metrics)


def read_result(directory: Path) -> tuple[RunRecord | None, Metrics | None]:
    """Record and metrics of the run in ``directory``, whatever its learning curve looks like.

    Raises:
        ArtifactError: One of them is damaged, or they contradict one another.
    """
    record = read_content(directory / layout.RECORD, RunRecord, f"Restore it, or remove {directory} and start again")
    metrics = read_content(directory / layout.METRICS, Metrics, "Restore it, or remove it and run again")
    _check_consistent(directory, record, metrics)
    return record, metrics


def complete_result(run: Path) -> tuple[RunRecord, Metrics]:
    """Record and metrics of a complete run that the user has given as ``run=``.

    Raises:
        ConfigError: It is no folder.
        ArtifactError: The run is not complete, or one of its files is damaged.
    """
    if not run.is_dir():
        raise ConfigError(f"run={run} is not a folder. Give the run directory that training printed")
    record, metrics = read_result(run)
    if record is None or metrics is None:
        raise ArtifactError(f"run={run} is not a finished run: it has no {layout.METRICS}. Finish the training")
    return record, metrics


def read_state(directory: Path) -> RunState:
    """The state of the run in ``directory``; a damaged file is a state, not an error."""
    failure = None
    locked = is_locked(directory)  # before the files: its process may complete them and end in between
    try:
        files = read_files(directory)
        if files.metrics is None:
            fix = "Start the sweep again: it retries the run"
            failure = read_content(directory / layout.FAILURE, Failure, fix)
    except ArtifactError as error:
        if locked:  # another process may still complete what looks damaged now
            return RunState("running")
        return RunState("damaged", reason=str(error), exit_code=error.exit_code)
    if files.metrics is not None:
        return RunState(files.metrics.status, *files)
    if locked:
        return RunState("running", *files)
    if failure is not None:
        return RunState("failed", *files, failure.reason, failure.exit_code)
    return RunState("planned" if files.record is None else "interrupted", *files)


def _check_consistent(directory: Path, record: RunRecord | None, metrics: Metrics | None) -> None:
    """Compares the files of a complete run with one another."""
    if metrics is None:
        return
    if record is None:
        raise ArtifactError(
            f"{directory / layout.RECORD} is missing, but there is a {layout.METRICS}. "
            f"Restore it, or remove {directory} and start again"
        )
    name, score, test = record.monitor.name, record.monitor.on_test, metrics.test
    figures = {f"val.{name}": metrics.val.value(name)}
    if test is not None:
        figures |= {"test.f1": test.f1, f"test.{score}": test.value(score)}
    if metrics.status == "finished" and (key := next((key for key, value in figures.items() if value is None), None)):
        raise ArtifactError(
            f"{directory / layout.METRICS} is damaged: status is finished, but {key} is null. Run again"
        )
    n_test = 0 if test is None else test.n
    if metrics.status == "finished" and n_test != record.data.n_test:
        raise ArtifactError(
            f"{directory / layout.METRICS} has {n_test} test texts, {layout.RECORD} {record.data.n_test}: "
            "they are of different runs. Restore both, or run again"
        )


def find_run_directories(directory: Path) -> Iterator[Path]:
    """Directories below ``directory`` that hold files of a run, in the order of their names; links are not followed."""
    names = {layout.METRICS, layout.RECORD, layout.CONFIG, layout.FAILURE}
    for folder, subfolders, files in os.walk(directory):
        subfolders.sort()
        if names & set(files):
            subfolders.clear()
            yield Path(folder)

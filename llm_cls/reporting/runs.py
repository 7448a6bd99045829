"""Finding and reading run directories, whatever state they are in."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from llm_cls.errors import ArtifactError
from llm_cls.runs.schema import Failure, Metrics, Record, RunFiles, read_json, read_run_files
from llm_cls.runs.sweep import FAILED, is_locked

FILES = ("metrics.json", "run.json", "config.yaml", FAILED)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is ten times faster where it is built


@dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes:
        path: The directory.
        name: Its path below the directory of the report.
        state: "finished" (scored), or "diverged", "pruned", "running", "failed", "unfinished", "damaged",
            "duplicate", "other data" (listed, never scored).
        reason: Why it isn't scored, in one line; empty where it is.
        config: The flattened configuration, "section.key" to value; empty where it can't be read.
        record: ``run.json``, where it can be read.
        metrics: ``metrics.json``, where it is there and can be read.
    """

    path: Path
    name: str
    state: str
    reason: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    record: Record | None = None
    metrics: Metrics | None = None

    @property
    def scored(self) -> bool:
        """Whether its figures count."""
        return self.state == "finished"

    def put_aside(self, state: str, reason: str) -> "Run":
        """The same run, not scored."""
        return replace(self, state=state, reason=reason)


def read_runs(directory: Path) -> list[Run]:
    """All runs below ``directory``, sorted by path; a run that occurs twice counts once."""
    runs: list[Run] = []
    seen: dict[str, str] = {}
    for path in _run_directories(directory):
        run = _read_run(path, path.relative_to(directory).as_posix())
        if run.scored and run.record is not None:
            first = seen.setdefault(run.record.run_id, run.name)
            if first != run.name:
                run = run.put_aside("duplicate", f"same run_id as {first}")
        runs.append(run)
    return runs


def _run_directories(directory: Path) -> Iterator[Path]:
    """Directories that hold a run's files, in the order of their names; links are not followed."""
    for folder, subfolders, files in os.walk(directory):
        subfolders.sort()
        if any(name in files for name in FILES):
            subfolders.clear()
            yield Path(folder)


def _read_run(path: Path, name: str) -> Run:
    run = _without_result(Run(path, name, "unfinished"))
    try:
        run = replace(run, config=_read_config(path / "config.yaml"))
        found = read_run_files(path)
        run = replace(run, record=found.record)
        if found.metrics is None:
            return run
        _check(found)
        if not run.config:
            raise ArtifactError(f"{path / 'config.yaml'} is missing. Restore it, or remove {path}")
    except ArtifactError as error:
        if run.state == "running":  # another process may still write what is damaged now
            return run
        return run.put_aside("damaged", str(error).replace(f"{path}{os.sep}", ""))  # the table has the run's name
    metrics = found.metrics
    if metrics.status != "finished":
        best = "" if metrics.best_epoch is None else f", best epoch {metrics.best_epoch}"
        return replace(run, state=metrics.status, reason=f"after {metrics.epochs_run} epochs{best}", metrics=metrics)
    return replace(run, state="finished", reason="", metrics=metrics)


def _without_result(run: Run) -> Run:
    """``run`` as it stands without ``metrics.json``: in progress, failed, or left behind."""
    if is_locked(run.path):
        return run.put_aside("running", "in progress")
    try:
        failure = read_json(run.path / FAILED, Failure, "Start the sweep again")
    except ArtifactError:
        failure = None
    if failure is None:
        return run.put_aside("unfinished", "no metrics.json: interrupted, or running on another machine")
    return run.put_aside("failed", " ".join(failure.reason.split()))


def _read_config(path: Path) -> dict[str, Any]:
    """The flattened configuration; empty where there is no such file.

    Raises:
        ArtifactError: It can't be read.
    """
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
        if not isinstance(loaded, dict):
            raise ValueError("not a mapping")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {describe_error(error)}. Restore it, or remove its run") from None
    return dict(_flatten(loaded))


def _check(found: RunFiles) -> None:
    """Compares the files of a finished run with one another.

    Raises:
        ArtifactError: They contradict one another.
    """
    metrics, record = found.metrics, found.record
    if metrics is None or record is None or metrics.status != "finished":
        return
    if metrics.test.f1 is None:
        raise ArtifactError("metrics.json is damaged: status is finished, but test.f1 is null. Run again")
    if metrics.test.n != record.data.n_test:
        raise ArtifactError(
            f"metrics.json has {metrics.test.n} test texts, run.json {record.data.n_test}: "
            "they are of different runs. Restore both, or run again"
        )


def describe_error(error: Exception) -> str:
    """What is wrong with a file, in one line."""
    if isinstance(error, OSError) and error.filename:
        return f"{Path(error.filename).name}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

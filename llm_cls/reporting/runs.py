"""The runs of a report in any state."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llm_cls.errors import ArtifactError
from llm_cls.metrics.selection import MONITORS, Monitor
from llm_cls.runs import layout
from llm_cls.runs.config_file import read_values
from llm_cls.runs.content import flatten
from llm_cls.runs.directory import RunDirectory
from llm_cls.runs.identity import NEUTRAL, blank_unused
from llm_cls.runs.manifest import verify_files
from llm_cls.runs.predictions import check_scores
from llm_cls.runs.schema import Metrics, RunRecord, Scores
from llm_cls.runs.state import find_run_directories

_BY_LABEL = ("data.label_names", "loss.class_weights")  # mappings that are one value, whatever labels they have


@dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes:
        path: The directory.
        name: Its path below the directory of the report.
        state: "finished" (scored), or "diverged", "pruned", "running", "failed", "interrupted", "planned", "damaged",
            "duplicate", "other data" (listed, never scored).
        reason: Why it is not scored, in one line; empty where it is.
        config: The flattened configuration, "section.key" to value; empty where it could not be read.
        record: ``run.json``, where it could be read.
        metrics: Its result, where it is complete and could be read.
    """

    path: Path
    name: str
    state: str
    reason: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    record: RunRecord | None = None
    metrics: Metrics | None = None

    @property
    def scored(self) -> bool:
        """Whether its scores count."""
        return self.state == "finished"

    @property
    def monitor(self) -> Monitor:
        """What selected its epoch."""
        return self.record.monitor if self.record else MONITORS["f1"]

    def value(self, split: str, name: str) -> float:
        """A score of a scored run; NaN where it has no such split."""
        figures: Scores | None = getattr(self.metrics, split)
        return math.nan if figures is None else float(getattr(figures, name))

    def put_aside(self, state: str, reason: str) -> "Run":
        """The same run, not scored."""
        return replace(self, state=state, reason=reason)


def read_runs(directory: Path) -> list[Run]:
    """All runs below ``directory``, sorted by path; a run that occurs twice counts once."""
    runs: list[Run] = []
    seen: dict[str, str] = {}
    for path in find_run_directories(directory):
        run = _read_run(path, path.relative_to(directory).as_posix())
        if run.scored and run.record is not None:
            first = seen.setdefault(run.record.run_id, run.name)
            if first != run.name:
                run = run.put_aside("duplicate", f"same run_id as {first}")
        runs.append(run)
    return runs


def _read_run(path: Path, name: str) -> Run:
    state = RunDirectory(path).state
    run = Run(path, name, state.name, state.reason, {}, state.record, state.metrics)
    try:
        values = read_values(path / layout.CONFIG)
        if values:  # what an older run lacks had the effect of the neutral value
            run = replace(run, config=blank_unused({**NEUTRAL, **dict(flatten(values, whole=_BY_LABEL))}))
        if values is None and run.metrics is not None:
            raise ArtifactError(f"{path / layout.CONFIG} is missing. Restore it, or remove {path}")
        if run.scored and run.record is not None and run.metrics is not None:
            verify_files(path, run.record, with_model=False)  # the report reads no weights
            check_scores(path, "test" if run.metrics.test is not None else "val", run.record, run.metrics)
    except ArtifactError as error:
        if run.state != "running":  # another process may still complete what looks damaged now
            run = run.put_aside("damaged", str(error))
    return run.put_aside(run.state, _reason(run))


def _reason(run: Run) -> str:
    """Why a run has no scores, in one line; its own path is left out, because the table has its name."""
    if run.state in ("diverged", "pruned") and run.metrics is not None:
        best = "" if run.metrics.best_epoch is None else f", best epoch {run.metrics.best_epoch}"
        return f"after {run.metrics.epochs_run} epochs{best}"
    fixed = {
        "running": "in progress",
        "interrupted": f"no {layout.METRICS}: interrupted, or running on another machine",
        "planned": f"no {layout.RECORD}: it has not begun",
    }
    return fixed.get(run.state) or " ".join(run.reason.replace(f"{run.path}{os.sep}", "").split())


def describe_error(error: Exception) -> str:
    """What is wrong with a file, in one line."""
    if isinstance(error, OSError) and error.filename:
        return f"{Path(error.filename).name}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__

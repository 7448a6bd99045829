"""The runs of a sweep: which are planned, and how far each of them is.

The plan is a file. All else is read from the run directories, so several processes and machines can work on one sweep,
and a killed one leaves nothing to repair.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import field_validator

from llm_cls.config.fields import MayHoldSecret
from llm_cls.config.schema import Config
from llm_cls.errors import ConfigError, DataError
from llm_cls.files import sha256_json
from llm_cls.locks import BriefLock
from llm_cls.redaction import redact
from llm_cls.runs import layout
from llm_cls.runs.content import read_lines, write_lines
from llm_cls.runs.schema import FileContent
from llm_cls.runs.state import RunState, read_state

_LONGEST_NAME = 120  # bytes, of 255 that file systems allow; the rest is for temporary files
_UNSAFE = re.compile(r"[^\w.,=+@-]")


class Entry(FileContent):
    """One planned run: a line of ``sweep.jsonl``.

    Attributes:
        directory: Its folder, relative to that of the sweep.
        overrides: Its command line.
        swept: Those overrides in which the runs of the sweep differ.
    """

    directory: str
    overrides: list[MayHoldSecret]
    swept: list[MayHoldSecret]

    @field_validator("directory")
    @classmethod
    def _lies_in_the_sweep(cls, name: str) -> str:
        if not name or name.startswith(".") or _UNSAFE.search(name):
            raise ValueError(f"must be the name of a folder in that of the sweep, got {name!r}")
        return name

    def stored(self) -> "Entry":
        """The entry as the plan holds it: without secrets."""
        return Entry.model_validate(self.model_dump())


@dataclass(frozen=True)
class PlannedRun:
    """A run of the plan with its state."""

    entry: Entry
    state: RunState

    @property
    def is_permanent_failure(self) -> bool:
        """Whether a retry would fail in the same way, because the fault is in the configuration or the data."""
        return self.state.name == "failed" and self.state.exit_code in (ConfigError.exit_code, DataError.exit_code)


def directory_name(swept: Sequence[str]) -> str:
    """A folder name for the run with these overrides; those that differ in more than secrets get different names."""
    shown = list(map(redact, swept))
    name = ",".join(shown) or "run"
    safe = _UNSAFE.sub("_", name).encode()[:_LONGEST_NAME].decode(errors="ignore").lstrip(".")
    return safe if safe == name else f"{safe}-{sha256_json(shown)[:8]}"


def write_plan(directory: Path, entries: Sequence[Entry]) -> bool:
    """Adds ``entries`` to the plan and returns whether it changed; runs that have begun stay as they were planned."""

    def planned(known: Sequence[Entry]) -> list[Entry]:
        by_name = {entry.directory: entry for entry in known}
        for entry in (entry.stored() for entry in entries):
            if entry.directory not in by_name or not (directory / entry.directory / layout.RECORD).is_file():
                by_name[entry.directory] = entry
        return list(by_name.values())

    if planned(known := read_plan(directory)) == known:
        return False  # a sweep that is finished may be on a file system that cannot be written
    directory.mkdir(parents=True, exist_ok=True)
    with BriefLock(directory / f".{layout.PLAN}.lock"):
        write_lines(directory / layout.PLAN, planned(read_plan(directory)))
    return True


def is_sweep(directory: Path) -> bool:
    """Whether ``directory`` is the folder of a sweep."""
    return (directory / layout.PLAN).is_file()


def read_plan(directory: Path) -> list[Entry]:
    """The planned runs of a sweep, in their order; none where there is no sweep.

    Raises:
        ArtifactError: The plan is damaged; the message names the line.
    """
    fix = "Restore it, or remove it and start the sweep again: finished runs stay as they are"
    return read_lines(directory / layout.PLAN, Entry, fix)


def read_states(directory: Path) -> list[PlannedRun]:
    """Every planned run with its state; a damaged run affects no other.

    Raises:
        ArtifactError: The plan is damaged.
    """
    return [PlannedRun(entry, read_state(directory / entry.directory)) for entry in read_plan(directory)]


def join_sweep(config: Config, run: Path) -> tuple[Config, list[str]]:
    """``config`` with the W&B group and tags of a run of a sweep, and the planned command line of the run.

    The name of the sweep becomes the W&B group unless one is set; the swept overrides are added to the tags.
    """
    entry = next((entry for entry in read_plan(run.parent) if entry.directory == run.name), None)
    group = config.logger.group or run.parent.name
    tags = [*config.logger.tags, *(tag[:64] for tag in (entry.swept if entry else ()))]  # W&B allows 64 characters
    logger = config.logger.model_copy(update={"group": group, "tags": tags})
    return config.model_copy(update={"logger": logger}), list(entry.overrides) if entry else []


def progress_line(runs: Sequence[PlannedRun]) -> str:
    """How many runs are complete, and how long the others will take at the present rate."""
    counts = Counter(run.state.name for run in runs)
    done = sum(run.state.is_complete for run in runs)
    parts = [f"{done} of {len(runs)} runs are done"]
    parts += [f"{counts[name]} {name}" for name in ("running", "failed", "damaged", "interrupted") if counts[name]]
    if (seconds := remaining_seconds(runs)) is not None:
        parts.append(f"about {duration(seconds)} left")
    return ", ".join(parts)


def remaining_seconds(runs: Sequence[PlannedRun]) -> float | None:
    """Expected time until the last run ends, from the mean time of the complete ones; None if unknown."""
    states = [run.state for run in runs]
    complete = [state.seconds for state in states if state.is_complete and state.seconds > 0]
    left = [state for state in states if state.name in ("planned", "running", "interrupted")]
    if not complete or not left:
        return None
    mean = sum(complete) / len(complete)
    work = sum(max(0.0, 1 - state.epochs / (state.max_epochs or 1)) if state.epochs else 1.0 for state in left)
    return mean * work / max(1, sum(state.name == "running" for state in states))


def duration(seconds: float) -> str:
    """``seconds`` for people: "40 s", "12 min", "3 h 5 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"

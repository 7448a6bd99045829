"""What becomes of the runs of a sweep: which are planned, and how far each of them is.

The plan is a file, ``sweep.jsonl``; all else is read from the run directories themselves, so that several
processes and machines can work on one sweep, and a killed one leaves nothing to repair.
"""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import filelock
from pydantic import field_validator

from llm_cls.config.schema import Config
from llm_cls.errors import ArtifactError, ConfigError, DataError
from llm_cls.files import sha256_json, write_json, write_jsonl
from llm_cls.runs.schema import Failure, Part, read_json, read_lines, read_run_files

PLAN = "sweep.jsonl"
FAILED = "failed.json"
LOCK = ".lock"
COMPLETE = ("finished", "diverged", "pruned")
_LONGEST_NAME = 120  # bytes, of 255 that file systems take; the rest is for temporary files
_UNSAFE = re.compile(r"[^\w.,=+@-]")


@dataclass(frozen=True)
class Entry:
    """One planned run.

    Attributes:
        directory: Its folder, relative to the sweep's.
        overrides: Its command line.
        swept: Those overrides in which the runs of the sweep differ.
    """

    directory: str
    overrides: tuple[str, ...]
    swept: tuple[str, ...]


class _Line(Part):
    """An ``Entry`` in the plan."""

    directory: str
    overrides: list[str]
    swept: list[str]

    @field_validator("directory")
    @classmethod
    def _lies_in_the_sweep(cls, name: str) -> str:
        if not name or name.startswith(".") or _UNSAFE.search(name):
            raise ValueError(f"must be the name of a folder in that of the sweep, got {name!r}")
        return name


@dataclass(frozen=True)
class State:
    """How far a planned run is.

    Attributes:
        entry: The run.
        name: "planned", "running", "interrupted", "finished", "diverged", "pruned", "failed", or "damaged".
        epochs: Epochs trained so far.
        max_epochs: Epochs at most; None before it has begun.
        val_f1: Of the best epoch so far; None before the first.
        seconds: Training time so far.
        reason: Why it failed or is damaged, in one line.
        exit_code: With which it failed.
    """

    entry: Entry
    name: str
    epochs: int = 0
    max_epochs: int | None = None
    val_f1: float | None = None
    seconds: float = 0.0
    reason: str = ""
    exit_code: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether the run has a result."""
        return self.name in COMPLETE

    @property
    def is_hopeless(self) -> bool:
        """Whether trying again gives the same failure: its configuration or its data are at fault."""
        return self.name == "failed" and self.exit_code in (ConfigError.exit_code, DataError.exit_code)


def directory_name(swept: Sequence[str]) -> str:
    """A folder name for the run with these overrides; different ones never get the same name."""
    name = ",".join(swept) or "run"
    safe = _UNSAFE.sub("_", name).encode()[:_LONGEST_NAME].decode(errors="ignore").lstrip(".")
    return safe if safe == name else f"{safe}-{sha256_json(list(swept))[:8]}"


def write_plan(directory: Path, entries: Sequence[Entry]) -> bool:
    """Adds ``entries`` to the plan, if it lacks any; what has begun stays as it was planned."""
    directory.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(directory / f".{PLAN}.lock"):
        known = read_plan(directory)
        planned = {entry.directory: entry for entry in known}
        for entry in entries:
            if entry.directory not in planned or not (directory / entry.directory / "run.json").is_file():
                planned[entry.directory] = entry
        if list(planned.values()) == known:
            return False
        rows = [
            {"directory": e.directory, "overrides": list(e.overrides), "swept": list(e.swept)} for e in planned.values()
        ]
        write_jsonl(directory / PLAN, rows)
    return True


def read_plan(directory: Path) -> list[Entry]:
    """The planned runs of a sweep, in their order; none where there is no sweep.

    Raises:
        ArtifactError: The plan is damaged; the message names the line.
    """
    fix = "Restore it, or remove it and start the sweep again: finished runs stay as they are"
    lines = read_lines(directory / PLAN, _Line, fix)
    return [Entry(line.directory, tuple(line.overrides), tuple(line.swept)) for line in lines]


def read_states(directory: Path) -> list[State]:
    """The state of every planned run; one with a damaged file takes no other along.

    Raises:
        ArtifactError: The plan is damaged.
    """
    return [_state(directory / entry.directory, entry) for entry in read_plan(directory)]


def _state(run: Path, entry: Entry) -> State:
    try:
        found = read_run_files(run)
        failure = None
        if found.metrics is None:
            failure = read_json(run / FAILED, Failure, "Start the sweep again: it tries the run again")
    except ArtifactError as error:
        # What another process is at isn't judged: it may still write what is damaged now.
        if is_locked(run):
            return State(entry, "running")
        return State(entry, "damaged", reason=str(error), exit_code=error.exit_code)
    identity = found.record.identity if found.record else None
    if metrics := found.metrics:
        epochs = metrics.epochs_run
        planned = identity.max_epochs if identity else epochs
        return State(entry, metrics.status, epochs, planned, metrics.val.f1, metrics.seconds.total)
    name = "interrupted" if found.record else "planned"
    if is_locked(run):
        name, failure = "running", None
    elif failure:
        name = "failed"
    return State(
        entry,
        name,
        epochs=len(found.history),
        max_epochs=identity.max_epochs if identity else None,
        val_f1=max((epoch.val.f1 for epoch in found.history if epoch.val.f1 is not None), default=None),
        seconds=sum(epoch.seconds for epoch in found.history),
        reason=failure.reason if failure else "",
        exit_code=failure.exit_code if failure else 0,
    )


def is_locked(run: Path) -> bool:
    """Whether a living process holds a run directory; the lock of a process that died is free."""
    path = run / LOCK
    if not path.is_file():
        return False
    try:
        import fcntl  # not on Windows

        with path.open("rb") as file:  # shared, and let go at once: those who ask don't take one another for the holder
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except (ImportError, OSError):  # no such locks here
        return _is_held(path)


def _is_held(path: Path) -> bool:
    try:
        with filelock.FileLock(path, blocking=False):
            return False
    except filelock.Timeout:
        return True
    except OSError:
        return False


def record_failure(run: Path, reason: str, exit_code: int) -> None:
    """Writes down why a run of a sweep failed."""
    with suppress(FileNotFoundError):  # another process is at the run already, and has cleared up
        write_json(run / FAILED, {"reason": reason, "exit_code": exit_code})


def clear_failure(run: Path) -> None:
    """Forgets an earlier failure."""
    (run / FAILED).unlink(missing_ok=True)


def join_sweep(config: Config, run: Path) -> tuple[Config, list[str]]:
    """``config`` as that of a run of a sweep, and its command line as planned.

    The sweep becomes the W&B group, and what is swept become tags, unless they are set.
    """
    entry = next((entry for entry in read_plan(run.parent) if entry.directory == run.name), Entry(run.name, (), ()))
    group = config.logger.group or run.parent.name
    tags = [*config.logger.tags, *(tag[:64] for tag in entry.swept)]  # W&B takes 64 characters
    logger = config.logger.model_copy(update={"group": group, "tags": tags})
    return config.model_copy(update={"logger": logger}), list(entry.overrides)


def progress_line(states: Sequence[State]) -> str:
    """How many runs are over, and how long the others will take at the present pace."""
    counts = Counter(state.name for state in states)
    done = sum(state.is_complete for state in states)
    parts = [f"{done} of {len(states)} runs are done"]
    parts += [f"{counts[name]} {name}" for name in ("running", "failed", "damaged", "interrupted") if counts[name]]
    if (seconds := remaining_seconds(states)) is not None:
        parts.append(f"about {duration(seconds)} to go")
    return ", ".join(parts)


def remaining_seconds(states: Sequence[State]) -> float | None:
    """Expected time until the last run ends, from the mean time of those that are over; None if unknown."""
    over = [state.seconds for state in states if state.is_complete and state.seconds > 0]
    left = [state for state in states if state.name in ("planned", "running", "interrupted")]
    if not over or not left:
        return None
    mean = sum(over) / len(over)
    work = sum(max(0.0, 1 - state.epochs / (state.max_epochs or 1)) if state.epochs else 1.0 for state in left)
    return mean * work / max(1, sum(state.name == "running" for state in states))


def duration(seconds: float) -> str:
    """``seconds`` for people: "40 s", "12 min", "3 h 5 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"

"""What becomes of the runs of a sweep: which are planned, and how far each of them is.

The plan is a file, ``sweep.jsonl``; all else is read from the run directories themselves, so that several
processes and machines can work on one sweep, and a killed one leaves nothing to repair.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from llm_cls.config import Config
from llm_cls.errors import ConfigError, DataError
from llm_cls.files import read_jsonl, sha256_json, write_json, write_jsonl

PLAN = "sweep.jsonl"
FAILED = "failed.json"
LOCK = ".lock"
COMPLETE = ("finished", "diverged", "pruned")
_LONGEST_NAME = 120  # of 255 that file systems take; the rest is for temporary files


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


@dataclass(frozen=True)
class State:
    """How far a planned run is.

    Attributes:
        entry: The run.
        name: "planned", "running", "interrupted", "finished", "diverged", "pruned" or "failed".
        epochs: Epochs trained so far.
        max_epochs: Epochs at most; None before it has begun.
        val_f1: Of the best epoch so far; None before the first.
        seconds: Training time so far.
        reason: Why it failed, in one line.
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
    safe = re.sub(r"[^\w.,=+@-]", "_", name)[:_LONGEST_NAME].lstrip(".")
    return safe if safe == name else f"{safe}-{sha256_json(list(swept))[:8]}"


def write_plan(directory: Path, entries: Sequence[Entry]) -> None:
    """Adds ``entries`` to the plan; what is planned already stays."""
    directory.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(directory / f".{PLAN}.lock"):
        known = read_plan(directory)
        planned = {entry.directory: entry for entry in [*known, *entries]}
        if list(planned.values()) == known:
            return
        rows = [
            {"directory": e.directory, "overrides": list(e.overrides), "swept": list(e.swept)} for e in planned.values()
        ]
        write_jsonl(directory / PLAN, rows)


def read_plan(directory: Path) -> list[Entry]:
    """The planned runs of a sweep, in their order; none where there is no sweep."""
    path = directory / PLAN
    if not path.is_file():
        return []
    return [Entry(row["directory"], tuple(row["overrides"]), tuple(row["swept"])) for row in read_jsonl(path)]


def read_states(directory: Path) -> list[State]:
    """The state of every planned run."""
    return [_state(directory / entry.directory, entry) for entry in read_plan(directory)]


def _state(run: Path, entry: Entry) -> State:
    history = _history(run)
    scores = [row["val"]["f1"] for row in history if row["val"]["f1"] is not None]
    epochs, val_f1 = len(history), max(scores, default=None)
    seconds = sum(row["seconds"] for row in history)
    if metrics := _json(run / "metrics.json"):
        total = float(metrics.get("seconds", {}).get("total", seconds))
        return State(entry, str(metrics["status"]), epochs, epochs, metrics["val"]["f1"], total)
    max_epochs = (_json(run / "run.json") or {}).get("identity", {}).get("trainer.max_epochs")
    if is_locked(run):
        return State(entry, "running", epochs, max_epochs, val_f1, seconds)
    if failure := _json(run / FAILED):
        reason, code = str(failure["reason"]), int(failure["exit_code"])
        return State(entry, "failed", epochs, max_epochs, val_f1, seconds, reason, code)
    name = "interrupted" if (run / "run.json").is_file() else "planned"
    return State(entry, name, epochs, max_epochs, val_f1, seconds)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _history(run: Path) -> list[dict[str, Any]]:
    try:
        return read_jsonl(run / "history.jsonl")
    except (OSError, ValueError):
        return []


def is_locked(run: Path) -> bool:
    """Whether a living process holds a run directory; the lock of a process that died is free."""
    if not (run / LOCK).is_file():
        return False
    lock = filelock.FileLock(run / LOCK, blocking=False)  # let go at once: a run waits a moment for its lock
    try:
        with lock:
            return False
    except filelock.Timeout:
        return True
    except OSError:
        return False


def record_failure(run: Path, reason: str, exit_code: int) -> None:
    """Writes down why a run of a sweep failed."""
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
    parts += [f"{counts[name]} {name}" for name in ("running", "failed", "interrupted") if counts[name]]
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

"""``python -m llm_cls.status dir=DIR``: how far the runs of a sweep are, or a run outside of a sweep."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from llm_cls.cli import printable, run_command, say
from llm_cls.config.arguments import read_arguments
from llm_cls.config.commands import StatusArguments
from llm_cls.errors import ArtifactError, ConfigError
from llm_cls.runs.state import RunState, find_run_directories, read_state
from llm_cls.runs.sweep import is_sweep, progress_line, read_states
from llm_cls.runs.verify import verify_run


def main() -> None:
    """The command."""
    if (arguments := read_arguments(StatusArguments, "status")) is None:
        return
    planned = read_states(arguments.dir) if is_sweep(arguments.dir) else []
    paths = [arguments.dir / run.entry.directory for run in planned] or list(find_run_directories(arguments.dir))
    if not paths:
        raise ConfigError(
            f"dir={arguments.dir} is neither the directory of a sweep nor of a run, and has no runs below it. "
            "Try dir=outputs/sweeps/NAME"
        )
    names = [run.entry.directory for run in planned] or [str(path) for path in paths]
    states = [run.state for run in planned] or [read_state(path) for path in paths]
    if arguments.verify:
        states = [_verified(path, state) for path, state in zip(paths, states, strict=True)]
    say(table(zip(names, states, strict=True)))
    if planned:
        say(progress_line(planned))
    if arguments.verify:
        _conclude(states)


def _verified(path: Path, state: RunState) -> RunState:
    """``state``, or that of a damaged run."""
    if state.name in ("running", "planned", "damaged"):
        return state
    try:
        verify_run(path)
    except ArtifactError as error:
        return RunState("damaged", reason=str(error), exit_code=error.exit_code)
    return state


def _conclude(states: Sequence[RunState]) -> None:
    damaged = [state.reason for state in states if state.name == "damaged"]
    skipped = sum(state.name in ("running", "planned") for state in states)
    if damaged:
        raise ArtifactError(f"{len(damaged)} of {len(states)} runs are damaged. The first: {damaged[0]}")
    left = f"; {skipped} running or planned runs are not checked" if skipped else ""
    say(f"{len(states) - skipped} runs verified: no damage found{left}")


def table(runs: Iterable[tuple[str, RunState]]) -> str:
    """A line per run, from the name and the state of each."""
    listed = list(runs)
    monitors = {state.monitor for _, state in listed}
    title = next(iter(monitors)).title if len(monitors) == 1 else ""  # of several, each cell names its own
    rows = [("state", "epochs", f"val {title or 'score'}", "run")]
    for name, state in listed:
        epochs = "" if state.max_epochs is None else f"{state.epochs}/{state.max_epochs}"
        score = "" if state.val_score is None else state.monitor.show(state.val_score)
        score = score if title or not score else f"{state.monitor.title} {score}"
        run = name + (f": {state.reason}" if state.reason else "")
        if state.metrics is not None and state.metrics.test is None:
            run += " (no test split)"
        rows.append((state.name, epochs, score, printable(run)))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)) for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command(main))

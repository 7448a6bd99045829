"""``python -m llm_cls.status dir=DIR``: how far the runs of a sweep are, or a run outside of a sweep."""

import sys
from collections.abc import Iterable

from llm_cls.cli import printable, run_command, say
from llm_cls.config.arguments import read_arguments
from llm_cls.config.commands import StatusArguments
from llm_cls.errors import ConfigError
from llm_cls.metrics.percent import percent
from llm_cls.runs.state import RunState, find_run_directories, read_state
from llm_cls.runs.sweep import is_sweep, progress_line, read_states


def main() -> None:
    """The command."""
    if (arguments := read_arguments(StatusArguments, "status")) is None:
        return
    if is_sweep(arguments.dir):
        planned = read_states(arguments.dir)
        say(table((run.entry.directory, run.state) for run in planned))
        say(progress_line(planned))
        return
    found = [(str(path), read_state(path)) for path in find_run_directories(arguments.dir)]
    if not found:
        raise ConfigError(
            f"dir={arguments.dir} is neither the directory of a sweep nor of a run, and has no runs below it. "
            "Try dir=outputs/sweeps/NAME"
        )
    say(table(found))


def table(runs: Iterable[tuple[str, RunState]]) -> str:
    """A line per run, from the name and the state of each."""
    rows = [("state", "epochs", "val F1", "run")]
    for name, state in runs:
        epochs = "" if state.max_epochs is None else f"{state.epochs}/{state.max_epochs}"
        f1 = "" if state.val_f1 is None else f"{percent(state.val_f1)} %"
        run = name + (f": {state.reason}" if state.reason else "")
        rows.append((state.name, epochs, f1, printable(run)))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)) for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command(main))

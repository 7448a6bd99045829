"""``python -m llm_cls.status dir=DIR``: how far the runs of a sweep are."""

import sys
from collections.abc import Sequence

from llm_cls.cli import printable, run_command, say
from llm_cls.config.arguments import read_arguments
from llm_cls.config.commands import StatusArguments
from llm_cls.errors import ConfigError
from llm_cls.metrics.percent import percent
from llm_cls.runs.layout import PLAN
from llm_cls.runs.sweep import PlannedRun, is_sweep, progress_line, read_states


def main() -> None:
    """The command."""
    if (arguments := read_arguments(StatusArguments, "status")) is None:
        return
    if not is_sweep(arguments.dir):
        raise ConfigError(
            f"dir={arguments.dir} is not the directory of a sweep: it has no {PLAN}. Try dir=outputs/sweeps/NAME"
        )
    states = read_states(arguments.dir)
    say(table(states))
    say(progress_line(states))


def table(states: Sequence[PlannedRun]) -> str:
    """A line per planned run."""
    rows = [("state", "epochs", "val F1", "run")]
    for planned in states:
        state = planned.state
        epochs = "" if state.max_epochs is None else f"{state.epochs}/{state.max_epochs}"
        f1 = "" if state.val_f1 is None else f"{percent(state.val_f1)} %"
        run = planned.entry.directory + (f": {state.reason}" if state.reason else "")
        rows.append((state.name, epochs, f1, printable(run)))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)) for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command(main))

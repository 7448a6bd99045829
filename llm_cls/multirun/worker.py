"""One of the processes that share a sweep: ``python -m llm_cls.multirun.worker``, with the command line of the sweep.

What it prints is what the command that started it would print; that one shows the whole sweep instead.
"""

import json
import os
import sys

from llm_cls.cli import run_command
from llm_cls.errors import EXIT_INTERRUPTED, RunInterrupted, SweepError
from llm_cls.training.rank_process import end_with_parent


def main() -> None:
    """Trains the runs that no other process trains."""
    end_with_parent()
    conclusion = os.dup(1)  # a file of the process that started this one
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from llm_cls.multirun.task import compose_and_run

    try:
        compose_and_run()
    except SweepError as error:
        with os.fdopen(conclusion, "w", encoding="utf-8") as file:
            json.dump({"refused": error.refused, "reasons": error.reasons}, file)
        sys.exit(error.exit_code)
    except RunInterrupted:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(run_command(main))

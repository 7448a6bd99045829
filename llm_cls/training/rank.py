"""One rank of runs on several devices: ``python -m llm_cls.training.rank``.

It trains the runs whose directories ``training.launch`` sends to its stdin.
"""

import json
import logging
import os
import socket
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from llm_cls.cli import end_now, logging_to, quiet_libraries, run_command, summarize
from llm_cls.errors import EXIT_INTERRUPTED, DataError, LostRankError, RunInterrupted
from llm_cls.training.failures import EXIT_LOST
from llm_cls.training.launch import is_first_process
from llm_cls.training.rank_process import end_with_parent

if TYPE_CHECKING:  # it imports torch
    from llm_cls.training.shared import Shared


def main() -> None:
    """Trains as this process's rank, until a run fails or there are no more."""
    try:
        _main()
        end_now(0)  # everything is on the disk, and Python's clean-up takes seconds
    except RunInterrupted:
        end_now(EXIT_INTERRUPTED)  # the command that started this process tells the user how to resume
    except LostRankError:  # it also says which rank was lost
        end_now(EXIT_LOST)


def _main() -> None:
    # Before torch is imported, which takes seconds, in which the parent may die.
    end_with_parent()
    # Processes that a run starts inherit stdin.
    connection = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    from llm_cls.training import run  # noqa: F401  # takes seconds, while the run is still being prepared
    from llm_cls.training.shared import Shared, freeze_libraries

    freeze_libraries()
    logging.basicConfig(level=logging.INFO if is_first_process() else logging.ERROR, format="%(message)s")
    shared, world_size = Shared(), os.environ["WORLD_SIZE"]
    with connection, connection.makefile("r", encoding="ascii") as requests:
        for request in requests:
            os.environ["WORLD_SIZE"] = world_size  # Lightning removes it at the end of a run
            _train(Path(json.loads(request)), shared)
            connection.sendall(b"\n")


def _train(path: Path, shared: "Shared") -> None:
    """Trains the run in ``path``, which the process that started this one has begun."""
    from llm_cls.runs import layout
    from llm_cls.runs.config_file import read_config
    from llm_cls.runs.directory import RunDirectory
    from llm_cls.runs.identity import run_id
    from llm_cls.runs.state import read_files
    from llm_cls.runs.sweep import is_sweep
    from llm_cls.training.checkpoints import find_checkpoint
    from llm_cls.training.prepare import prepare
    from llm_cls.training.run import train

    quiet_libraries()
    directory = RunDirectory(path, writes=is_first_process())
    record = read_files(directory.path).record
    assert record is not None  # the process that started this one has written it
    with logging_to(directory.path / layout.LOG) if is_first_process() else nullcontext():
        try:
            inputs = prepare(read_config(directory.path / layout.CONFIG), shared)
            if (own := run_id(inputs.identity)) != record.run_id:
                raise DataError(
                    "The data, the model or its tokenizer have changed since this command read them. Start it again"
                )
            train(directory, inputs, record, shared, find_checkpoint(directory, own))
        except Exception as error:
            if not isinstance(error, LostRankError) and is_sweep(directory.path.parent):
                directory.record_failure(*summarize(error))
            raise


if __name__ == "__main__":
    sys.exit(run_command(main))

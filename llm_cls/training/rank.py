"""One rank of a run on several devices: ``python -m llm_cls.training.rank RUN_DIRECTORY``."""

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from llm_cls.cli import end_now, file_log, quiet_libraries, run_command, summarize
from llm_cls.errors import EXIT_INTERRUPTED, LostRankError, RunInterrupted
from llm_cls.training.launch import EXIT_LOST, PARENT, is_first_process

_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


def main() -> None:
    """Trains as this process's rank."""
    try:
        _main()
    except RunInterrupted:
        end_now(EXIT_INTERRUPTED)  # the command that started this process tells the user how to resume
    except LostRankError:  # it also says which rank was lost
        end_now(EXIT_LOST)


def _main() -> None:
    # Before torch is imported, which takes seconds, in which the parent may die.
    threading.Thread(target=_end_with_parent, args=(int(os.environ[PARENT]),), daemon=True).start()
    from llm_cls.runs import layout
    from llm_cls.runs.config_file import read_config
    from llm_cls.runs.directory import RunDirectory
    from llm_cls.runs.identity import run_id
    from llm_cls.runs.state import read_files
    from llm_cls.runs.sweep import is_sweep
    from llm_cls.training.checkpoints import find_checkpoint
    from llm_cls.training.prepare import prepare
    from llm_cls.training.run import train
    from llm_cls.training.shared import Shared

    first = is_first_process()
    directory = RunDirectory(Path(sys.argv[1]), writes=first)
    quiet_libraries()
    logging.basicConfig(level=logging.INFO if first else logging.ERROR, format="%(message)s")
    if first:
        logging.getLogger().addHandler(file_log(directory.path / layout.LOG))
    record = read_files(directory.path).record
    assert record is not None  # the process that started this one has written it
    shared = Shared()
    try:
        inputs = prepare(read_config(directory.path / layout.CONFIG), shared)
        train(directory, inputs, record, shared, find_checkpoint(directory, run_id(inputs.identity)))
    except Exception as error:
        if not isinstance(error, LostRankError) and is_sweep(directory.path.parent):
            directory.record_failure(*summarize(error))
        raise


def _end_with_parent(parent: int) -> None:
    """Ends this process soon after its parent was killed: then the run can be resumed."""
    if sys.platform == "linux":  # the system does so even where this process is stopped
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(run_command(main))

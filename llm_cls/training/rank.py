"""One rank of a run on several devices: ``python -m llm_cls.training.rank RUN_DIRECTORY``."""

import logging
import os
import re
import sys
import threading
import time
from pathlib import Path

from llm_cls.cli import quiet_libraries, run_command, summarize
from llm_cls.errors import EXIT_INTERRUPTED, EXIT_UNEXPECTED, RunInterrupted
from llm_cls.training.launch import PARENT, is_first_process


def main() -> None:
    """Trains as this process's rank."""
    try:
        _main()
    except RunInterrupted:
        sys.exit(EXIT_INTERRUPTED)  # the command that started this process tells the user how to resume


def _main() -> None:
    # Before torch is imported, which takes seconds, in which the parent may die.
    threading.Thread(target=_end_with_parent, args=(int(os.environ[PARENT]),), daemon=True).start()
    from llm_cls.runs import layout
    from llm_cls.runs.config_file import read_config
    from llm_cls.runs.directory import RunDirectory
    from llm_cls.runs.state import read_files
    from llm_cls.runs.sweep import is_sweep
    from llm_cls.training.prepare import prepare
    from llm_cls.training.run import train
    from llm_cls.training.shared import Shared

    first = is_first_process()
    directory = RunDirectory(Path(sys.argv[1]), writes=first)
    quiet_libraries()
    logging.basicConfig(level=logging.INFO if first else logging.ERROR, format="%(message)s")
    if first:
        file = logging.FileHandler(directory.path / layout.LOG, encoding="utf-8")
        file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))  # Hydra's
        logging.getLogger().addHandler(file)
    record = read_files(directory.path).record
    assert record is not None  # the process that started this one has written it
    shared = Shared()
    try:
        train(directory, prepare(read_config(directory.path / layout.CONFIG), shared), record, shared)
    except Exception as error:
        if _is_of_another_rank(error):
            sys.exit(EXIT_UNEXPECTED)  # the other rank has reported why, unless it was killed
        if is_sweep(directory.path.parent):
            directory.record_failure(*summarize(error))
        raise


def _is_of_another_rank(error: Exception) -> bool:
    """Whether the error says only that the connection to another rank was lost, as gloo and NCCL word it."""
    lost = re.compile(r"gloo.*(connection|closed|reset|read error|timed out)|nccl.*(remote|connection|closed)", re.I)
    return type(error).__module__.startswith(("builtins", "torch")) and bool(lost.search(str(error).replace("\n", " ")))


def _end_with_parent(parent: int) -> None:
    """Ends this process soon after its parent was killed: then the run can be resumed."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(run_command(main))

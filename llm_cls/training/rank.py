"""One rank of a run on several devices: ``python -m llm_cls.training.rank RUN_DIRECTORY``."""

import json
import logging
import os
import re
import sys
import threading
import time
from pathlib import Path

from llm_cls.cli import quiet_libraries, run_command, summarize
from llm_cls.errors import EXIT_INTERRUPTED, EXIT_UNEXPECTED, RunInterrupted
from llm_cls.training.launch import PARENT


def main() -> None:
    """Trains as this process's rank."""
    try:
        _main()
    except RunInterrupted:
        sys.exit(EXIT_INTERRUPTED)  # the command that started this process says what to do next


def _main() -> None:
    # From the first moment: torch takes seconds to import, and the parent may die in them.
    threading.Thread(target=_end_with_parent, args=(int(os.environ[PARENT]),), daemon=True).start()
    from llm_cls.config.schema import read_config
    from llm_cls.runs.sweep import PLAN, record_failure
    from llm_cls.training.run import prepare, train
    from llm_cls.training.shared import Shared

    directory = Path(sys.argv[1])
    quiet_libraries()
    logging.basicConfig(level=logging.INFO if os.environ["RANK"] == "0" else logging.ERROR, format="%(message)s")
    if os.environ["RANK"] == "0":
        file = logging.FileHandler(directory / "train.log", encoding="utf-8")
        file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))  # Hydra's
        logging.getLogger().addHandler(file)
    config = read_config(directory / "config.yaml")
    record = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    shared = Shared()
    try:
        train(config, directory, prepare(config, shared), record, shared)
    except Exception as error:
        if _is_of_another_rank(error):
            sys.exit(EXIT_UNEXPECTED)  # the other has said why, unless it was killed
        if directory.parent.joinpath(PLAN).is_file():
            record_failure(directory, *summarize(error))
        raise


def _is_of_another_rank(error: Exception) -> bool:
    """Whether nothing is known but that the connection to another rank is gone, in the words of gloo and NCCL."""
    lost = re.compile(r"gloo.*(connection|closed|reset|read error|timed out)|nccl.*(remote|connection|closed)", re.I)
    return type(error).__module__.startswith(("builtins", "torch")) and bool(lost.search(str(error).replace("\n", " ")))


def _end_with_parent(parent: int) -> None:
    """Ends this process soon after its parent was killed: its lock is free then, and others may go on."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(run_command(main))

"""A sweep of one run, and what it becomes after a kill at each step of its last phase.

``python -m tests.integration.killed ARGUMENTS`` makes the sweeps ``undisturbed`` and ``killed-N`` for N = 1, 2, ...:
copied, as kill -9 would have left it, just before the N-th rename or removal that follows the last epoch, and then
resumed. All in forks of one process, because its imports take longer than such a run.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from llm_cls.train import command


def sweep(directory: str, arguments: list[str]) -> int:
    """The exit code."""
    sys.argv[1:] = ["--multirun", *arguments, f"hydra.sweep.dir={directory}"]
    try:
        command()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def in_a_fork(directory: str, arguments: list[str]) -> int:
    sys.stdout.flush()
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        code = sweep(directory, arguments)
    finally:
        os._exit(code)


def main(arguments: list[str]) -> None:
    copies: list[str] = []
    watching = over = False

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal watching
        if over or event not in ("os.rename", "os.remove") or not os.path.lexists(given[0]):
            return
        if watching:
            copies.append(f"killed-{len(copies) + 1}")
            print(f"{copies[-1]}: {event} {given[0]} {given[1]}")
            shutil.copytree("undisturbed", copies[-1])
        elif event == "os.rename" and Path(given[1]).name == "history.jsonl":
            watching = True

    sys.addaudithook(hook)
    code = sweep("undisturbed", arguments)  # here: the forks find imported what a run imports late
    over = True
    for directory in copies:
        code = code or in_a_fork(directory, arguments)
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])

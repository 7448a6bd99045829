"""A command amid whose work on the files below the folder ROOT a fault happens.

``python -m tests.faults.victim record ROOT OUT -- MODULE ARGUMENTS``: none happens, but the folder OUT gets every state
of ROOT that a kill or a power cut before an operation, or after the last one, would have left.
``... kill ROOT NUMBER -- ...``: SIGKILL just before operation NUMBER.
``... fail ROOT NUMBER ERRNO -- ...``: operation NUMBER and all later ones fail with ERRNO.
"""

import errno
import functools
import hashlib
import json
import os
import runpy
import signal
import sys
from pathlib import Path

from tests.faults.disk import CUTS, Disk, Tree
from tests.faults.operations import LOGS, Operation, Operations

FREES_SPACE = ("remove", "rmdir", "rename", "chmod")  # what a full disk allows


class Recorder:
    """Writes the states."""

    def __init__(self, root: Path, out: Path) -> None:
        self._disk, self._out = Disk(root), out
        self._known: set[str] = set()
        (out / "data").mkdir(parents=True)
        self._digest = functools.cache(lambda content: hashlib.sha256(content).hexdigest())

    def before(self, operation: Operation) -> None:
        """Writes the states before ``operation`` that are new."""
        if operation.number:
            self._disk.scan()
            self._record(operation.number, str(operation))

    def synced(self, descriptor: int) -> None:
        """Its content is safe."""
        self._disk.synced(descriptor)

    def end(self) -> None:
        """Writes the states after the last operation."""
        self._disk.scan()
        self._record(0, "the next command")

    def _record(self, number: int, what: str) -> None:
        now = self._disk.now()
        epochs = sum((data or b"").count(b"\n") for name, data in now.items() if name.endswith("history.jsonl"))
        for fault, tree in {"kill": now, **{cut: self._disk.after(cut) for cut in CUTS}}.items():
            self._write({"number": number, "what": what, "fault": fault, "epochs": epochs}, tree)

    def _write(self, case: dict[str, object], tree: Tree) -> None:
        files = {name: None if content is None else self._digest(content) for name, content in tree.items()}
        results = {name: digest for name, digest in files.items() if not name.endswith(LOGS)}
        key = json.dumps([results, case["epochs"], case["fault"] == "kill"], sort_keys=True)
        case["state"] = hashlib.sha256(key.encode()).hexdigest()
        if case["state"] not in self._known:
            self._known.add(str(case["state"]))
            case["files"] = files
            for name, digest in files.items():
                if digest is not None and not (self._out / "data" / digest).exists():
                    (self._out / "data" / digest).write_bytes(tree[name] or b"")
        with (self._out / "cases.jsonl").open("a") as file:
            file.write(json.dumps(case) + "\n")


class Killer:
    """Ends the process as kill -9 does."""

    def __init__(self, number: int) -> None:
        self._number = number

    def before(self, operation: Operation) -> None:
        """Ends the process at its operation."""
        if operation.number == self._number:
            os.kill(os.getpid(), signal.SIGKILL)

    def synced(self, descriptor: int) -> None:
        """Nothing."""


class Failure:
    """A disk that fails from one operation on."""

    def __init__(self, number: int, code: int) -> None:
        self._number, self._code, self._failing = number, code, False

    def before(self, operation: Operation) -> None:
        """Raises the error."""
        self._failing = self._failing or operation.number == self._number
        if self._failing and not (self._code == errno.ENOSPC and operation.kind in FREES_SPACE):
            raise OSError(self._code, os.strerror(self._code), operation.path)

    def synced(self, descriptor: int) -> None:
        """Nothing."""


def main() -> None:
    """The command line."""
    split = sys.argv.index("--")
    what, root, *arguments = sys.argv[1:split]
    listener: Recorder | Killer | Failure
    if what == "record":
        listener = Recorder(Path(root), Path(arguments[0]))
    elif what == "kill":
        listener = Killer(int(arguments[0]))
    else:
        listener = Failure(*map(int, arguments))
    sys.argv = sys.argv[split + 1 :]
    operations = Operations(Path(root), listener)
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    finally:
        if isinstance(listener, Recorder):
            with operations.unwatched():
                listener.end()


if __name__ == "__main__":
    main()

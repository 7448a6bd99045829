"""The process of one rank, and how it ends with the process that has started it."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from llm_cls.errors import EXIT_INTERRUPTED, ResourceError
from llm_cls.signals import is_stopped

PARENT = "LLM_CLS_PARENT"  # id of the process that started this one, which ends with it
_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
_OPEN_FILES = 64  # of each rank: its files, and the sockets to the others


class RankProcess:
    """A process of ``llm_cls.training.rank``, whose stdin is a connection to this one.

    The directories of its runs are sent to it, each as a line of JSON. It answers with an empty line when it has
    completed one, and ends when a run fails or the connection is closed.

    Attributes:
        connection: See above.
        process: See above.
        began: Whether it has been sent a run.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Starts the process, which loads its libraries and then waits for a run."""
        self.connection, other = socket.socketpair()
        self.connection.setblocking(False)
        self.began = False
        command = [sys.executable, "-m", "llm_cls.training.rank"]
        with other:
            # In a new session, so that Ctrl-C reaches only this process, which then ends the ranks together.
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                command, stdin=other.fileno(), env=environment, start_new_session=True
            )

    def ask(self, directory: Path) -> None:
        """Sends it the directory of the next run."""
        self.began = True
        with suppress(OSError):  # it has died, which ``code`` will tell
            self.connection.sendall(json.dumps(str(directory)).encode() + b"\n")

    def code(self) -> int | None:
        """0 if it has completed the run, otherwise its exit code; None while it trains."""
        with suppress(OSError):  # there is no answer
            if self.connection.recv(1):
                return 0
        return self.process.poll()

    def is_idle(self) -> bool:
        """Whether it waits for the next run."""
        return self.process.poll() is None and not is_stopped(self.process.pid)


def check_open_files() -> None:
    """Checks that this process and the ranks, which inherit the limit, may open enough files.

    Raises:
        ResourceError: They may not.
    """
    try:
        import resource  # not on Windows
    except ImportError:
        return
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= limit < _OPEN_FILES:  # -1: there is no limit
        raise ResourceError(
            f"A run on several devices needs {_OPEN_FILES} open files per process, this shell allows {limit}. "
            "Raise the limit, for example: ulimit -n 1024"
        )


def end_with_parent() -> None:
    """Lets this process end soon after its parent was killed: then the run can be resumed."""
    parent = int(os.environ[PARENT])
    if sys.platform == "linux":  # the system does so even where this process is stopped
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(EXIT_INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()

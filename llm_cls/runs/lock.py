"""The lock of a run directory, so that one process trains a run; the system frees the lock of a dead process.

A stopped process keeps its lock, and on another machine nothing else tells. So the holder touches the file of the lock
every few seconds, and nobody waits for one that does not.
"""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from llm_cls.errors import LockedError, ResourceError
from llm_cls.locks import holder
from llm_cls.runs.layout import LOCK

_TOUCH_SECONDS = 5.0
_MOMENT_SECONDS = 0.05  # in a pass the other runs wait meanwhile; a command that ends may hold the lock that long


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Holds ``directory``, which is created if it is missing.

    Raises:
        LockedError: Another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / LOCK
    lock = filelock.FileLock(path)
    try:
        try:
            lock.acquire(timeout=_MOMENT_SECONDS, poll_interval=_MOMENT_SECONDS / 10)
        except filelock.Timeout:
            if is_locked(directory):
                raise
            lock.acquire(timeout=1)  # only readers of the state hold it, each for a moment
    except filelock.Timeout:
        raise LockedError(
            f"{directory} is in use by {holder(path)}. Wait for it, or give another hydra.run.dir"
        ) from None
    stop = threading.Event()
    try:
        threading.Thread(target=_touch, args=(path, stop), daemon=True).start()
        yield
    finally:
        stop.set()
        lock.release()


def _touch(path: Path, stop: threading.Event) -> None:
    while not stop.wait(_TOUCH_SECONDS):
        with suppress(OSError):  # it was removed, with its folder
            os.utime(path)


class HolderWatch:
    """Notices that a process which holds a run directory does not respond any more."""

    def __init__(self, limit_seconds: float) -> None:
        """Takes the time after which a holder is given up."""
        self._limit = max(limit_seconds, 4 * _TOUCH_SECONDS)
        self._seen: dict[Path, tuple[int, float]] = {}  # when the lock was touched, and when that was noticed

    def check(self, directories: Iterable[Path]) -> None:
        """Call it every few seconds with the directories that others hold.

        Raises:
            ResourceError: One of the holders does not respond; the message names it.
        """
        seen = {}
        now = time.monotonic()
        for path in (directory / LOCK for directory in directories):
            with suppress(OSError):
                touched = path.stat().st_mtime_ns
                before, since = self._seen.get(path, (touched, now))
                seen[path] = (touched, since if touched == before else now)
                if now - seen[path][1] > self._limit:
                    raise ResourceError(
                        f"{path} is held by {holder(path)}, which has not responded for {self._limit:g} s. "
                        "Continue or end that process, then start again"
                    )
        self._seen = seen


def is_locked(directory: Path) -> bool:
    """Whether a living process holds a run directory."""
    path = directory / LOCK
    if not path.is_file():
        return False
    try:
        import fcntl  # not on Windows

        with path.open("rb") as file:  # shared and released at once, so that readers do not see one another's locks
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except (ImportError, OSError):  # no such locks on this file system
        return _is_held(path)


def _is_held(path: Path) -> bool:
    try:
        with filelock.FileLock(path, blocking=False):
            return False
    except filelock.Timeout:
        return True
    except OSError:
        return False

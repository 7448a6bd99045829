"""The lock of a run directory, so that one process trains a run; the system frees the lock of a dead process.

A stopped process keeps its locks, and on another machine nothing else tells. So the holder touches the file of the lock
every few seconds, and nobody waits for one that does not, or for a lock that is otherwise held for moments only.
"""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from llm_cls.errors import LockedError, ResourceError
from llm_cls.runs.layout import LOCK
from llm_cls.signals import is_stopped

_TOUCH_SECONDS = 5.0
_BRIEF_SECONDS = 60.0  # locks of files that are only read or appended to


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Holds ``directory``, which is created if it is missing.

    Raises:
        LockedError: Another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / LOCK
    lock = filelock.FileLock(path, timeout=1)  # readers of the state hold it for a moment
    try:
        lock.acquire()
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


class BriefLock(filelock.FileLock):
    """A lock that is held for moments only, so that waiting for it long is a fault."""

    def acquire(self, *args: Any, **options: Any) -> Any:
        """Waits for the lock.

        Raises:
            ResourceError: The process that holds it does not release it; the message names it.
        """
        try:
            return super().acquire(*args, **{"timeout": _BRIEF_SECONDS} | options)
        except filelock.Timeout:
            raise ResourceError(
                f"{self.lock_file} has been held for {_BRIEF_SECONDS:g} s by {holder(Path(self.lock_file))}. "
                "Continue or end that process, then start again"
            ) from None


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


def holder(path: Path) -> str:
    """The process that holds the lock ``path``, in words: with its pid, where it runs on this machine under Linux."""
    with suppress(OSError, ValueError, IndexError):
        inode = str(path.stat().st_ino)
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            fields = line.split()
            if (
                fields[1] == "FLOCK"
                and fields[5].rpartition(":")[2] == inode
                and _has_open(pid := int(fields[4]), path)
            ):
                return f"another process (pid {pid}{', which is stopped' if is_stopped(pid) else ''})"
    return "another process"


def _has_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open: file systems may share the numbers of their files."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed in the meantime
            if descriptor.samefile(path):
                return True
    return False


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

"""The lock of a run directory, so that one process trains a run; the system frees the lock of a dead process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from llm_cls.errors import LockedError
from llm_cls.runs.layout import LOCK


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Holds ``directory``, which is created if it is missing.

    Raises:
        LockedError: Another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(directory / LOCK, timeout=1)  # readers of the state hold it for a moment
    try:
        lock.acquire()
    except filelock.Timeout:
        raise LockedError(
            f"{directory} is in use by another process. Wait for it, or give another hydra.run.dir"
        ) from None
    try:
        yield
    finally:
        lock.release()


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

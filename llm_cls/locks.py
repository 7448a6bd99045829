"""Locks between processes that are waited for with a limit: a stopped process keeps its locks."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from llm_cls.errors import ResourceError
from llm_cls.signals import is_stopped

_BRIEF_SECONDS = 60.0


@contextmanager
def hold_file(path: Path, seconds: float, setting: str, alternative: str = "") -> Iterator[None]:
    """Holds the lock file ``path``; the system frees the lock of a dead process.

    Args:
        path: The lock file; its folder exists.
        seconds: How long another holder is waited for.
        setting: The key that sets ``seconds``, for the message.
        alternative: What else the user can do, for the message.

    Raises:
        ResourceError: Another process still holds it; the message names it.
    """
    lock = filelock.FileLock(path, timeout=seconds)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise ResourceError(
            f"{path} is held by {holder(path)} and was not released within {seconds:g} s ({setting}). "
            f"Continue or end that process, then start again{alternative}"
        ) from None
    try:
        yield
    finally:
        lock.release()


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

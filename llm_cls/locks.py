"""A lock between processes that is waited for with a limit, and whose holder is known."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from llm_cls.errors import ResourceError


@contextmanager
def hold_file(path: Path, seconds: float, setting: str, alternative: str = "") -> Iterator[None]:
    """Holds the lock file ``path``, which then names this process; the system frees the lock of a dead process.

    Args:
        path: The lock file; its folder exists.
        seconds: How long another holder, which may be stopped, is waited for.
        setting: The key that sets ``seconds``, for the message.
        alternative: What else the user can do, for the message.

    Raises:
        ResourceError: Another process still holds it.
    """
    lock = filelock.FileLock(path, timeout=seconds)
    try:
        lock.acquire()
    except filelock.Timeout:
        pid, _, host = _holder(path).partition(" ")
        who = f"process {pid}" if pid else "another process"
        where = f" on {host}" if host not in ("", socket.gethostname()) else ""
        continues = f"Continue it with kill -CONT {pid} or end it with kill -9 {pid}{where}" if pid else "End it"
        raise ResourceError(
            f"{path} must become free within {seconds:g} s ({setting}), but {who}{where} holds it. {continues}, "
            f"then repeat this command{alternative}"
        ) from None
    try:
        path.write_text(f"{os.getpid()} {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""

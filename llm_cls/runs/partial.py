"""An output that is written in parts, and continued where the process that wrote it was killed.

Beside the output lie ``NAME.partial``, which becomes the output in the end, and ``NAME.journal``: its first line names
what the output is made of, and each further line how many rows, in how many bytes, are complete. What the partial file
holds beyond the last such line is cut off.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from llm_cls.errors import LockedError
from llm_cls.files import errors_of, make_folder, missing_folders, remove_folders, sync_folder, write_text
from llm_cls.locks import holder

_SYNC_SECONDS = 1.0  # of work that a kill may cost


class PartialFile:
    """The parts of one output; one process at a time holds it.

    Attributes:
        rows: Rows that are complete.
        afresh: What is wrong with what an earlier process has left; empty where it is continued or there is none.
    """

    def __init__(self, target: Path, origin: Mapping[str, Any]) -> None:
        """Locks the output, and reads what is complete.

        Args:
            target: The output.
            origin: What the rows are made of, by name, as JSON values: rows of another origin are discarded.

        Raises:
            LockedError: Another process writes the same output.
            OSError: The files cannot be written.
        """
        self._target, self._origin = target, json.loads(json.dumps(origin))
        self._partial = target.with_name(f"{target.name}.partial")
        self._journal = target.with_name(f"{target.name}.journal")
        self._created = missing_folders(target.parent)
        make_folder(target.parent)
        self._finished, self._synced = False, -_SYNC_SECONDS
        self._lines: BinaryIO | None = None
        self._file = _open_locked(self._partial, target)
        try:
            self.rows, self._size, self.afresh = self._complete_part()
            self._file.truncate(self._size)
            self._file.seek(self._size)
        except BaseException:
            self._file.close()
            raise

    def append(self, content: bytes, rows: int) -> None:
        """Writes the bytes of the next ``rows`` rows.

        Raises:
            OSError: They could not be written; ``filename`` is that of the output.
        """
        with errors_of(self._target):
            self._file.write(content)
            self._size += len(content)
            self.rows += rows
            if self.rows and time.monotonic() - self._synced >= _SYNC_SECONDS:
                self._sync()

    def finish(self, make: Callable[[Path, Path], None]) -> None:
        """Makes the output; ``make`` does so from the partial file, its first argument."""
        with errors_of(self._target):
            self._sync()
            if os.name == "nt":  # which renames no open file
                self._file.close()
            make(self._partial, self._target)
        self._finished = True
        sync_folder(self._target.parent)
        self._remove_journal()
        sync_folder(self._target.parent)

    def close(self) -> None:
        """Releases the output. What is complete remains for the next process; where nothing is, nothing remains."""
        if not self._finished and self.rows:
            with suppress(OSError):  # a full disk: less is complete then
                self._sync()
        elif not self._finished:
            self._remove_journal()
            self._partial.unlink(missing_ok=True)
            remove_folders(self._created)
        if self._lines is not None:
            self._lines.close()
        with suppress(OSError):  # what is still in its buffer does not fit on the disk
            self._file.close()

    def _remove_journal(self) -> None:
        self._journal.unlink(missing_ok=True)

    def _sync(self) -> None:
        """Makes what was written durable, and then says so in the journal."""
        self._file.flush()
        os.fsync(self._file.fileno())
        line = json.dumps({"rows": self.rows, "bytes": self._size}) + "\n"
        if self._lines is None and not self._journal.exists():
            write_text(self._journal, json.dumps(self._origin, ensure_ascii=False) + "\n" + line)
        else:
            self._lines = self._lines or self._journal.open("ab", buffering=0)
            self._lines.write(line.encode())
            os.fsync(self._lines.fileno())
        self._synced = time.monotonic()

    def _complete_part(self) -> tuple[int, int, str]:
        """Rows and bytes that are complete, and why there are none although there is a journal."""
        try:
            first, *lines = self._journal.read_bytes().split(b"\n")
        except FileNotFoundError:
            return 0, 0, ""
        rows, size = 0, 0
        differing: list[str] = []
        with suppress(ValueError, KeyError, TypeError):  # it is damaged
            origin = json.loads(first)
            differing = [name for name, value in self._origin.items() if origin[name] != value]
            for line in lines[:-1]:  # after the last line end there is nothing, or a line that is not complete
                entry = json.loads(line)
                rows, size = int(entry["rows"]), int(entry["bytes"])
        if not differing and rows and os.fstat(self._file.fileno()).st_size >= size:
            self._cut_journal(lines)
            return rows, size, ""
        self._remove_journal()
        if not os.fstat(self._file.fileno()).st_size:
            return 0, 0, ""  # there is none, as after a kill when the output was just made of it
        return 0, 0, f"is of another {differing[0]}" if differing else "is damaged"

    def _cut_journal(self, lines: list[bytes]) -> None:
        """Removes an incomplete last line, which more could not be appended to."""
        if lines[-1]:
            whole = self._journal.read_bytes()
            os.truncate(self._journal, len(whole) - len(lines[-1]))


def _open_locked(path: Path, target: Path) -> BinaryIO:
    """Opens ``path`` for reading and writing, and locks it; the system frees the lock of a dead process."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        file: BinaryIO = os.fdopen(handle, "r+b")
        try:
            _lock(handle)
        except BlockingIOError:
            file.close()
            raise LockedError(
                f"output={target} is being written by {holder(path)}. Wait for it, or give another output"
            ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(handle)):
                return file
        file.close()  # in the meantime its process has made the output of it, or has removed it


def _lock(handle: int) -> None:
    try:
        import fcntl  # not on Windows

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError):  # no such locks on this file system
        pass

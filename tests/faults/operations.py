"""The changing file operations of this process below one folder, each seen just before it happens.

Python announces opens, renames and removals to audit hooks. Writes and fsync it does not announce, so the functions
that do them are replaced. Libraries that write in Rust or C++ are seen through the files that they leave
(``disk.Disk``); the writer of safetensors is seen as one operation.
"""

import builtins
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
EVENTS = {
    "open": "open", "os.rename": "rename", "os.remove": "remove", "os.mkdir": "mkdir", "os.rmdir": "rmdir",
    "os.link": "link", "os.symlink": "symlink", "os.truncate": "truncate", "os.chmod": "chmod",
}  # fmt: skip
LOGS = (".log", ".lock")  # what they hold is no result; their operations have no number, but fail on a full disk


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        number: Counted from 1; 0 for a log, and in a row of writes to one file for all but the 1st, 2nd, 4th, 8th...
        kind: What is done, as ``rename``.
        path: On what, relative to the watched folder.
        target: The new name of what is renamed or linked.
    """

    number: int
    kind: str
    path: str
    target: str = ""

    def __str__(self) -> str:
        """For example ``12 rename .a1b2.tmp -> metrics.json``."""
        return f"{self.number} {self.kind} {self.path}{f' -> {self.target}' if self.target else ''}"


class Listener(Protocol):
    """Is told of the operations; its own are not watched."""

    def before(self, operation: Operation) -> None:
        """``operation`` comes next, unless an error is raised here."""

    def synced(self, descriptor: int) -> None:
        """The file or folder ``descriptor`` was fsynced."""


class Operations:
    """Watches this process for the rest of its life.

    Args:
        root: The folder; it must exist.
        listener: Who is told.
    """

    def __init__(self, root: Path, listener: Listener) -> None:
        self._root, self._listener = f"{root.resolve()}{os.sep}", listener
        self._count, self._blind = 0, False
        self._writes = ("", 0)  # the row of writes
        self._open = builtins.open
        sys.addaudithook(self._audit)
        for module in (builtins, io):
            module.open = self._open_file  # type: ignore[attr-defined]
        for name in ("write", "pwrite", "writev", "ftruncate"):
            self._replace(name, name.lstrip("pf").removesuffix("v"), 0)
        self._replace("sendfile", "write", 0)  # shutil.copyfile
        self._replace("copy_file_range", "write", 1)
        self._replace("fsync", "fsync", 0)
        self._replace("fdatasync", "fsync", 0)
        self._serialize = safetensors.torch.serialize_file
        safetensors.torch.serialize_file = self._serialize_file

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """What this block does is not seen."""
        before, self._blind = self._blind, True
        try:
            yield
        finally:
            self._blind = before

    def tell(self, kind: str, path: Any, target: Any = "", folder: int = -1, other: int = -1) -> None:
        """Reports an operation, unless it concerns other folders.

        Args:
            kind: What.
            path: On what: a path or a descriptor.
            target: The new name.
            folder: Descriptor of the folder to which ``path`` is relative; -1 for the working directory.
            other: The same for ``target``.
        """
        if self._blind:
            return
        with self.unwatched():
            names = [self._relative(path, folder), self._relative(target, other) if target != "" else None]
            if names[0] is None and names[1] is None:
                return
            first, second = names[0] or str(path), names[1] or ""
            self._listener.before(Operation(self._number(kind, first), kind, first, second))

    def _number(self, kind: str, path: str) -> int:
        if path.endswith(LOGS):
            return 0
        before, row = self._writes
        row = (row + 1 if path == before else 1) if kind == "write" else 0
        self._writes = (path, row)
        if row & (row - 1):  # not a power of two
            return 0
        self._count += 1
        return self._count

    def _relative(self, path: Any, folder: int) -> str | None:
        """``path`` relative to the watched folder; None outside of it."""
        try:
            if isinstance(path, int):
                path = Path(f"/proc/self/fd/{path}").readlink()
            where = Path(f"/proc/self/fd/{folder}").readlink() if folder is not None and folder >= 0 else Path.cwd()
        except OSError:
            return None
        # Not resolved: a link itself may be meant.
        name = os.path.normpath(where / os.fsdecode(path))
        return name.removeprefix(self._root) if name.startswith(self._root) else None

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._blind or event not in EVENTS:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike) and flags & WRITING:
                self.tell("open", path)
        elif event in ("os.rename", "os.link"):
            self.tell(EVENTS[event], arguments[0], arguments[1], *arguments[2:4])
        elif event == "os.symlink":
            self.tell("symlink", arguments[1])
        elif event in ("os.mkdir", "os.chmod"):
            self.tell(EVENTS[event], arguments[0], folder=arguments[2])
        else:
            self.tell(EVENTS[event], arguments[0], folder=arguments[1] if event != "os.truncate" else -1)

    def _replace(self, name: str, kind: str, position: int) -> None:
        """Puts a function that reports itself in the place of ``os.NAME``."""
        original: Callable[..., Any] = getattr(os, name)

        def function(*arguments: Any, **options: Any) -> Any:
            if arguments:
                self.tell(kind, arguments[position])
            result = original(*arguments, **options)
            if kind == "fsync" and not self._blind:
                with self.unwatched():
                    self._listener.synced(arguments[0])
            return result

        setattr(os, name, function)

    def _open_file(self, file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **options: Any) -> Any:
        """``open`` whose files report what they write."""
        writes = not self._blind and set(mode) & set("wax+") and "opener" not in options and len(arguments) < 4
        if not writes or self._relative(file, -1) is None:
            return self._open(file, mode, buffering, *arguments, **options)
        names = ("encoding", "errors", "newline", "closefd")
        options = dict(zip(names, arguments, strict=False)) | options
        raw = _Reporting(file, mode.replace("b", "").replace("t", ""), options.pop("closefd", True), tell=self.tell)
        if buffering == 0:
            return raw
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        buffer = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
        if "b" in mode:
            return buffer
        text: Any = io.TextIOWrapper(buffer, **options, line_buffering=buffering == 1)
        text.mode = mode
        return text

    def _serialize_file(self, tensors: Any, filename: Any, metadata: Any = None) -> Any:
        """The writer of safetensors, which is written in Rust: first a temporary file beside, then a rename."""
        temporary = Path(filename).parent / ".tmpAbCdEf"
        try:
            self.tell("open", temporary)
            with self.unwatched():
                temporary.write_bytes(b"half of a file")
            self.tell("write", temporary)
            with self.unwatched():
                temporary.unlink()
            self.tell("rename", temporary, filename)
        except OSError as error:
            with self.unwatched():
                temporary.unlink(missing_ok=True)
            number = error.errno or errno.EIO
            raise safetensors.SafetensorError(
                f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})"
            ) from None
        with self.unwatched():
            return self._serialize(tensors, filename, metadata=metadata)


class _Reporting(io.FileIO):
    """A file that reports each of its writes."""

    def __init__(self, file: Any, mode: str, closefd: bool, tell: Callable[..., None]) -> None:
        super().__init__(file, mode, closefd)
        self._tell = tell

    def write(self, data: Any, /) -> int:
        """As ``FileIO.write``; a disk that is full now has taken the first half."""
        try:
            self._tell("write", self.fileno())
        except OSError as error:
            if error.errno == errno.ENOSPC:
                super().write(memoryview(data).cast("B")[: memoryview(data).nbytes // 2])
            raise
        return super().write(data) or 0

    def truncate(self, size: int | None = None, /) -> int:
        """As ``FileIO.truncate``."""
        self._tell("truncate", self.fileno())
        return super().truncate(size)

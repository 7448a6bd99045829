"""Files that are either whole or absent: atomic writes, checksums, JSON lines."""

import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llm_cls.errors import ConfigError


def check_output(path: Path) -> None:
    """Checks that a result can be written, before the work starts rather than after hours; nothing stays behind.

    Raises:
        ConfigError: It is a folder.
        OSError: Its folder cannot be created or written.
    """
    if path.is_dir():
        raise ConfigError(f"output={path} is a folder. Give the name of a file")
    created = missing_folders(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    finally:
        remove_folders(created)


def missing_folders(path: Path) -> list[Path]:
    """Those of ``path`` and its parents that do not exist, the innermost first."""
    return [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]


def remove_folders(folders: Iterable[Path]) -> None:
    """Removes these folders as far as they are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` that replaces it when the block ends without an error.

    The temporary file lies in the same folder, because a rename across file systems is a copy that a kill can
    interrupt. Content and name are on the disk when the block has ended: a power cut leaves the old or the new file.

    Raises:
        OSError: The file could not be written; ``filename`` is ``path``, which a failed write itself does not set.
    """
    make_folder(path.parent)
    # Not named after path, whose name may already have the maximum length.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        with errors_of(path):
            yield temporary
            _finish_file(temporary)
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside ``path`` that replaces it; everything else as for ``atomic_path``.

    A folder that is replaced is removed first: a kill in between leaves neither.
    """
    make_folder(path.parent)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=".", suffix=".tmp"))
    try:
        with errors_of(path):
            yield temporary
            for item in temporary.rglob("*"):
                if item.is_dir():
                    sync_folder(item)
                else:
                    _finish_file(item)
            temporary.chmod(_mode(0o777))  # mkdtemp creates folders that only their owner can read
            sync_folder(temporary)
            if path.is_dir():
                shutil.rmtree(path)
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Creates a folder with its parents; their names survive a power cut."""
    missing = missing_folders(path)
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def remove(path: Path) -> None:
    """Removes a file, if there is one; it does not return after a power cut."""
    with suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable: ``fsync`` of a file does not include its name."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders, and some folders may be written but not read
        return
    try:
        with suppress(OSError):  # some network file systems have no such call
            os.fsync(handle)
    finally:
        os.close(handle)


def _finish_file(path: Path) -> None:
    """Makes the content durable and the mode that of any new file; temporary files and weights are their owner's."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.chmod(_mode(0o666))


def _mode(wanted: int) -> int:
    umask = os.umask(0)
    os.umask(umask)
    return wanted & ~umask


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Names ``path`` in the system errors of the block; a failed write itself names no file."""
    try:
        yield
    except Exception as error:
        if (number := _system_error(error)) is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def seal(path: Path) -> Path:
    """Adds the sha256 of a file to its name, so that damage is noticed; returns the new path.

    One rename does it: unlike a second file with the digest, it cannot be missing or of another version.
    """
    sealed = path.with_name(f"{path.stem}-{sha256_file(path)}{path.suffix}")
    path.replace(sealed)
    sync_folder(path.parent)
    return sealed


def check_digest(path: Path, expected: str | None = None) -> None:
    """Compares the sha256 of a file with the expected one, by default with that in its name.

    Raises:
        ValueError: They differ.
    """
    expected = expected or path.stem.rpartition("-")[2]
    if (found := sha256_file(path)) != expected:
        raise ValueError(f"its sha256 must be {expected[:12]}..., found {found[:12]}...")


def _system_error(error: BaseException | None) -> int | None:
    """The errno of the system error that caused ``error``; None if there was none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if found := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors, written in Rust
            return int(found.group(1))
        error = error.__cause__ or error.__context__  # torch.save hides it
    return None


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def finite(value: Any) -> Any:
    """``value`` with every non-finite float replaced by None, since JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def json_text(value: Any) -> str:
    """``value`` as indented JSON; non-finite floats become null."""
    return json.dumps(finite(value), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Writes ``json_text`` of ``value``, atomically."""
    write_text(path, json_text(value))


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Writes one JSON value a line, atomically; non-finite floats become null."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n")


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file; a directory that was received may hold anything else under its name.

    Raises:
        OSError: There is no such file, or it could not be read.
        ValueError: It is not a regular file, such as a pipe that would block for ever, or larger than ``max_bytes``.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size > max_bytes:
            raise ValueError(f"it has {status.st_size:,} bytes, at most {max_bytes:,} are allowed")
        return file.read(max_bytes)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of ``value`` as canonical JSON: equal values have equal digests."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

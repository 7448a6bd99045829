"""Table files as streams of bytes and text: decompressed, decoded, and bounded in memory."""

import codecs
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

from llm_cls.errors import DataError

COMPRESSIONS = (".gz", ".zst")
LONGEST = 2**27  # characters of one line, cell or object
_MAGIC = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
_BLOCK = 2**20
# The strict ones first: most bytes are valid in the last.
_OTHER_ENCODINGS = ("utf-8", "euc_jp", "cp932", "gb18030", "cp1252")


@contextmanager
def open_text(path: Path, encoding: str, newline: str | None, whole: bool) -> Iterator[TextIO]:
    """The text of a file, decompressed as its name ends.

    Args:
        path: The file.
        encoding: Name of its encoding.
        newline: As in ``open``.
        whole: Whether all of it will be in memory, so that a file that cannot fit is refused.

    Raises:
        DataError: It could not be decompressed or decoded, or is too large.
    """
    try:
        with (
            _open_binary(path) as raw,
            closing(_Bounded(raw, memory_limit() if whole else None, path)) as bounded,
            io.TextIOWrapper(io.BufferedReader(bounded, _BLOCK), encoding, newline=newline) as text,
        ):
            yield text
    except UnicodeError:
        raise DataError(_bad_bytes(path, encoding)) from None


def text_lines(stream: TextIO) -> Iterator[str]:
    """The lines with their ends, without a byte order mark.

    Raises:
        ValueError: A line has a NUL character, or is longer than any text.
    """
    number = 1
    while line := stream.readline(LONGEST):
        if number == 1:
            line = line.removeprefix("\ufeff")
        if "\0" in line:
            raise ValueError(
                f"line {number} has a NUL character at position {line.index(chr(0)) + 1}. Remove it, or name the "
                "encoding of the file, such as data.encoding=utf-16"
            )
        if len(line) == LONGEST:
            raise ValueError(f"line {number} is longer than {LONGEST} characters. Check the file")
        yield line
        number += 1


def read_all(stream: TextIO, path: Path) -> str:
    """All text of a file.

    Raises:
        DataError: It does not fit into the memory.
    """
    limit, size, parts = memory_limit(), 0, []
    while part := stream.read(_BLOCK):
        parts.append(part)
        if (size := size + len(part)) > limit:
            raise too_large(path, limit)
    return "".join(parts)


def memory_limit() -> int:
    """Largest number of bytes of a file that is held in memory: a quarter of it, because rows take several times that.

    A container may use less than the machine has.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        allowed = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no container, or "max"
        allowed = total
    return min(total, allowed) // 4


def too_large(path: Path, limit: int) -> DataError:
    """The error for a file with more than ``limit`` bytes."""
    return DataError(f"{path}: must have at most {limit / 2**30:.1f} GiB of text, as memory allows. Split the file")


class _Bounded(io.RawIOBase):
    """Bytes of ``raw`` up to a limit; the errors of decompression become those of the user's file."""

    def __init__(self, raw: IO[bytes] | Any, limit: int | None, path: Path) -> None:
        self._raw, self._left, self._limit, self._path = raw, limit, limit, path

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        try:
            block = self._raw.read(len(target))
        except (EOFError, zlib.error, OSError) as error:
            if self._path.suffix.lower() not in COMPRESSIONS:
                raise
            cause = "it is cut off" if isinstance(error, EOFError) or "Truncated" in str(error) else str(error)
            raise DataError(
                f"{self._path} could not be decompressed: {cause.splitlines()[0]}. Restore the file"
            ) from None
        target[: len(block)] = block
        if self._limit is not None and self._left is not None:
            self._left -= len(block)
            if self._left < 0:
                raise too_large(self._path, self._limit)
        return len(block)


@contextmanager
def _open_binary(path: Path) -> Iterator[IO[bytes] | Any]:
    """The bytes of a file, decompressed as its name ends."""
    compression = path.suffix.lower()
    with path.open("rb") as file:
        if compression not in COMPRESSIONS:
            yield file
            return
        if (start := file.read(4)) and not start.startswith(_MAGIC[compression]):
            raise DataError(f"{path} is not compressed as {compression}. Rename it, or compress it")
        file.seek(0)
        if compression == ".gz":
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked
        else:
            import pyarrow

            with pyarrow.input_stream(file, compression="zstd") as stream:
                yield stream


def _bad_bytes(path: Path, encoding: str) -> str:
    """The line for a file that is not in ``encoding``: where, and which encoding would do."""
    name = encoding.upper()
    decoder = codecs.getincrementaldecoder(encoding)()
    others = {other: codecs.getincrementaldecoder(other)() for other in _OTHER_ENCODINGS if other != encoding}
    position, line, fault, start = 0, 1, "", b""
    with _open_binary(path) as raw, closing(_Bounded(raw, None, path)) as bounded:
        stream = io.BufferedReader(bounded, _BLOCK)
        while not fault:
            block = stream.read(_BLOCK)
            start = start or block[:4]
            pending = decoder.getstate()[0]
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                if not block:
                    return f"{path}: must be {name}, but ends within a character (line {line}). Restore the file"
                within = max(error.start - len(pending), 0)
                position += error.start - len(pending)
                line += block.count(b"\n", 0, within)
                found = (pending + block)[error.start : error.start + 1]
                fault = f"found byte 0x{found.hex()} at position {position} (line {line})"
            except UnicodeError as error:  # such as a missing byte order mark
                fault = str(error)
            else:
                if not block:  # the file has changed since
                    fault = "the last character is incomplete"
                position += len(block)
                line += block.count(b"\n")
            for other in list(others):
                try:
                    others[other].decode(block)
                except UnicodeError:
                    del others[other]
    if start.startswith(_MAGIC[".gz"]) or start.startswith(_MAGIC[".zst"]):
        ending = ".gz" if start.startswith(_MAGIC[".gz"]) else ".zst"
        return f"{path}: must be {name}, {fault}. It is compressed: rename it to {path.name}{ending}"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        others = {"utf-16": decoder}
    fix = f"Try data.encoding={next(iter(others))}" if others else f"Save the file as {name}"
    return f"{path}: must be {name}, {fault}. {fix}"

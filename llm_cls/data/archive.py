"""The articles of a ``.tar.gz`` archive, read without unpacking, from a file that is not trusted.

``tarfile`` alone treats a truncated archive or a damaged header as the end, and reads headers of any size.
"""

import gzip
import io
import os
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from llm_cls.errors import DataError

MAX_TOTAL_BYTES = 2**28
_MAX_MEMBERS = 20_000
_MAX_MEMBER_BYTES = 2**20
_END_MARK = bytes(tarfile.BLOCKSIZE)


class _ForwardGzip(gzip.GzipFile):
    """A decompressed archive that is read forwards and in small pieces, because a tar header can claim any size."""

    last = b""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_MEMBER_BYTES + tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        self.last = super().read(size)
        return self.last

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        here = super().seek(0, io.SEEK_CUR)
        if whence == io.SEEK_CUR:  # tell() does so
            offset += here
        if not 0 <= offset - here <= _MAX_MEMBER_BYTES + tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"a header points from byte {here} to {offset}")
        return super().seek(offset)


def read_archive(path: Path) -> dict[str, bytes]:
    """The articles of an archive in the layout ``text/LABEL/FILE.txt``, by "LABEL/FILE.txt".

    Raises:
        DataError: The archive is damaged, has unexpected members, or is larger than the corpus can be.
    """
    files: dict[str, bytes] = {}
    total = 0
    try:
        with _ForwardGzip(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for count, member in enumerate(archive):
                total += max(0, member.size)
                too_much = max(total, stream.tell() // 2) > MAX_TOTAL_BYTES  # headers count, too
                if too_much or count >= _MAX_MEMBERS or member.size > _MAX_MEMBER_BYTES:
                    raise DataError(
                        f"{path}: it holds more or larger files than the corpus can have (at {member.name!r}). "
                        "Get the official archive"
                    )
                _check_member(path, member)
                parts = PurePosixPath(member.name).parts
                if not member.isfile() or len(parts) != 3 or parts[2] == "LICENSE.txt" or not parts[2].endswith(".txt"):
                    continue
                file = archive.extractfile(member)
                assert file is not None
                name = f"{parts[1]}/{parts[2]}"
                if name in files:
                    raise DataError(f"{path}: {member.name!r} occurs twice. Get the official archive")
                files[name] = file.read()
                if len(files[name]) != member.size:
                    raise tarfile.ReadError("unexpected end of data")
            if stream.last != _END_MARK:  # tarfile treats a damaged header as the end
                raise tarfile.ReadError("a header is damaged, or the end is missing")
            while stream.tell() <= MAX_TOTAL_BYTES and stream.read(1 << 16):
                pass  # the checksum of gzip comes last
    except (tarfile.TarError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not a complete .tar.gz archive: {str(error) or type(error).__name__}. "
            "Remove it and download it again"
        ) from None
    except OSError as error:
        if error.errno is not None:
            raise DataError(f"{path} could not be read: {os.strerror(error.errno)}") from None
        raise DataError(f"{path} is not a complete .tar.gz archive: {error}. Remove it and download it again") from None
    if not files:
        raise DataError(f"{path}: it has no articles (expected text/LABEL/FILE.txt). Get the official archive")
    return files


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    """Refuses members that the official archive does not have: links, devices, names outside its folder."""
    parts = PurePosixPath(member.name).parts
    if not member.name.isprintable():
        raise DataError(f"{path}: the name {member.name!r} has control characters. Get the official archive")
    if not (member.isfile() or member.isdir()):
        kind = "a link" if member.issym() or member.islnk() else "a special file"
        raise DataError(f"{path}: {member.name!r} is {kind}, expected files and folders only. Get the official archive")
    if not parts or parts[0] != "text" or ".." in parts:
        raise DataError(f"{path}: {member.name!r} lies outside the folder text/. Get the official archive")

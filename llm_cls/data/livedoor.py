"""The livedoor news corpus: 7,367 Japanese news articles in nine classes (RONDHUIT, CC BY-ND 2.1 JP)."""

import gzip
import hashlib
import io
import logging
import os
import tarfile
import unicodedata
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path, PurePosixPath

from filelock import FileLock

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import Corpus, Text
from llm_cls.data.download import download
from llm_cls.data.split import reference_split, split_texts
from llm_cls.errors import ConfigError, DataError

log = logging.getLogger(__name__)

# sha256 over the sorted "label/file\0" + sha256(file bytes) of all articles of the official archive.
OFFICIAL_DIGEST = "2e3468d1e4d4fa85db82272d5a3764e608ea7d1219ffb94030b40ab3355c9d53"
OFFICIAL_COUNTS = {
    "dokujo-tsushin": 870,
    "it-life-hack": 870,
    "kaden-channel": 864,
    "livedoor-homme": 511,
    "movie-enter": 870,
    "peachy": 842,
    "smax": 870,
    "sports-watch": 900,
    "topic-news": 770,
}
_MAX_MEMBERS = 20_000
_MAX_MEMBER_BYTES = 2**20
_MAX_TOTAL_BYTES = 2**28
_END_MARK = bytes(tarfile.BLOCKSIZE)
_SPACES = " \t\r\v\f\u3000"


def load_livedoor(config: DataConfig) -> Corpus:
    """Downloads the archive if need be, reads it and splits it.

    Raises:
        ConfigError: Neither an address nor a local archive is given.
        DataError: The archive can't be had, or is not the corpus.
    """
    if config.archive is not None:
        if not config.archive.is_file():
            raise DataError(f"data.archive={config.archive} is not a file. Give the path of the .tar.gz archive")
        files = read_archive(config.archive)
    else:
        files = _read_or_download(config)
    source = str(config.archive or config.url)
    texts = [_article(source, name, content) for name, content in files.items()]
    labels = tuple(sorted({text.label for text in texts}))
    if len(labels) < 2:
        raise DataError(
            f"{source}: it must hold articles of two labels at least, found {len(labels)}. Get the official archive"
        )
    digest = corpus_digest(files)
    splits = split_texts(texts, config, reference_split, source)
    _check_labels(texts, splits["train"], source)
    return Corpus("livedoor", labels, splits, digest, has_titles=True, warnings=_deviations(texts, digest))


def _check_labels(texts: list[Text], train: list[Text], source: str) -> None:
    """Refuses labels that can't be learnt and scored both; the split of the experiment is not stratified."""
    counts, learnt = Counter(text.label for text in texts), {text.label for text in train}
    for label, n in sorted(counts.items()):
        if n == 1 or label not in learnt:
            raise DataError(
                f"{source}: the label {label!r} has {n} article{'s' * (n > 1)}, too few for each of train, val and "
                "test. Get the official archive"
            )


def corpus_digest(files: dict[str, bytes]) -> str:
    """Hex sha256 of the articles' content, whatever the archive's own format."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()


def _deviations(texts: list[Text], digest: str) -> tuple[str, ...]:
    """What differs from the official corpus: usable, but other figures than the published ones."""
    counts = Counter(text.label for text in texts)
    warnings = [
        f"livedoor: {label} must have {OFFICIAL_COUNTS.get(label, 0)} articles, found {counts[label]}"
        for label in sorted(OFFICIAL_COUNTS.keys() | counts.keys())
        if counts[label] != OFFICIAL_COUNTS.get(label, 0)
    ]
    if digest != OFFICIAL_DIGEST:
        warnings.append(f"livedoor: the articles are not the official ones: digest {digest}")
    return tuple(warnings)


def _read_or_download(config: DataConfig) -> dict[str, bytes]:
    """The cached archive's articles; a broken copy is fetched again, once."""
    if not config.url:
        raise ConfigError("data.url is missing, and data.archive too. Try data.archive=PATH")
    path = config.cache_dir / "livedoor" / PurePosixPath(config.url).name
    if path.is_file():
        with suppress(DataError):  # looked into again below, where no other process can be at it
            return read_archive(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):  # several processes share one download
        if path.is_file():
            try:
                return read_archive(path)
            except DataError as error:
                log.warning("The archive in the cache is fetched again, because it is broken: %s", error)
                path.unlink()
        part = path.with_name(f"{path.name}.part")
        while True:
            resumed = part.exists()
            download(config.url, part, "data.archive=PATH")
            try:
                files = read_archive(part)
            except DataError:
                part.unlink()
                if not resumed:
                    raise
                continue  # what an earlier run had left may be of another version of the file
            part.replace(path)
            return files


class _ForwardGzip(gzip.GzipFile):
    """A decompressed archive that is read forwards and in small pieces: a tar header can claim any size."""

    last = b""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_MEMBER_BYTES + tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        self.last = super().read(size)
        return self.last

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        here = super().seek(0, io.SEEK_CUR)
        if whence == io.SEEK_CUR:  # which is how tell() asks
            offset += here
        if not 0 <= offset - here <= _MAX_MEMBER_BYTES + tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"a header points from byte {here} to {offset}")
        return super().seek(offset)


def read_archive(path: Path) -> dict[str, bytes]:
    """The articles of an archive by "label/file", read without unpacking anything to disk.

    Raises:
        DataError: It is damaged, has members that no corpus has, or is larger than a corpus can be.
    """
    files: dict[str, bytes] = {}
    total = 0
    try:
        with _ForwardGzip(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for count, member in enumerate(archive):
                total += max(0, member.size)
                too_much = max(total, stream.tell() // 2) > _MAX_TOTAL_BYTES  # headers take room, too
                if too_much or count >= _MAX_MEMBERS or member.size > _MAX_MEMBER_BYTES:
                    raise DataError(
                        f"{path}: more or larger files than the corpus can have (at {member.name!r}). "
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
            if stream.last != _END_MARK:  # tarfile takes a damaged header for the end
                raise tarfile.ReadError("a header is damaged, or the end is missing")
            while stream.tell() <= _MAX_TOTAL_BYTES and stream.read(1 << 16):
                pass  # gzip's checksum comes last
    except (tarfile.TarError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not a whole .tar.gz archive: {str(error) or type(error).__name__}. Remove it and fetch it again"
        ) from None
    except OSError as error:
        if error.errno is not None:
            raise DataError(f"{path} can't be read: {os.strerror(error.errno)}") from None
        raise DataError(f"{path} is not a whole .tar.gz archive: {error}. Remove it and fetch it again") from None
    if not files:
        raise DataError(f"{path}: no articles in it (expected text/LABEL/FILE.txt). Get the official archive")
    return files


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    """Refuses what the official archive hasn't: links, devices, names outside its folder."""
    parts = PurePosixPath(member.name).parts
    if not member.name.isprintable():
        raise DataError(f"{path}: the name {member.name!r} has control characters. Get the official archive")
    if not (member.isfile() or member.isdir()):
        kind = "a link" if member.issym() or member.islnk() else "a special file"
        raise DataError(f"{path}: {member.name!r} is {kind}, expected files and folders only. Get the official archive")
    if not parts or parts[0] != "text" or ".." in parts:
        raise DataError(f"{path}: {member.name!r} lies outside the folder text/. Get the official archive")


def _article(source: str, name: str, content: bytes) -> Text:
    """One file as a text: line 1 is the address, 2 the date, 3 the title, the rest the body."""
    try:
        lines = content.decode("utf-8").split("\n")  # splitlines() would also cut at other characters
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source}: {name}: must be UTF-8, found byte {content[error.start]:#04x} at position {error.start}. "
            "Get the official archive"
        ) from None
    title = _clean(lines[2]) if len(lines) > 2 else ""
    body = "\n".join(filter(None, map(_clean, lines[3:])))
    if not title and not body:
        raise DataError(
            f"{source}: {name}: the article is empty: expected address, date, title and body, found {len(lines)} "
            f"line{'s' * (len(lines) > 1)}. Get the official archive"
        )
    return Text(name.removesuffix(".txt"), name.partition("/")[0], title, body)


def _clean(line: str) -> str:
    return unicodedata.normalize("NFKC", line).strip(_SPACES)

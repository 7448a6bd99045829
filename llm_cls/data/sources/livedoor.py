"""The livedoor news corpus: 7,367 Japanese news articles in nine classes (RONDHUIT, CC BY-ND 2.1 JP)."""

import hashlib
import logging
import unicodedata
from collections import Counter
from contextlib import suppress
from pathlib import Path, PurePosixPath

from llm_cls.config.schema import DataConfig
from llm_cls.data.archive import MAX_TOTAL_BYTES, read_archive
from llm_cls.data.corpus import Corpus, Text
from llm_cls.data.download import Limits, download
from llm_cls.data.split import reference_split, split_texts
from llm_cls.errors import ConfigError, DataError
from llm_cls.locks import hold_file
from llm_cls.redaction import REDACTED, redact

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
_SPACES = " \t\r\v\f\u3000"


def load_livedoor(config: DataConfig) -> Corpus:
    """Downloads the archive if it is not cached, reads it and splits it.

    Raises:
        ConfigError: Neither a URL nor a local archive is given.
        DataError: The archive could not be downloaded or read, or is not the corpus.
        ResourceError: Another process, which may be stopped, does not end its download.
    """
    if config.archive is not None:
        if not config.archive.is_file():
            raise DataError(f"data.archive={config.archive} is not a file. Give the path of the .tar.gz archive")
        files = read_archive(config.archive)
    else:
        files = _read_or_download(config)
    source = str(config.archive or redact(config.url or ""))
    texts = [_article(source, name, content) for name, content in files.items()]
    labels = tuple(sorted({text.label for text in texts}))
    if len(labels) < 2:
        raise DataError(
            f"{source}: expected articles of at least two labels, found {len(labels)}. Get the official archive"
        )
    digest = corpus_digest(files)
    splits = split_texts(texts, config, reference_split, source)
    _check_labels(texts, splits["train"], source)
    return Corpus("livedoor", labels, splits, digest, has_titles=True, warnings=_deviations(texts, digest))


def _check_labels(texts: list[Text], train: list[Text], source: str) -> None:
    """Refuses labels that have too few articles, because the split of the experiment is not stratified."""
    counts, trained = Counter(text.label for text in texts), {text.label for text in train}
    for label, n in sorted(counts.items()):
        if n == 1 or label not in trained:
            raise DataError(
                f"{source}: the label {label!r} has {n} article{'s' * (n > 1)}, too few for each of train, val and "
                "test. Get the official archive"
            )


def corpus_digest(files: dict[str, bytes]) -> str:
    """Hex sha256 of the articles' names and content; it does not depend on the format of the archive."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()


def _deviations(texts: list[Text], digest: str) -> tuple[str, ...]:
    """The differences from the official corpus, with which the scores cannot be compared with the published ones."""
    counts = Counter(text.label for text in texts)
    warnings = [
        f"livedoor: expected {OFFICIAL_COUNTS.get(label, 0)} articles of {label}, found {counts[label]}"
        for label in sorted(OFFICIAL_COUNTS.keys() | counts.keys())
        if counts[label] != OFFICIAL_COUNTS.get(label, 0)
    ]
    if digest != OFFICIAL_DIGEST:
        warnings.append(f"livedoor: the articles differ from the official ones: digest {digest}")
    return tuple(warnings)


def cached_archive(config: DataConfig) -> Path:
    """Where the download of ``data.url`` is kept; the name does not depend on secrets."""
    return config.cache_dir / "livedoor" / PurePosixPath(redact(config.url or "")).name


def _read_or_download(config: DataConfig) -> dict[str, bytes]:
    """The articles of the cached archive, which is downloaded where it is missing or damaged."""
    if not config.url:
        raise ConfigError("data.url and data.archive are missing. Try data.archive=PATH")
    path = cached_archive(config)
    if path.is_file():
        with suppress(DataError):  # read once more below, under the lock
            return read_archive(path)
    if REDACTED in config.url:
        raise ConfigError(
            f"data.url={config.url} was stored without its password or token. Give the complete address, or "
            "data.archive=PATH"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    limits = Limits(config.download_timeout_seconds, config.download_stall_seconds, MAX_TOTAL_BYTES)
    lock = path.with_name(f"{path.name}.lock")  # several processes share one download
    with hold_file(lock, limits.total_seconds, "data.download_timeout_seconds", ", or set data.archive=PATH"):
        if path.is_file():
            try:
                return read_archive(path)
            except DataError as error:
                log.warning("The cached archive is damaged and is downloaded again: %s", error)
                path.unlink()
        part = path.with_name(f"{path.name}.part")
        while True:
            resumed = part.exists()
            download(config.url, part, limits, "data.archive=PATH")
            try:
                files = read_archive(part)
            except DataError:
                part.unlink()
                if not resumed:
                    raise
                continue  # the part of an earlier run may be of another version of the file
            part.replace(path)
            return files


def _article(source: str, name: str, content: bytes) -> Text:
    """One file as a text: line 1 is the URL, line 2 the date, line 3 the title, the rest the body."""
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
            f"{source}: {name}: the article is empty: expected URL, date, title and body, found {len(lines)} "
            f"line{'s' * (len(lines) > 1)}. Get the official archive"
        )
    return Text(name.removesuffix(".txt"), name.partition("/")[0], title, body)


def _clean(line: str) -> str:
    """``line`` in NFKC without spaces at its ends."""
    return unicodedata.normalize("NFKC", line).strip(_SPACES)

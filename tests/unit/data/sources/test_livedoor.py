"""The livedoor corpus: clean-up and split of the articles, and the cache of the archive."""

import gzip
import hashlib
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import SPLITS, Corpus, Text
from llm_cls.data.sources.livedoor import load_livedoor
from llm_cls.errors import ConfigError, DataError, ResourceError
from tests.unit.data.archives import ARTICLES, END, GOOD, member, tar
from tests.unit.data.server import Server


def load(path: Path) -> Corpus:
    return load_livedoor(DataConfig(name="livedoor", cache_dir=path.parent / "cache", archive=path))


def read(tmp_path: Path, members: bytes) -> Corpus:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(members + END, 1))
    return load(path)


def everything(corpus: Corpus) -> list[Text]:
    return sorted((t for s in SPLITS for t in corpus.splits[s]), key=lambda t: t.id)


def test_split_of_the_real_corpus(shared: Path) -> None:
    path = shared / "data" / "ldcc-20140209.tar.gz"
    corpus = load(path)
    with tarfile.open(path) as archive:
        names = sorted(n for n in archive.getnames() if n.count("/") == 2 and not n.endswith("LICENSE.txt"))
    random.Random(42).shuffle(names)
    ids = [name.removeprefix("text/").removesuffix(".txt") for name in names]
    assert [[t.id for t in corpus.splits[s]] for s in SPLITS] == [ids[:5895], ids[5895:6631], ids[6631:]]
    assert [len(corpus.splits[s]) for s in SPLITS] == [5895, 736, 736]
    assert corpus.digest == "2e3468d1e4d4fa85db82272d5a3764e608ea7d1219ffb94030b40ab3355c9d53"
    assert corpus.warnings == () and len(corpus.labels) == 9
    assert all(t.title and t.body and "\u3000" not in (t.title + t.body)[:1] for t in everything(corpus))


def test_clean_up(tmp_path: Path) -> None:
    lines = [
        "http://x",
        "2012",
        "\u3000 ﾀｲﾄﾙ\uff11\u3000\r",
        "\t\u3000",
        "",
        "\u3000Ａ\u2028Ｂ \u3000Ｃ\x0b",
        "①\u3000",
    ]
    corpus = read(tmp_path, GOOD + member("text/a/new.txt", "\n".join(lines).encode()))
    text = next(t for t in everything(corpus) if t.id == "a/new")
    assert (text.label, text.title, text.body) == ("a", "タイトル1", "A\u2028B  C\n1")


def test_order_of_the_archive_does_not_matter(tmp_path: Path) -> None:
    corpus = read(tmp_path, tar(dict(reversed(ARTICLES.items()))))
    assert [t.id for t in everything(corpus)] == [name[5:-4] for name in sorted(ARTICLES)]
    assert corpus.splits == read(tmp_path, GOOD).splits


def test_digest_and_warnings_of_another_corpus(tmp_path: Path) -> None:
    corpus = read(tmp_path, GOOD)
    digest = hashlib.sha256()
    for name in sorted(ARTICLES):
        digest.update(name.removeprefix("text/").encode() + b"\0" + hashlib.sha256(ARTICLES[name]).digest())
    assert corpus.digest == digest.hexdigest()
    assert sum(warning.startswith("livedoor: expected ") for warning in corpus.warnings) == 11
    assert any(corpus.digest in warning for warning in corpus.warnings)


@pytest.mark.parametrize(
    ("members", "part"),
    [
        (GOOD + member("text/a/x.txt", b"u\nd\nt\nab\xffc"), "a/x.txt: must be UTF-8, found byte 0xff at position 8"),
        (GOOD + member("text/a/x.txt", b"u\nd"), "a/x.txt: the article is empty"),
        (GOOD + member("text/a/x.txt", "u\nd\n　\n \n".encode()), "a/x.txt: the article is empty"),
        (GOOD + member("text/lonely/x.txt", b"u\nd\nt\nb"), "the label 'lonely' has 1 article, too few"),
        (member("text/a/1.txt", b"u\nd\nt"), "at least two labels, found 1"),
    ],
)
def test_refused_articles(tmp_path: Path, members: bytes, part: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, members)
    assert part in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize("archive", ["none.tar.gz", "."])
def test_archive_that_is_not_a_file(tmp_path: Path, archive: str) -> None:
    with pytest.raises(DataError, match=r"data\.archive=.* is not a file\. Give the path"):
        load(tmp_path / archive)


@pytest.fixture
def server(server: Server) -> Server:
    """The server of the data tests, with an archive of articles."""
    server.content = gzip.compress(GOOD + END)
    return server


def download(server: Server, folder: Path) -> Corpus:
    return load_livedoor(DataConfig(name="livedoor", cache_dir=folder, url=server.url))


def test_download_shows_its_progress(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert len(everything(download(server, tmp_path))) == 12
    shown = capfd.readouterr()
    assert "Downloading ldcc.tar.gz" in shown.err and "100%" in shown.err and shown.out == ""
    assert sorted(p.suffix for p in (tmp_path / "livedoor").iterdir()) in ([".gz"], [".gz", ".lock"])


def test_part_of_another_version_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "livedoor").mkdir()
    (tmp_path / "livedoor" / "ldcc.tar.gz.part").write_bytes(b"of another version")
    assert len(everything(download(server, tmp_path))) == 12
    assert server.ranges == ["bytes=18-", None]
    assert not list((tmp_path / "livedoor").glob("*.part"))


def test_damaged_download_is_not_kept(server: Server, tmp_path: Path) -> None:
    whole = server.content
    server.content = whole[:-8] + bytes(4) + whole[-4:]
    with pytest.raises(DataError, match="CRC check failed"):
        download(server, tmp_path)
    assert not [p for p in (tmp_path / "livedoor").iterdir() if p.suffix != ".lock"]
    server.content = whole
    assert len(everything(download(server, tmp_path))) == 12


def test_two_processes_share_one_download(server: Server, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from llm_cls.config.schema import DataConfig\n"
        "from llm_cls.data.sources.livedoor import load_livedoor\n"
        "config = DataConfig(name='livedoor', cache_dir=Path(sys.argv[1]), url=sys.argv[2])\n"
        "print(load_livedoor(config).digest)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), server.url]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(2)]
    digests = [process.communicate(timeout=120)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert digests[0] == digests[1] != "" and server.ranges == [None]


def test_a_stopped_holder_of_the_lock_is_not_waited_for_for_ever(server: Server, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from llm_cls.locks import hold_file\n"
        "with hold_file(Path(sys.argv[1]), 1, 'x'):\n"
        "    print('held', flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
    )
    lock = tmp_path / "livedoor" / "ldcc.tar.gz.lock"
    lock.parent.mkdir()
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout and holder.stdout.readline() == "held\n"
            config = DataConfig(name="livedoor", cache_dir=tmp_path, url=server.url, download_timeout_seconds=0.2)
            with pytest.raises(ResourceError) as caught:
                load_livedoor(config)
        finally:
            holder.kill()
    message = str(caught.value)
    assert caught.value.exit_code == 4 and str(lock) in message and "\n" not in message
    assert f"another process (pid {holder.pid}, which is stopped) and was not released" in message
    assert "data.download_timeout_seconds" in message and "data.archive=PATH" in message
    assert len(everything(download(server, tmp_path))) == 12, "the lock of a dead process is free"


def test_the_cache_does_not_depend_on_secrets(server: Server, tmp_path: Path) -> None:
    """A process that has only the stored address finds the download, but cannot repeat it."""
    address = server.url.replace("//", "//me:pw@")
    config = DataConfig(name="livedoor", cache_dir=tmp_path, url=f"{address}?token=abc")
    load_livedoor(config)
    stored = DataConfig(**config.model_dump(mode="json"))
    assert "REDACTED" in str(stored.url) and len(everything(load_livedoor(stored))) == 12
    assert len(server.ranges) == 1
    with pytest.raises(ConfigError, match="was stored without its password or token"):
        load_livedoor(stored.model_copy(update={"cache_dir": tmp_path / "other"}))


def test_damaged_cache_is_replaced(server: Server, tmp_path: Path) -> None:
    digest = download(server, tmp_path).digest
    cached = tmp_path / "livedoor" / "ldcc.tar.gz"
    cached.write_bytes(cached.read_bytes()[:100])
    assert download(server, tmp_path).digest == digest and len(server.ranges) == 2
    assert cached.read_bytes() == server.content


def test_cached_archive_needs_no_lock(server: Server, tmp_path: Path) -> None:
    """The ranks of a job read at the same time, and a cache may be read-only."""
    (tmp_path / "livedoor").mkdir()
    (tmp_path / "livedoor" / "ldcc.tar.gz").write_bytes(server.content)
    assert len(everything(download(server, tmp_path))) == 12
    assert [p.name for p in (tmp_path / "livedoor").iterdir()] == ["ldcc.tar.gz"] and server.ranges == []


def test_neither_url_nor_archive(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.url and data.archive are missing.*Try data.archive=PATH"):
        load_livedoor(DataConfig(name="livedoor", cache_dir=tmp_path))

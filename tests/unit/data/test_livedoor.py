"""The livedoor archive: what is read, what is refused, and how processes share one download."""

import gzip
import hashlib
import io
import random
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_cls.config.schema import DataConfig
from llm_cls.data import livedoor
from llm_cls.data.corpus import SPLITS, Corpus, Text
from llm_cls.errors import ConfigError, DataError
from tests.unit.data.test_download import Server

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
ARTICLES = {f"text/{label}/{label}-{i}.txt": f"u\nd\nt{i}\n{label}\n".encode() for label in "ab" for i in range(6)}


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    """Header and content of one member; the size may lie."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content) if size is None else size
    if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info.linkname = "/etc/passwd"
    return info.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape") + content + bytes(-len(content) % BLOCK)


def tar(members: dict[str, bytes]) -> bytes:
    return b"".join(member(name, content) for name, content in members.items())


GOOD = tar(ARTICLES)


def load(path: Path) -> Corpus:
    return livedoor.load_livedoor(DataConfig(name="livedoor", cache_dir=path.parent / "cache", archive=path))


def read(tmp_path: Path, members: bytes, end: bytes = END) -> Corpus:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(members + end, 1))
    return load(path)


def everything(corpus: Corpus) -> list[Text]:
    return sorted((t for s in SPLITS for t in corpus.splits[s]), key=lambda t: t.id)


def test_split_of_the_real_corpus(shared: Path) -> None:
    path = shared / "data" / "ldcc-20140209.tar.gz"
    before = path.stat().st_mtime_ns
    corpus = load(path)
    with tarfile.open(path) as archive:
        names = sorted(n for n in archive.getnames() if n.count("/") == 2 and not n.endswith("LICENSE.txt"))
    random.Random(42).shuffle(names)
    ids = [name.removeprefix("text/").removesuffix(".txt") for name in names]
    assert len(ids) == 7367
    assert [[t.id for t in corpus.splits[s]] for s in SPLITS] == [ids[:5895], ids[5895:6631], ids[6631:]]
    assert path.stat().st_mtime_ns == before


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


def test_what_is_read_and_what_is_left(tmp_path: Path) -> None:
    aside = {"text/README.txt": b"\xff", "text/CHANGES.txt": b"", "text/a/LICENSE.txt": b"", "text/a/x.html": b"\xff"}
    backwards = dict(reversed(ARTICLES.items()))
    folders = member("text/", kind=tarfile.DIRTYPE) + member("./text/a/", kind=tarfile.DIRTYPE)
    corpus = read(tmp_path, folders + tar(aside) + tar(backwards))
    assert [t.id for t in everything(corpus)] == [name[5:-4] for name in sorted(ARTICLES)]
    assert corpus.splits == read(tmp_path, GOOD).splits, "the order of the archive changes nothing"
    digest = hashlib.sha256()
    for name in sorted(ARTICLES):
        digest.update(name.removeprefix("text/").encode() + b"\0" + hashlib.sha256(ARTICLES[name]).digest())
    assert corpus.digest == digest.hexdigest()
    assert sum("articles, found" in warning for warning in corpus.warnings) == 11
    assert any(corpus.digest in warning for warning in corpus.warnings)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz"], "nothing is unpacked"


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        (member("../x.txt"), "'../x.txt' lies outside"),
        (member("/text/a/x.txt"), "'/text/a/x.txt' lies outside"),
        (member("text/a/../../x.txt"), "'text/a/../../x.txt' lies outside"),
        (member("other/a/x.txt"), "'other/a/x.txt' lies outside"),
        (member("text/a/x.txt", kind=tarfile.SYMTYPE), "'text/a/x.txt' is a link"),
        (member("text/a/x.txt", kind=tarfile.LNKTYPE), "'text/a/x.txt' is a link"),
        (member("text/a/x.txt", kind=tarfile.CHRTYPE), "'text/a/x.txt' is a special file"),
        (member("text/a/x.txt", kind=tarfile.FIFOTYPE), "'text/a/x.txt' is a special file"),
        (member("text/a/a-1.txt", b"u\nd\nt\nb"), "'text/a/a-1.txt' occurs twice"),
        (member("text/a/\x1b[31m\n.txt"), r"'text/a/\x1b[31m\n.txt' has control characters"),
        (member("text/a/\udcff.txt"), r"'text/a/\udcff.txt' has control characters"),
        (member("text/a/x.txt", b"u\nd\nt\nab\xffc"), "a/x.txt: must be UTF-8, found byte 0xff at position 8"),
        (member("text/a/x.txt", b"u\nd"), "a/x.txt: the article is empty"),
        (member("text/a/x.txt", "u\nd\n　\n \n".encode()), "a/x.txt: the article is empty"),
        (member("text/lonely/x.txt", b"u\nd\nt\nb"), "the label 'lonely' has 1 article, too few"),
        (member("text/a/x.txt", bytes(2**20 + 1)), "more or larger files"),
        (member("text/a/x.txt", size=2**40), "more or larger files"),
        (member("text/a/x.txt", size=-4096), "is not a whole .tar.gz archive"),
        (member("l", size=2**40, kind=tarfile.GNUTYPE_LONGNAME), "a header claims 1099511627776 bytes"),
        (member("p", size=2**40, kind=tarfile.XHDTYPE), "is not a whole .tar.gz archive: a header claims"),
        (member("l", kind=tarfile.GNUTYPE_LONGNAME) * 2000, "is not a whole .tar.gz archive"),
    ],
)
def test_refused_members(tmp_path: Path, extra: bytes, part: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, GOOD + extra)
    assert part in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("limit", "value"), [("_MAX_MEMBERS", 11), ("_MAX_TOTAL_BYTES", sum(map(len, ARTICLES.values())) - 1)]
)
def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    assert len(everything(read(tmp_path, GOOD))) == 12
    monkeypatch.setattr(livedoor, limit, value)
    with pytest.raises(DataError, match="more or larger files than the corpus can have"):
        read(tmp_path, GOOD)


@pytest.mark.parametrize(
    "members",
    [GOOD[:-100], GOOD[: 20 * BLOCK], GOOD[: 20 * BLOCK] + b"\1" * BLOCK + GOOD[21 * BLOCK :] + END],
    ids=["in an article", "between two articles", "damaged header"],
)
def test_tar_that_ends_early(tmp_path: Path, members: bytes) -> None:
    """tarfile takes each of these for a shorter archive."""
    with pytest.raises(DataError, match=r"is not a whole \.tar\.gz archive"):
        read(tmp_path, members, end=b"")


@pytest.mark.parametrize("cut", [1, 8, 9, 100])
def test_gzip_that_ends_early(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(GOOD + END)[:-cut])
    with pytest.raises(DataError, match=r"is not a whole \.tar\.gz archive"):
        load(path)


def test_checksum_of_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(GOOD + END)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(whole[:-8] + bytes(4) + whole[-4:])
    with pytest.raises(DataError, match="CRC check failed"):
        load(path)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"<html>404</html>", "is not a whole .tar.gz archive"),
        (GOOD + END, "is not a whole .tar.gz archive"),
        (b"", "is not a whole .tar.gz archive"),
        (gzip.compress(END), "no articles in it"),
        (gzip.compress(tar({"text/README.txt": b"x"}) + END), "no articles in it"),
        (gzip.compress(member("text/a/1.txt", b"u\nd\nt") + END), "two labels at least, found 1"),
    ],
    # Named, because gzip writes the time of day into its bytes, and every test process must find the same tests.
    ids=["page", "tar", "nothing", "no-files", "readme-alone", "one-label"],
)
def test_what_is_no_corpus(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(path)
    assert part in str(caught.value) and str(path) in str(caught.value)
    assert path.read_bytes() == content, "a local copy is left as it is"


def test_python_writes_and_we_read(tmp_path: Path) -> None:
    """Formats with long names and extended headers, as other programs write them."""
    name = f"text/b/{'長い名前' * 20}.txt"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=form) as archive:
            for path, content in (ARTICLES | {name: b"u\nd\nt\nb"}).items():
                info = tarfile.TarInfo(path)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        assert name[5:-4] in [t.id for t in everything(load(tmp_path / "a.tar.gz"))]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.content = gzip.compress(GOOD + END)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(server: Server, folder: Path) -> Corpus:
    return livedoor.load_livedoor(DataConfig(name="livedoor", cache_dir=folder, url=server.url))


def test_download_shows_its_progress(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert len(everything(fetch(server, tmp_path))) == 12
    shown = capfd.readouterr()
    assert "Fetching ldcc.tar.gz" in shown.err and "100%" in shown.err and shown.out == ""
    assert sorted(p.suffix for p in (tmp_path / "livedoor").iterdir()) in ([".gz"], [".gz", ".lock"])


def test_part_of_another_version_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "livedoor").mkdir()
    (tmp_path / "livedoor" / "ldcc.tar.gz.part").write_bytes(b"of another version")
    assert len(everything(fetch(server, tmp_path))) == 12
    assert server.ranges == ["bytes=18-", None]
    assert not list((tmp_path / "livedoor").glob("*.part"))


def test_damaged_download_is_not_kept(server: Server, tmp_path: Path) -> None:
    whole = server.content
    server.content = whole[:-8] + bytes(4) + whole[-4:]
    with pytest.raises(DataError, match="CRC check failed"):
        fetch(server, tmp_path)
    assert not [p for p in (tmp_path / "livedoor").iterdir() if p.suffix != ".lock"]
    server.content = whole
    assert len(everything(fetch(server, tmp_path))) == 12


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


def test_cached_archive_needs_no_lock(server: Server, tmp_path: Path) -> None:
    """The processes of a job read side by side, and a cache may be read-only."""
    (tmp_path / "livedoor").mkdir()
    (tmp_path / "livedoor" / "ldcc.tar.gz").write_bytes(server.content)
    assert len(everything(fetch(server, tmp_path))) == 12
    assert [p.name for p in (tmp_path / "livedoor").iterdir()] == ["ldcc.tar.gz"] and server.ranges == []


def test_neither_address_nor_archive(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.url is missing.*Try data.archive=PATH"):
        livedoor.load_livedoor(DataConfig(name="livedoor", cache_dir=tmp_path))

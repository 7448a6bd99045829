"""Archives: the members that are read and those that are refused; truncated and damaged files."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from llm_cls.data import archive
from llm_cls.data.archive import read_archive
from llm_cls.errors import DataError
from tests.unit.data.archives import ARTICLES, BLOCK, END, GOOD, member, tar


def read(tmp_path: Path, members: bytes, end: bytes = END) -> dict[str, bytes]:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(members + end, 1))
    return read_archive(path)


def test_only_articles_are_read_and_nothing_is_unpacked(tmp_path: Path) -> None:
    others = {"text/README.txt": b"\xff", "text/CHANGES.txt": b"", "text/a/LICENSE.txt": b"", "text/a/x.html": b"\xff"}
    folders = member("text/", kind=tarfile.DIRTYPE) + member("./text/a/", kind=tarfile.DIRTYPE)
    found = read(tmp_path, folders + tar(others) + GOOD)
    assert found == {name.removeprefix("text/"): content for name, content in ARTICLES.items()}
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


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
        (member("text/a/x.txt", bytes(2**20 + 1)), "more or larger files"),
        (member("text/a/x.txt", size=2**40), "more or larger files"),
        (member("text/a/x.txt", size=-4096), "is not a complete .tar.gz archive"),
        (member("l", size=2**40, kind=tarfile.GNUTYPE_LONGNAME), "a header claims 1099511627776 bytes"),
        (member("p", size=2**40, kind=tarfile.XHDTYPE), "is not a complete .tar.gz archive: a header claims"),
        (member("l", kind=tarfile.GNUTYPE_LONGNAME) * 2000, "is not a complete .tar.gz archive"),
    ],
)
def test_refused_members(tmp_path: Path, extra: bytes, part: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, GOOD + extra)
    assert part in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("limit", "value"), [("_MAX_MEMBERS", 11), ("MAX_TOTAL_BYTES", sum(map(len, ARTICLES.values())) - 1)]
)
def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    assert len(read(tmp_path, GOOD)) == 12
    monkeypatch.setattr(archive, limit, value)
    with pytest.raises(DataError, match="more or larger files than the corpus can have"):
        read(tmp_path, GOOD)


@pytest.mark.parametrize(
    "members",
    [GOOD[:-100], GOOD[: 20 * BLOCK], GOOD[: 20 * BLOCK] + b"\1" * BLOCK + GOOD[21 * BLOCK :] + END],
    ids=["in an article", "between two articles", "damaged header"],
)
def test_tar_that_ends_early(tmp_path: Path, members: bytes) -> None:
    """tarfile itself reads each of these as a shorter archive."""
    with pytest.raises(DataError, match=r"is not a complete \.tar\.gz archive"):
        read(tmp_path, members, end=b"")


@pytest.mark.parametrize("cut", [1, 8, 9, 100])
def test_gzip_that_ends_early(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(GOOD + END)[:-cut])
    with pytest.raises(DataError, match=r"is not a complete \.tar\.gz archive"):
        read_archive(path)


def test_checksum_of_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(GOOD + END)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(whole[:-8] + bytes(4) + whole[-4:])
    with pytest.raises(DataError, match="CRC check failed"):
        read_archive(path)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"<html>404</html>", "is not a complete .tar.gz archive"),
        (GOOD + END, "is not a complete .tar.gz archive"),
        (b"", "is not a complete .tar.gz archive"),
        (gzip.compress(END), "it has no articles"),
        (gzip.compress(tar({"text/README.txt": b"x"}) + END), "it has no articles"),
    ],
    # Named, because gzip writes the time into its bytes, and parallel test processes must collect the same names.
    ids=["page", "tar", "nothing", "no-files", "readme-only"],
)
def test_file_that_is_not_an_archive_of_articles(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_archive(path)
    assert part in str(caught.value) and str(path) in str(caught.value)
    assert path.read_bytes() == content, "the file of the user is not changed"


def test_long_names(tmp_path: Path) -> None:
    """Both formats write them into extended headers, each in its own way."""
    name = f"text/b/{'長い名前' * 20}.txt"
    for layout in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=layout) as written:
            for path, content in (ARTICLES | {name: b"u\nd\nt\nb"}).items():
                info = tarfile.TarInfo(path)
                info.size = len(content)
                written.addfile(info, io.BytesIO(content))
        assert name.removeprefix("text/") in read_archive(tmp_path / "a.tar.gz")

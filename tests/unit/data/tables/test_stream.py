"""Compression, encodings and limits of table files."""

import gzip
from pathlib import Path

import pyarrow
import pytest

from llm_cls.data.rows import TableFormat, iter_rows, read_rows
from llm_cls.data.tables import stream
from llm_cls.errors import DataError

TEXT = "text,label\n" + "".join(f"吾輩は猫である {i},{'xy'[i % 2]}\n" for i in range(500))
ROWS = [{"text": f"吾輩は猫である {i}", "label": "xy"[i % 2]} for i in range(500)]


def packed(name: str, content: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(content)
    return bytes(pyarrow.compress(content, "zstd", asbytes=True)) if name.endswith(".zst") else content


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.CSV.ZST", "t.csv.zst"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp932", "euc_jp", "utf-16", "utf-16-be"])
def test_encodings_and_compressions(tmp_path: Path, name: str, encoding: str) -> None:
    path = write(tmp_path / name, packed(name.lower(), TEXT.encode(encoding)))
    assert read_rows(path, TableFormat(encoding=encoding)) == ROWS


def test_parts_that_were_compressed_one_by_one(tmp_path: Path) -> None:
    half = TEXT.index("猫である 300")
    for name in ("t.csv.gz", "t.csv.zst"):
        parts = [packed(name, part.encode()) for part in (TEXT[:half], TEXT[half:])]
        assert read_rows(write(tmp_path / name, b"".join(parts))) == ROWS


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for name in ("t.json", "t.jsonl"):
        for start in ("[", ""):
            content = f'\ufeff{start}{{"a": "b"}}{"]" if start else ""}'
            assert read_rows(write(tmp_path / name, content.encode())) == [{"a": "b"}]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("t.csv.gz", TEXT.encode(), "t.csv.gz is not compressed as .gz. Rename it, or compress it"),
        ("t.csv.zst", TEXT.encode(), "t.csv.zst is not compressed as .zst. Rename it, or compress it"),
        ("t.csv.gz", gzip.compress(TEXT.encode())[:-20], "could not be decompressed: it is cut off. Restore the file"),
        ("t.csv.gz", gzip.compress(TEXT.encode())[:-8] + b"12345678", "could not be decompressed: CRC check failed"),
        ("t.csv.zst", packed(".zst", TEXT.encode())[:-20], "could not be decompressed: it is cut off. Restore the"),
        ("t.csv.gz", gzip.compress(b"", mtime=0), "t.csv.gz has no rows"),
        ("t.csv", gzip.compress(TEXT.encode()), "It is compressed: rename it to t.csv.gz"),
        ("t.csv", TEXT.encode("cp932"), "found byte 0x8c at position 11 (line 2). Try data.encoding=cp932"),
        ("t.csv", TEXT.encode("euc_jp"), "Try data.encoding=euc_jp"),
        ("t.csv", TEXT.encode("utf-16"), "found byte 0xff at position 0 (line 1). Try data.encoding=utf-16"),
        ("t.csv", "text,label\nl'été à Nîmes,x\n".encode("cp1252"), "Try data.encoding=cp1252"),
        ("t.csv", TEXT.encode() + b"a\x81\xff\x81,x\n", "(line 502). Save the file as UTF-8"),
        ("t.csv", TEXT.encode() + "a,猫".encode()[:-1], "must be UTF-8, but ends within a character (line 502)."),
        ("t.csv.gz", gzip.compress(TEXT.encode("cp932")), "found byte 0x8c at position 11 (line 2). Try data"),
        ("t.jsonl", '{"text": "猫"}'.encode("cp932"), "must be UTF-8, found byte 0x94 at position 10 (line 1). Try"),
        ("t.csv", "text,label\na,b\n".encode("utf-16-le"), "line 1 has a NUL character at position 2. Remove it, or"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, part: str) -> None:
    with pytest.raises(DataError) as caught:
        read_rows(write(tmp_path / name, content))
    assert part in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value)


def test_utf_8_is_suggested_where_another_encoding_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must be CP932, .* \(line 2\)\. Try data\.encoding=utf-8$"):
        read_rows(write(tmp_path / "t.csv", "text,label\n文章,a\n".encode()), TableFormat(encoding="cp932"))


@pytest.mark.parametrize("where", [0, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20 + 7])
@pytest.mark.parametrize("encoding", ["utf-8", "cp932"])
def test_position_of_a_byte_in_any_block(tmp_path: Path, where: int, encoding: str) -> None:
    character = "猫".encode(encoding)
    wrong = b"\xff" if encoding == "utf-8" else b"\x81 "
    content = character * (where // len(character)) + b" " * (where % len(character)) + wrong + b"a" * 99
    with pytest.raises(DataError, match=rf"found byte 0x{wrong[:1].hex()} at position {where} \(line 1\)"):
        read_rows(write(tmp_path / "t.csv", content), TableFormat(encoding=encoding))


def test_a_bomb_is_refused_and_can_be_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "memory_limit", lambda: 2**17)
    monkeypatch.setattr("llm_cls.data.rows.memory_limit", lambda: 2**17)
    lines = "".join(f'{{"text": "{i}"}}\n' for i in range(10**4))
    for name in ("t.jsonl.gz", "t.jsonl.zst", "t.jsonl"):
        path = write(tmp_path / name, packed(name, lines.encode()))
        with pytest.raises(DataError, match=rf"{name}: must have at most 0\.0 GiB of text, as memory allows. Split"):
            read_rows(path)
        assert sum(map(len, iter_rows(path))) == 10**4
    path = write(tmp_path / "t.json.gz", gzip.compress(b"[" + b" " * 10**7))
    with pytest.raises(DataError, match="must have at most"):
        next(iter_rows(path))


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LONGEST", 1000)
    path = write(tmp_path / "t.csv.gz", gzip.compress(b"text,label\na,x\n" + b"b" * 2000))
    with pytest.raises(DataError, match="line 3 is longer than 1000 characters"):
        read_rows(path)

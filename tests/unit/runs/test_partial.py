"""An output in parts: what a kill leaves is continued, what belongs to something else is not."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from llm_cls.errors import LockedError
from llm_cls.runs import partial
from llm_cls.runs.partial import PartialFile

ORIGIN = {"run": ["a", None], "input": {"bytes": 3}, "command line": {"top_k": 1}}


@pytest.fixture(autouse=True)
def always_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "_SYNC_SECONDS", 0.0)


def killed(target: Path, *parts: bytes, origin: Any = ORIGIN) -> None:
    """Writes parts of one row each, and leaves all as a dead process does."""
    output = PartialFile(target, origin)
    for part in parts:
        output.append(part, 1)
    output._file.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rename(source: Path, target: Path) -> None:
    source.replace(target)


def test_an_output_in_one_go(tmp_path: Path) -> None:
    target = tmp_path / "new" / "newer" / "o.csv"
    output = PartialFile(target, ORIGIN)
    assert (output.rows, output.afresh) == (0, "") and not target.exists()
    output.append(b"header\n", 0)
    output.append(b"a\nb\n", 2)
    assert names(target.parent) == ["o.csv.journal", "o.csv.partial"] and output.rows == 2
    output.finish(rename)
    output.close()
    assert target.read_bytes() == b"header\na\nb\n" and names(target.parent) == ["o.csv"]


@pytest.mark.parametrize("torn", [b"", b'{"ro', b'{"rows": 3, "bytes": 9}'])
def test_a_killed_one_is_continued(tmp_path: Path, torn: bytes) -> None:
    target = tmp_path / "o.csv"
    killed(target, b"a\n", b"b\n")
    with (tmp_path / "o.csv.partial").open("ab") as file:
        file.write(b"half of")
    with (tmp_path / "o.csv.journal").open("ab") as file:
        file.write(torn)
    for last in (b"c\n", b"d\n"):
        output = PartialFile(target, ORIGIN)
        assert output.afresh == "" and output.rows == {b"c\n": 2, b"d\n": 3}[last]
        output.append(last, 1)
        if last == b"c\n":
            output._file.close()
    output.finish(rename)
    output.close()
    assert target.read_bytes() == b"a\nb\nc\nd\n" and names(tmp_path) == ["o.csv"]


@pytest.mark.parametrize("name", list(ORIGIN))
def test_another_origin_is_written_afresh(tmp_path: Path, name: str) -> None:
    target = tmp_path / "o.csv"
    killed(target, b"a\n", b"b\n")
    output = PartialFile(target, ORIGIN | {name: "other"})
    assert (output.rows, output.afresh) == (0, f"is of another {name}")
    output.append(b"c\n", 1)
    output.finish(rename)
    output.close()
    assert target.read_bytes() == b"c\n" and names(tmp_path) == ["o.csv"]


@pytest.mark.parametrize("damage", ["short", "no journal", "no partial", "binary", "empty", "list", "no rows"])
def test_a_damaged_beginning_is_discarded(tmp_path: Path, damage: str) -> None:
    target, journal, content = (tmp_path / f"o.csv{end}" for end in ("", ".journal", ".partial"))
    killed(target, b"a\n", b"b\n")
    first = journal.read_bytes().splitlines(keepends=True)[0]
    if damage == "short":
        os.truncate(content, 3)
    elif damage.startswith("no ") and damage != "no rows":
        {"no journal": journal, "no partial": content}[damage].unlink()
    else:
        new = {"binary": b"\xff\x00", "empty": b"", "list": b"[]\n", "no rows": first + b'{"rows": null}\n'}
        journal.write_bytes(new[damage])
    output = PartialFile(target, ORIGIN)
    assert output.rows == 0 and output.afresh == ("" if damage in ("no journal", "no partial") else "is damaged")
    output.append(b"c\n", 1)
    output.close()
    output = PartialFile(target, ORIGIN)
    assert output.rows == 1
    output.finish(rename)
    output.close()
    assert target.read_bytes() == b"c\n" and names(tmp_path) == ["o.csv"]


def test_a_command_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    output = PartialFile(tmp_path / "new" / "o.csv", ORIGIN)
    output.append(b"header\n", 0)
    output.close()
    assert names(tmp_path) == []


def test_one_process_at_a_time(tmp_path: Path) -> None:
    target = tmp_path / "o.csv"
    output = PartialFile(target, ORIGIN)
    with pytest.raises(LockedError, match=rf"o\.csv is being written by another process \(pid {os.getpid()}\)"):
        PartialFile(target, ORIGIN)
    output.append(b"a\n", 1)
    output.finish(rename)
    with pytest.raises(FileNotFoundError):
        (tmp_path / "o.csv.partial").stat()
    other = PartialFile(target, ORIGIN)  # the output is complete, so that it may be made again
    other.close()
    output.close()
    assert names(tmp_path) == ["o.csv"]


def test_a_full_disk_names_the_output_and_what_was_complete_remains(tmp_path: Path, monkeypatch: Any) -> None:
    target = tmp_path / "o.csv"
    output = PartialFile(target, ORIGIN)
    output.append(b"a\n", 1)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*o\.csv'"):
            output.append(b"b\n", 1)
        output.close()
    output = PartialFile(target, ORIGIN)
    assert output.rows == 1
    output.append(b"c\n", 1)
    output.finish(rename)
    output.close()
    assert target.read_bytes() == b"a\nc\n"
